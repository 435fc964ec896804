"""The seam between a method and whatever moves its messages: one process, ranks, or an engine between institutions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, Protocol

from torch import Tensor

if TYPE_CHECKING:
    from hetfed_lightning.federation.federation import Federation
    from hetfed_lightning.methods.context import Context


class Carrier(Protocol):
    """Messages of one method in a run, as the process sees them that trains the participants."""

    def prepare(self, federation: Federation) -> None:
        """Describe the participants, before training."""

    def open_round(self, federation: Federation, round_index: int) -> None:
        """Hand out what is current to newcomers."""

    def collect(self, federation: Federation, round_index: int, when: Literal["start", "end"]) -> None:
        """Gather the messages of the exchange at that moment, if there is one and it is due."""

    def combine(self, federation: Federation, round_index: int) -> None:
        """Make the results of the messages just collected, if there are any."""

    def hand_out(self, federation: Federation, round_index: int) -> None:
        """Hand the results just made to those they are for."""

    def context(self, federation: Federation, name: str) -> Context:
        """The method's side of one participant that is trained here."""

    def last(self, group: str) -> Mapping[str, Tensor]:
        """Tensors of a group's last result; empty before the first."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that is known here, for a checkpoint."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with a checkpoint's."""
