"""Simulated hospitals whose patients have an image, a panel of genes, or both."""

from __future__ import annotations

from hetfed_lightning.showcases.image_and_genes.data_module import Hospital, ImageAndGenesDataModule
from hetfed_lightning.showcases.image_and_genes.generic_and_personal import GenericAndPersonal
from hetfed_lightning.showcases.image_and_genes.peaks import PeakBackbone
from hetfed_lightning.showcases.image_and_genes.simulated_disease import BayesAccuracy, Patients, SimulatedDisease

__all__ = [
    "BayesAccuracy",
    "GenericAndPersonal",
    "Hospital",
    "ImageAndGenesDataModule",
    "Patients",
    "PeakBackbone",
    "SimulatedDisease",
]
