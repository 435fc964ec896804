"""The data of a federation: data modules, partitions, sources and loaders."""

from __future__ import annotations

from hetfed_lightning.data.cities import CarParksDataModule, CitiesDataModule
from hetfed_lightning.data.digits import DigitsDataModule
from hetfed_lightning.data.errors import DataError
from hetfed_lightning.data.examples import Converted, Examples
from hetfed_lightning.data.files import IDXDataModule, ImageFolderDataModule, NPZDataModule, TableDataModule
from hetfed_lightning.data.hospitals import HospitalsDataModule
from hetfed_lightning.data.image_and_genes import Hospital, ImageAndGenesDataModule
from hetfed_lightning.data.module import FederatedData, FederatedDataModule
from hetfed_lightning.data.partitioned import PartitionedDataModule, Pool
from hetfed_lightning.data.partitions import IID, Dirichlet, Natural, Partition, Pathological, QuantitySkew
from hetfed_lightning.data.public import PublicDataModule
from hetfed_lightning.data.site import SiteDataModule
from hetfed_lightning.data.sources.hospitals import HospitalInputs

__all__ = [
    "IID",
    "CarParksDataModule",
    "CitiesDataModule",
    "Converted",
    "DataError",
    "DigitsDataModule",
    "Dirichlet",
    "Examples",
    "FederatedData",
    "FederatedDataModule",
    "Hospital",
    "HospitalInputs",
    "HospitalsDataModule",
    "IDXDataModule",
    "ImageAndGenesDataModule",
    "ImageFolderDataModule",
    "NPZDataModule",
    "Natural",
    "Partition",
    "PartitionedDataModule",
    "Pathological",
    "Pool",
    "PublicDataModule",
    "QuantitySkew",
    "SiteDataModule",
    "TableDataModule",
]
