"""Readers of data on disk or from a package, one file per format. Nothing is ever downloaded."""

from hetfed_lightning.data.sources.digits import load_digits_images
from hetfed_lightning.data.sources.idx import read_idx, read_idx_folder, read_idx_images
from hetfed_lightning.data.sources.image_and_genes import BayesAccuracy, Patients, SimulatedDisease
from hetfed_lightning.data.sources.image_folder import ImageFiles, read_image_folder
from hetfed_lightning.data.sources.npz import read_npz, read_npz_splits
from hetfed_lightning.data.sources.public import public_bytes, read_public
from hetfed_lightning.data.sources.table import Tables, read_table, read_tables

__all__ = [
    "BayesAccuracy",
    "ImageFiles",
    "Patients",
    "SimulatedDisease",
    "Tables",
    "load_digits_images",
    "public_bytes",
    "read_idx",
    "read_idx_folder",
    "read_idx_images",
    "read_image_folder",
    "read_npz",
    "read_npz_splits",
    "read_public",
    "read_table",
    "read_tables",
]
