"""The four hospitals of UCI Heart Disease, each with columns of its own."""

from __future__ import annotations

from hetfed_lightning.showcases.hospitals.data_module import HospitalsDataModule
from hetfed_lightning.showcases.hospitals.own_columns import OwnColumns
from hetfed_lightning.showcases.hospitals.patients import HospitalInputs

__all__ = ["HospitalInputs", "HospitalsDataModule", "OwnColumns"]
