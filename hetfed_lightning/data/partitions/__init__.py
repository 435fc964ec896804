"""Partitions: rules that deal one data set out to participants, one file each."""

from hetfed_lightning.data.partitions.dirichlet import Dirichlet
from hetfed_lightning.data.partitions.iid import IID
from hetfed_lightning.data.partitions.natural import Natural, natural_partition
from hetfed_lightning.data.partitions.partition import Partition
from hetfed_lightning.data.partitions.pathological import Pathological
from hetfed_lightning.data.partitions.quantity_skew import QuantitySkew

__all__ = ["IID", "Dirichlet", "Natural", "Partition", "Pathological", "QuantitySkew", "natural_partition"]
