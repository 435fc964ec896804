"""The public set alone, for who has no data of its own."""

from __future__ import annotations

from typing import Any

from hetfed_lightning.data.module import FederatedData, FederatedDataModule
from hetfed_lightning.data.sources.public import read_public


class PublicDataModule(FederatedDataModule):
    """A public set and nobody's training data: what a unified student learns on where it stands alone.

    Args:
        path: File of the public set (:func:`~hetfed_lightning.data.sources.public_bytes`).
        settings: As for :class:`FederatedDataModule`.
    """

    def __init__(self, path: str, **settings: Any) -> None:
        super().__init__(**settings)
        self.path = path

    def load(self, participants: tuple[str, ...]) -> FederatedData:
        """Read the file."""
        del participants
        return FederatedData({}, public=read_public(self.path))
