"""Carrier of a method at its site: results come with orders, messages leave with replies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from hetfed_lightning.flower.protocol.orders import Order
from hetfed_lightning.methods.method import Method
from hetfed_lightning.methods.participant_side import ParticipantSide

if TYPE_CHECKING:
    import torch

    from hetfed_lightning.federation_view import FederationView
    from hetfed_lightning.methods.context import Context
    from hetfed_lightning.methods.messages import Message


class SiteCarrier:
    """The participant's half of one method, in a federation of one.

    Args:
        method: Its method, whose ``carrier`` it becomes.
        place: Place of the method among the callbacks.
        order: Order that is carried out.

    Attributes:
        sent: Message that was asked for, or the reason for which it cannot be used; None without one.
    """

    def __init__(self, method: Method, place: int, order: Order) -> None:
        self.method, self._place, self._order = method, place, order
        self.received: dict[str, Tensor] = {}
        self.participants = ParticipantSide(method, lambda _: self.received)
        self.sent: dict[str, Tensor] | str | None = None
        method.carrier = self

    @property
    def is_pending(self) -> bool:
        """False; what comes with an order is handed out with it."""
        return False

    def prepare(self, federation: FederationView) -> None:
        """Bring what was saved to the device."""
        self.to(federation.device)

    def to(self, device: torch.device) -> None:
        """Bring what was received and remembered to a device."""
        self.received = {key: one.to(device) for key, one in self.received.items()}
        self.participants.to(device)

    def open_round(self, federation: FederationView, round_index: int) -> None:
        """Receive what is handed out with an order that closes no round."""
        if self._order.finish is None:
            self.hand_out(federation, round_index)

    def collect(self, federation: FederationView, round_index: int, when: Literal["start", "end"]) -> None:
        """Make the message that the order asks for; of who has taken no step, only where the method needs none."""
        del round_index
        (name,) = federation.members()
        if self._place not in self._order.messages or name in federation.guard.quarantined:
            return
        if when == "end" and self.method.needs_steps and not federation.local[name].landed:
            return
        self.close_round()  # What the round's start brought was for the steps in between.
        if self.method.sends_state:
            self.send_state(federation)
        else:
            self.sent = self.participants.send(federation, name, when=when)

    def send_state(self, federation: FederationView) -> None:
        """Make the message of the state as it is, if the order asks for one."""
        (participant,) = federation.members().values()
        if self.method.sends_state and self._place in self._order.messages:
            self.sent = participant.state_of(self._order.messages[self._place])

    def combine(self, federation: FederationView, round_index: int) -> None:
        """Nothing: the coordinator does."""

    def hand_out(self, federation: FederationView, round_index: int) -> None:
        """Receive what is handed out with the order."""
        del round_index
        handed = self._order.shared.get(self._place)
        if handed is None:
            return
        (name,) = federation.members()
        here = {key: one.to(federation.device) for key, one in handed.items()}
        if self.method.replaces_state:
            federation[name].load_state_of(self.replaced(federation, here))
        self.take_up(federation)
        if type(self.method).receive is not Method.receive:
            self.participants.receive(federation, name)

    def take_up(self, federation: FederationView) -> None:
        """Hold what is handed out with the order as received, without doing anything with it yet."""
        handed = self._order.shared.get(self._place)
        if handed is not None and self.method.reads_received:
            here = {key: one.to(federation.device) for key, one in handed.items()}
            self.received = self.received | here if self._place in self._order.renewed else here

    def replaced(self, federation: FederationView, handed: Message) -> dict[str, Tensor]:
        """Tensors of a result that replace those of the participant."""
        (participant,) = federation.members().values()
        return {key: one for key, one in handed.items() if key in participant.state_dict(keep_vars=True)}

    def close_round(self) -> None:
        """Drop a result that is for its own round alone."""
        if not self.method.keeps_results:
            self.received = {}

    def note_scores(self, headlines: Mapping[str, str], values: Mapping[str, float]) -> None:
        """Nothing: the coordinator does."""

    def context(self, federation: FederationView, name: str) -> Context:
        """Context of the participant."""
        return self.participants.context(federation, name)

    def last(self, group: str) -> Mapping[str, Tensor]:
        """Tensors received, whatever the group: those of all groups of the participant."""
        del group
        return self.received

    def state_dict(self) -> dict[str, Any]:
        """Tensors received and remembered, for the site's state."""
        return {"received": dict(self.received), "memory": self.participants.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with those of a site's state."""
        self.received = dict(state["received"])
        self.participants.load_state_dict(state["memory"])
