"""Handwritten digits from scikit-learn: real images that need no download."""

from __future__ import annotations

from typing import Any

from hetfed_lightning.data.partitioned import PartitionedDataModule, Pool
from hetfed_lightning.data.partitions import Partition
from hetfed_lightning.showcases.digits.images import load_digits_images


class DigitsDataModule(PartitionedDataModule):
    """1,797 digits as 1 x 28 x 28 images in [0, 1], dealt out by a partition.

    Args:
        partition: Partition of the samples; see :class:`PartitionedDataModule`.
        image_size: Rows and columns after resizing from 8 x 8.
        public_size: Examples of the public set.
        settings: As for :class:`PartitionedDataModule`.

    Reference:
        Alpaydin and Kaynak (1998), Optical Recognition of Handwritten Digits, UCI Machine Learning Repository.
    """

    def __init__(
        self,
        partition: Partition | None = None,
        *,
        image_size: int = 28,
        public_size: int = 300,
        **settings: Any,
    ) -> None:
        super().__init__(partition, public_size=public_size, **settings)
        self.image_size = image_size

    def load_pool(self) -> Pool:
        """Pool of the digits that come with scikit-learn."""
        return Pool(load_digits_images(self.image_size))
