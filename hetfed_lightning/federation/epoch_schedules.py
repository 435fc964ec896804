"""Schedulers that count rounds: stepped once a round, and caught up with where a checkpoint cut them off."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hetfed_lightning.federation.evaluation import validates_in
from hetfed_lightning.participants.participant import STUDENT

if TYPE_CHECKING:
    from hetfed_lightning.federation_view import FederationView


class EpochSchedules:
    """Steps of the participants' schedulers that count rounds.

    Attributes:
        rounds: Number of rounds for which they have stepped, or which they pass over.
    """

    def __init__(self) -> None:
        self.rounds = 0

    def begin(self, round_index: int) -> None:
        """Take a round for the first that schedulers count."""
        self.rounds = round_index

    def catch_up(self, federation: FederationView, round_index: int, before: dict[str, Any]) -> None:
        """Step for all rounds before a round that have not been counted.

        Args:
            federation: Federation in a fit.
            round_index: The round, from 0.
            before: Values logged before the checkpoint of a resumed run, by tag; some schedulers follow logged values.
        """
        while self.rounds < round_index:
            metrics = before | federation.trainer.callback_metrics
            for name, local in federation.local.items():
                if local.schedules and (name == STUDENT or federation[name].is_member(self.rounds)):
                    local.end_epoch(self.rounds, metrics, validated=validates_in(federation.trainer, self.rounds))
            self.rounds += 1
