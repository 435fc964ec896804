"""Data and modules of the showcases, which nothing else in the package imports."""

from __future__ import annotations

from hetfed_lightning.showcases.cities import CarParksDataModule, CitiesDataModule
from hetfed_lightning.showcases.digits import DigitsDataModule, load_digits_images
from hetfed_lightning.showcases.hospitals import HospitalInputs, HospitalsDataModule, OwnColumns
from hetfed_lightning.showcases.image_and_genes import (
    BayesAccuracy,
    GenericAndPersonal,
    Hospital,
    ImageAndGenesDataModule,
    Patients,
    PeakBackbone,
    SimulatedDisease,
)

__all__ = [
    "BayesAccuracy",
    "CarParksDataModule",
    "CitiesDataModule",
    "DigitsDataModule",
    "GenericAndPersonal",
    "Hospital",
    "HospitalInputs",
    "HospitalsDataModule",
    "ImageAndGenesDataModule",
    "OwnColumns",
    "Patients",
    "PeakBackbone",
    "SimulatedDisease",
    "load_digits_images",
]
