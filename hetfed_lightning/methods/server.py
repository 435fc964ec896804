"""Server's half of a method, wherever its participants are: descriptions, groups, results and memory."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor

from hetfed_lightning.finite import is_finite
from hetfed_lightning.methods.messages import Combined, Message, MessageError, PerParticipant
from hetfed_lightning.methods.server_memory import ServerMemory
from hetfed_lightning.metrics import payload_bytes
from hetfed_lightning.seeding import stream_seed

if TYPE_CHECKING:
    from hetfed_lightning.methods.method import Method


@dataclass(frozen=True)
class Result:
    """Results of a round's messages over all groups of a method.

    Attributes:
        groups: New result by group, tensors by key: one for all members, or one for each (:class:`PerParticipant`).
        figures: Means over the groups, by key.
        stop: True if training is to end.
    """

    groups: Mapping[str, Message | PerParticipant]
    figures: Mapping[str, float] = field(default_factory=dict)
    stop: bool = False

    def is_for(self, name: str, group: str) -> bool:
        """True if a group's result has a message for a member.

        Args:
            name: Name of the member.
            group: Name of the group.
        """
        state = self.groups.get(group)
        return state is not None and (not isinstance(state, PerParticipant) or name in state)


def combine_seed(seed: int, method: Method, round_index: int) -> int:
    """Seed of the draws of ``combine``, in [0, 2**63), equal wherever it runs.

    Args:
        seed: Seed of the federation.
        method: Method that combines.
        round_index: Index of the round, from 0.
    """
    return stream_seed(seed, "method", method.state_key, "combine", round_index)


class ServerSide:
    """Server's half of one method.

    Args:
        method: Method with the hooks ``groups`` and ``combine``.
    """

    def __init__(self, method: Method) -> None:
        self._method = method
        self.about: dict[str, Message] = {}
        self.groups: dict[str, tuple[str, ...]] = {}
        self.memory: dict[str, ServerMemory] = {}
        self._groups_of: dict[str, list[str]] = {}

    def meet(self, about: Mapping[str, Message]) -> dict[str, str]:
        """Set the descriptions of all known participants, and form the groups.

        A group continues with the memory of the group of its name before, or of one with a member in common, as the
        method's ``inherits`` decides.

        Args:
            about: Descriptions by name, in the order of the federation.

        Returns:
            Name of the earlier group whose memory each group continues with; new groups are left out.

        Raises:
            ValueError: If the method refuses the participants; nothing has changed then.
        """
        groups = {name: tuple(names) for name, names in self._method.groups(about).items()}
        before, members = self.memory, self.groups
        self.about, self.groups, self.memory = dict(about), groups, {}
        kin: dict[str, str] = {}
        for group, names in groups.items():
            own = set(names)
            relatives = [old for old in before if old != group and not own.isdisjoint(members.get(old, ()))]
            for old in [*([group] if group in before else []), *relatives]:
                found = self._method.inherits(group, before[old])
                if found is not None:
                    self.memory[group], kin[group] = found, old
                    break
            else:
                self.memory[group] = ServerMemory(group)
        self._index()
        return kin

    def _index(self) -> None:
        self._groups_of = {}
        for group, members in self.groups.items():
            for name in members:
                self._groups_of.setdefault(name, []).append(group)

    def groups_of(self, name: str) -> list[str]:
        """Names of the groups of a participant."""
        return self._groups_of.get(name, [])

    def received_by(self, name: str) -> Message:
        """Last results of all groups of a participant; empty before the first."""
        found: dict[str, Tensor] = {}
        for group in self.groups_of(name):
            found |= self.memory[group].received_by(name)
        return found

    def to(self, device: torch.device) -> None:
        """Bring results and what is remembered to a device: checkpoints are read on the CPU."""
        for own in self.memory.values():
            own.last = {key: one.to(device) for key, one in own.last.items()}
            own.own = {name: {key: one.to(device) for key, one in held.items()} for name, held in own.own.items()}
            own.tensors = move_data_to_device(own.tensors, device)

    def bytes_of(self, group: str, names: Collection[str]) -> int:
        """Bytes of a group's last result, summed over members; a result that they share is measured once.

        Args:
            group: Name of the group.
            names: Names of members, each once.
        """
        memory = self.memory[group]
        own = [memory.own[name] for name in names if name in memory.own]
        shared = len(names) - len(own)
        return sum(map(payload_bytes, own)) + (shared * payload_bytes(memory.last) if shared else 0)

    @torch.no_grad()
    def combine(self, sent: Mapping[str, Message], asked: Sequence[str], round_index: int) -> Result:
        """Results of a round's messages, also stored as the groups' last results.

        Args:
            sent: Checked messages by sender, in the order of the federation.
            asked: Names of all asked participants.
            round_index: Index of the round, from 0.

        Raises:
            MessageError: If ``combine`` returns no :class:`Combined` of tensors.
            RuntimeError: If it returns non-finite tensors.
        """
        results: dict[str, Message | PerParticipant] = {}
        figures: dict[str, list[float]] = {}
        stop = False
        for group, members in self.groups.items():
            messages = {name: one for name, one in sent.items() if group in self.groups_of(name)}
            own_asked = [name for name in asked if group in self.groups_of(name)]
            if not (messages or (own_asked and self._method.combines_silence)):
                continue
            about = {name: self.about[name] for name in members}
            combined = self._method.combine(messages, own_asked, about, self.memory[group], round_index)
            state = self._checked(combined, list(messages), round_index)
            stop |= combined.stop
            for key, value in combined.figures.items():
                figures.setdefault(key, []).extend(value if isinstance(value, Sequence) else [float(value)])
            if state is not None:
                results[group] = state
                self.remember(group, state)
        return Result(results, {key: sum(some) / len(some) for key, some in figures.items() if some}, stop)

    def remember(self, group: str, state: Message | PerParticipant) -> None:
        """Store a result as the last one of a group.

        Args:
            group: Name of the group.
            state: Tensors by key for all members, or a message for each.
        """
        memory = self.memory[group]
        if isinstance(state, PerParticipant):
            memory.own |= state
        else:
            memory.last = dict(state)

    def _checked(self, combined: Any, senders: Sequence[str], round_index: int) -> Message | PerParticipant | None:
        """Own copies of a result's tensors."""
        where = f"Round {round_index}: {self._method.title}.combine of {', '.join(senders)}"
        if not isinstance(combined, Combined):
            raise MessageError(f"{where}: expected a Combined, got {type(combined).__name__}.")
        if combined.state is None:
            return None
        if isinstance(combined.state, PerParticipant):
            return PerParticipant(
                {name: self._copied(one, f"{where}, for {name}") for name, one in combined.state.items()}
            )
        return self._copied(combined.state, where)

    @staticmethod
    def _copied(state: Message, where: str) -> dict[str, Tensor]:
        for key, tensor in state.items():
            if not isinstance(tensor, Tensor):
                raise MessageError(f"{where}: expected a tensor at {key}, got {type(tensor).__name__}.")
            if not is_finite([tensor]):
                raise RuntimeError(
                    f"{where}: the result is not finite at {key}, though what was sent is; nobody received it. Mend "
                    "combine, or lower its step."
                )
        return {key: tensor.detach().clone() for key, tensor in state.items()}

    def state_dict(self) -> dict[str, Any]:
        """Groups and their memory, for a checkpoint."""
        return {
            "groups": {name: list(members) for name, members in self.groups.items()},
            "memory": {name: one.state_dict() for name, one in self.memory.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from the state of a checkpoint; :meth:`meet` follows."""
        self.groups = {name: tuple(members) for name, members in state["groups"].items()}
        self.memory = {}
        for name, own in state["memory"].items():
            self.memory[name] = ServerMemory(name)
            self.memory[name].load_state_dict(own)
        self._index()
