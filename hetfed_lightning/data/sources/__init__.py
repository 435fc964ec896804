"""Readers of data on disk or from a package, one file per format. Nothing is ever downloaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hetfed_lightning._moved import names_moved_from
from hetfed_lightning.data.sources.encodings import Encodings
from hetfed_lightning.data.sources.idx import read_idx, read_idx_folder, read_idx_images
from hetfed_lightning.data.sources.image_folder import ImageFiles, read_image_folder
from hetfed_lightning.data.sources.npz import read_npz, read_npz_splits
from hetfed_lightning.data.sources.public import public_bytes, read_public
from hetfed_lightning.data.sources.table import Tables, read_queries, read_table, read_tables

if not TYPE_CHECKING:  # What has moved to the showcases is found by its old name.
    __getattr__ = names_moved_from(__name__)

__all__ = [
    "Encodings",
    "ImageFiles",
    "Tables",
    "public_bytes",
    "read_idx",
    "read_idx_folder",
    "read_idx_images",
    "read_image_folder",
    "read_npz",
    "read_npz_splits",
    "read_public",
    "read_queries",
    "read_table",
    "read_tables",
]
