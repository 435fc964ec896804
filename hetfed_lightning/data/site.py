"""Data of one participant where it trains by itself, at its own site."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch.utils.data import Dataset

from hetfed_lightning.data.errors import DataError
from hetfed_lightning.data.module import FederatedData, FederatedDataModule
from hetfed_lightning.data.name_checks import did_you_mean
from hetfed_lightning.data.sources.public import read_public

ON_THE_WAY = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")


class SiteDataModule(FederatedDataModule):
    """One participant's sets of another data module, with the public and everyone's sets, equal to the example.

    Of a module that deals one pool out, or knows several institutions, the participant gets the share that it has where
    all of them train in one process. All other data is read for that and then dropped, so this is for trying a
    federation out. An institution gives a module that reads its own files, and no ``everyone``.

    Args:
        data: Data module of all participants, or of this one alone. Its batch sizes, workers and transforms hold here.
        participant: Name of the participant.
        everyone: Names of all participants, in the order in which they stand in the federation: data that is dealt out
            follows them. None where ``data`` is this participant's alone; the public set is then in a file.
        public: File of the public set (:func:`~hetfed_lightning.data.sources.public_bytes`); None takes that of
            ``data``, if that is everyone's.

    Raises:
        DataError: If ``participant`` is not among ``everyone``, or ``data`` changes batches on their way to the device;
            when loaded, if there is no training set for it.
    """

    def __init__(
        self,
        data: FederatedDataModule,
        participant: str,
        everyone: Sequence[str] | None = None,
        *,
        public: str | None = None,
    ) -> None:
        super().__init__(
            batch_size=data.batch_size,
            eval_batch_size=data.eval_batch_size,
            num_workers=data.num_workers,
            drop_last=data.drop_last,
            collate_fn=data.collate_fn,
            pin_memory=data.pin_memory,
            resident=data.resident,
        )
        for hook in ON_THE_WAY:
            if getattr(type(data), hook) is not getattr(FederatedDataModule, hook):
                raise DataError(
                    f"SiteDataModule: {type(data).__name__} has a {hook} of its own, which would not be called: change "
                    "inputs by Participant(transform=...) instead."
                )
        if everyone is not None and participant not in everyone:
            raise DataError(f"everyone: {participant!r} is not among {', '.join(everyone)}.")
        self.inner = data
        self.participant = participant
        self.everyone = None if everyone is None else tuple(everyone)
        self.public = public

    def prepare_data(self) -> None:
        """Prepare the data of the module inside."""
        self.inner.prepare_data()

    def load(self, participants: tuple[str, ...]) -> FederatedData:
        """Data sets of this participant, and those of everyone.

        Args:
            participants: Empty, or the name of this participant.

        Raises:
            DataError: If the federation has another participant, or there is no training set for this one.
        """
        if participants not in {(), (self.participant,)}:
            raise DataError(
                f"SiteDataModule: its data is that of {self.participant!r}, but the federation has "
                f"{', '.join(participants)}."
            )
        self.inner.learned = dict(self.learned)
        self.inner.replace_data(self.inner.load(self.everyone or (self.participant,)))
        whole = self.inner.data
        if self.participant not in whole.train:
            raise DataError(
                f"{type(self.inner).__name__} has no training set for {self.participant!r}"
                f"{did_you_mean(self.participant, whole.train)}."
            )
        self.inner._data = None  # Frees the data of the other participants.
        self.schemas = {name: one for name, one in self.inner.schemas.items() if name == self.participant}
        return FederatedData(
            self._own(whole.train),
            self._own(whole.val),
            self._own(whole.test),
            self._public(whole),
            whole.global_val,
            whole.global_test,
        )

    def _public(self, whole: FederatedData) -> Dataset[Any] | None:
        if self.public is not None:
            return read_public(self.public)
        return None if self.everyone is None else whole.public

    def _own(self, sets: Mapping[str, Dataset[Any]]) -> dict[str, Dataset[Any]]:
        return {self.participant: sets[self.participant]} if self.participant in sets else {}
