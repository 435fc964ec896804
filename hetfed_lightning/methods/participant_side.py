"""Participants' half of a method, in the process or at the site that trains them: memory, messages, results."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hetfed_lightning.local_training.local_step import seed_for
from hetfed_lightning.methods.context import Context
from hetfed_lightning.methods.hook_results import keep_own, naming, read_only, tensors_by_key
from hetfed_lightning.methods.messages import Message, MessageError, Work
from hetfed_lightning.methods.method import Method
from hetfed_lightning.methods.participant_data import ParticipantData, PrivateExamplesError
from hetfed_lightning.methods.sender_checks import unchanged
from hetfed_lightning.seeding import streams_kept

if TYPE_CHECKING:
    from collections.abc import Callable

    from hetfed_lightning.federation_view import FederationView
    from hetfed_lightning.methods.public_outputs import PublicOutputs

log = logging.getLogger(__name__)

Layout = dict[str, tuple[tuple[int, ...], torch.dtype]]
"""Shape and dtype of each tensor of a message, by key."""


class ParticipantSide:
    """Participants' half of one method.

    Args:
        method: Method with the hooks ``describe``, ``send`` and ``receive``.
        received: Called with a participant's name, returns the tensors of the last result that reached it.
    """

    def __init__(self, method: Method, received: Callable[[str], Message]) -> None:
        self._method = method
        self.received = received
        self.memory: dict[str, dict[str, Tensor]] = {}
        self._layouts: dict[str, Layout] = {}

    def context(self, federation: FederationView, name: str) -> Context:
        """Context of one participant in the round in progress: received tensors, memory and modules.

        Args:
            federation: The federation, in a round.
            name: Name of the participant.
        """
        memory = self.memory.setdefault(name, {})
        participant = federation[name]
        modules = participant.modules_of(self._method.title)
        head = participant.head if self._method.needs_head else None
        return Context(self.received(name), memory, modules, federation.current_round, participant.task, head)

    def data_of(self, federation: FederationView, name: str, together: PublicOutputs | None = None) -> ParticipantData:
        """Training examples and public set of a participant, as the method may read them.

        Args:
            federation: The federation, in a fit.
            name: Name of the participant.
            together: Outputs on the public set of several participants, computed at once.
        """
        return ParticipantData(federation, federation[name], self._method.title, together)

    @torch.no_grad()
    def describe(self, federation: FederationView, name: str) -> Message:
        """Description of a participant, tensors by key.

        Args:
            federation: The federation, in a fit.
            name: Name of the participant.

        Raises:
            MessageError: If it is no mapping of tensors.
        """
        self._seed(federation, name, "describe")
        where = f"{federation[name].label}: {self._method.title}.describe"
        with naming(where):
            found = self._method.describe(federation[name], self.data_of(federation, name))
        return {key: tensor.detach() for key, tensor in tensors_by_key(found, where).items()}

    @torch.no_grad()
    def rehearse(self, federation: FederationView, name: str) -> None:
        """Call ``send`` and drop the message, to detect use of examples protected by DP-SGD before the first step.

        Args:
            federation: The federation, in a fit.
            name: Name of the participant.

        Raises:
            PrivateExamplesError: If it uses them; names the participant and the method.
        """
        if federation[name].privacy is None or not self._method.exchanges:
            return
        try:
            self._rehearsed(federation, name)
        except PrivateExamplesError:
            raise
        except Exception:
            log.debug("%s.send fails before the first round", self._method.title, exc_info=True)

    @torch.no_grad()
    def send(
        self, federation: FederationView, name: str, *, when: str, together: PublicOutputs | None = None
    ) -> dict[str, Tensor] | str:
        """Message of a participant by key, or the reason for which it cannot be used.

        Args:
            federation: The federation, in a round.
            name: Name of the sender.
            when: Moment of the exchange, ``"start"`` or ``"end"``.
            together: Outputs on the public set of several participants, computed at once.

        Raises:
            MessageError: If it is no mapping of tensors, or its layout differs from this participant's first message;
                or if ``send`` changes the participant.
        """
        local, data = federation.local[name], self.data_of(federation, name, together)
        has_trained = when == "end" and name in federation.active_names(federation.current_round)
        work = Work(*((local.landed, local.rates) if has_trained else (0, 0.0)), data.num_samples)
        self._seed(federation, name, f"send {when}")
        context, where = self.context(federation, name), self._where(federation, name)
        participant, is_first = federation[name], name not in self._layouts
        with (
            naming(where),
            read_only(context.received, "context.received", where),
            unchanged(participant, where, by_value=is_first),
        ):
            sent = self._method.send(participant, data, work, context)
        self._keep_memory(federation, name, where)
        message = self._checked(federation, name, self._taken(federation, name, sent))
        return self._method.fault_of(message, participant.task.kind) or message

    @torch.no_grad()
    def layout(self, federation: FederationView, name: str) -> dict[str, Tensor]:
        """Layout of a participant's messages, as tensors on the device ``"meta"``.

        Found by a rehearsal of ``send`` where the method does not say it; the message and changes of ``send`` to the
        memory are dropped.

        Args:
            federation: The federation, in a fit.
            name: Name of the sender.

        Raises:
            MessageError: If ``send`` returns no mapping of tensors.
        """
        with streams_kept(federation.device):
            told = self._method.message_layout(federation[name], self.data_of(federation, name))
            if told is not None:
                return tensors_by_key(told, f"{federation[name].label}: {self._method.title}.message_layout")
            message = self._taken(federation, name, self._rehearsed(federation, name))
        return {key: torch.empty_like(tensor, device="meta") for key, tensor in message.items()}

    def _rehearsed(self, federation: FederationView, name: str) -> Any:
        """What ``send`` gives after a step that nobody took, with a copy of the memory."""
        data, context = self.data_of(federation, name), self.context(federation, name)
        trial = replace(context, memory=dict(context.memory))
        self._seed(federation, name, "rehearsal")
        return self._method.send(federation[name], data, Work(1, 1.0, data.num_samples), trial)

    @torch.no_grad()
    def receive(self, federation: FederationView, name: str) -> None:
        """Hand the last result to one participant.

        Args:
            federation: The federation, in a round.
            name: Name of the receiver.
        """
        context, where = self.context(federation, name), self._where(federation, name, "receive")
        self._seed(federation, name, "receive")
        with naming(where), read_only(context.received, "its result", where):
            self._method.receive(federation[name], self.data_of(federation, name), context.received, context)
        self._keep_memory(federation, name, where)

    def _keep_memory(self, federation: FederationView, name: str, where: str) -> None:
        """Have a participant's memory hold tensors of its own."""
        if memory := self.memory[name]:
            keep_own(memory, {**self.received(name), **federation[name].view_of()}, where)

    def to(self, device: torch.device) -> None:
        """Bring what is remembered to a device: checkpoints are read on the CPU."""
        self.memory = {name: {key: one.to(device) for key, one in own.items()} for name, own in self.memory.items()}

    def forget(self, names: set[str]) -> None:
        """Drop the memory of all participants but ``names``."""
        for name in self.memory.keys() - names:
            del self.memory[name]

    def _where(self, federation: FederationView, name: str, hook: str = "send") -> str:
        return f"Round {federation.current_round}: {federation[name].label}: {self._method.title}.{hook}"

    def _taken(self, federation: FederationView, name: str, sent: Any) -> dict[str, Tensor]:
        """Copies of a message's tensors: a view of the participant's own would change with it."""
        where = self._where(federation, name)
        message = tensors_by_key(sent, where)
        for key, tensor in message.items():
            if tensor.is_meta:
                raise MessageError(f"{where}: expected numbers at {key}, got a layout on the device 'meta'.")
        return {key: tensor.detach().clone() for key, tensor in message.items()}

    def _checked(self, federation: FederationView, name: str, message: dict[str, Tensor]) -> dict[str, Tensor]:
        """A message, if it is of the layout of this participant's first."""
        layout: Layout = {key: (tuple(tensor.shape), tensor.dtype) for key, tensor in message.items()}
        first = self._layouts.setdefault(name, layout)
        if layout != first:
            key = next(key for key in first | layout if first.get(key) != layout.get(key))
            raise MessageError(
                f"{self._where(federation, name)}: expected {key} of {_said(first.get(key))} as in its first message, "
                f"got {_said(layout.get(key))}. Give tensors of one layout in every round; send zeros beside a count "
                "for what a participant does not have."
            )
        return message

    def _seed(self, federation: FederationView, name: str, event: str) -> None:
        seed_for(federation, federation[name], "method", self._method.state_key, event, federation.current_round, name)

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """Memory by participant and key, for a checkpoint."""
        return {name: dict(one) for name, one in self.memory.items() if one}

    def load_state_dict(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Continue from the memory in a checkpoint."""
        self.memory = {name: {key: tensor.clone() for key, tensor in one.items()} for name, one in state.items()}


def _said(layout: tuple[tuple[int, ...], torch.dtype] | None) -> str:
    return "nothing" if layout is None else f"shape {layout[0]} and {layout[1]}"
