"""Interface between a method and the transport of its messages: one process, ranks, or institutions over a network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, Protocol

from torch import Tensor

if TYPE_CHECKING:
    import torch

    from hetfed_lightning.federation_view import FederationView
    from hetfed_lightning.methods.context import Context


class Carrier(Protocol):
    """Transport of one method's messages in a run, seen from the process that trains the participants."""

    @property
    def is_pending(self) -> bool:
        """True if there is a result that :meth:`hand_out` has yet to hand out."""

    def prepare(self, federation: FederationView) -> None:
        """Collect the descriptions of all participants, before training."""

    def to(self, device: torch.device) -> None:
        """Bring everything received and remembered to a device.

        Args:
            device: Device of the participants.
        """

    def open_round(self, federation: FederationView, round_index: int) -> None:
        """Hand the current results to newcomers.

        Args:
            federation: The federation, in a round.
            round_index: Index of the round, from 0.
        """

    def collect(self, federation: FederationView, round_index: int, when: Literal["start", "end"]) -> None:
        """Gather the messages of the exchange at a moment, if the method has one there and it is due.

        Args:
            federation: The federation, in a round.
            round_index: Index of the round, from 0.
            when: ``"start"`` or ``"end"`` of the round.
        """

    def combine(self, federation: FederationView, round_index: int) -> None:
        """Combine the messages just collected, if there are any.

        Args:
            federation: The federation, in a round.
            round_index: Index of the round, from 0.
        """

    def hand_out(self, federation: FederationView, round_index: int) -> None:
        """Hand the new results to their receivers.

        Args:
            federation: The federation, in a round.
            round_index: Index of the round, from 0.
        """

    def close_round(self) -> None:
        """Drop results that are for their own round alone."""

    def note_scores(self, headlines: Mapping[str, str], values: Mapping[str, float]) -> None:
        """Record validation scores for the server.

        Args:
            headlines: Name of the headline metric by participant.
            values: Metrics by tag, such as ``"val_accuracy/hospital_a"``.
        """

    def context(self, federation: FederationView, name: str) -> Context:
        """Context of one participant trained in this process: received tensors, memory and modules.

        Args:
            federation: The federation, in a round.
            name: Name of the participant.
        """

    def last(self, group: str) -> Mapping[str, Tensor]:
        """Tensors by key of a group's last result; empty before the first."""

    def state_dict(self) -> dict[str, Any]:
        """State of everything known in this process, for a checkpoint."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from the state of a checkpoint."""
