"""The data of a federation: data modules, partitions, sources and loaders."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hetfed_lightning._moved import names_moved_from
from hetfed_lightning.data.errors import DataError
from hetfed_lightning.data.examples import Converted, Examples
from hetfed_lightning.data.files import (
    IDXDataModule,
    ImageFolderDataModule,
    NPZDataModule,
    SQLDataModule,
    TableDataModule,
)
from hetfed_lightning.data.module import FederatedData, FederatedDataModule
from hetfed_lightning.data.partitioned import PartitionedDataModule, Pool
from hetfed_lightning.data.partitions import IID, Dirichlet, Natural, Partition, Pathological, QuantitySkew
from hetfed_lightning.data.public import PublicDataModule
from hetfed_lightning.data.site import SiteDataModule

if not TYPE_CHECKING:  # What has moved to the showcases is found by its old name.
    __getattr__ = names_moved_from(__name__)

__all__ = [
    "IID",
    "Converted",
    "DataError",
    "Dirichlet",
    "Examples",
    "FederatedData",
    "FederatedDataModule",
    "IDXDataModule",
    "ImageFolderDataModule",
    "NPZDataModule",
    "Natural",
    "Partition",
    "PartitionedDataModule",
    "Pathological",
    "Pool",
    "PublicDataModule",
    "QuantitySkew",
    "SQLDataModule",
    "SiteDataModule",
    "TableDataModule",
]
