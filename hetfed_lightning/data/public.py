"""Data module with a public set alone, for a participant without data of its own."""

from __future__ import annotations

from typing import Any

from hetfed_lightning.data.module import FederatedData, FederatedDataModule
from hetfed_lightning.data.sources.public import read_public


class PublicDataModule(FederatedDataModule):
    """Public set without training data: a unified student that stands alone learns on it.

    Args:
        path: File of the public set (:func:`~hetfed_lightning.data.sources.public_bytes`).
        settings: As for :class:`FederatedDataModule`.
    """

    def __init__(self, path: str, **settings: Any) -> None:
        super().__init__(**settings)
        self.path = path

    def load(self, participants: tuple[str, ...]) -> FederatedData:
        """Data sets without participants: the public set of the file.

        Args:
            participants: Ignored.

        Raises:
            DataError: If the file is missing or damaged.
        """
        del participants
        return FederatedData({}, public=read_public(self.path))
