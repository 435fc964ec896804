"""Server's half of a method, wherever its participants are: descriptions, groups, results and memory."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import torch
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor

from hetfed_lightning.logs.text import listed
from hetfed_lightning.methods.hook_results import naming, read_only
from hetfed_lightning.methods.messages import Message, PerParticipant
from hetfed_lightning.methods.method_hooks import NETWORK
from hetfed_lightning.methods.server_checks import check_alike, check_apart, checked_combined, checked_groups
from hetfed_lightning.methods.server_memory import ServerMemory
from hetfed_lightning.metrics import payload_bytes
from hetfed_lightning.seeding import stream_seed

if TYPE_CHECKING:
    from hetfed_lightning.methods.method import Method

log = logging.getLogger(__name__)


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
        self.scores: dict[str, float] = {}
        self._groups_of: dict[str, list[str]] = {}
        self._combinations: set[tuple[str, ...]] = set()
        self._told: set[str] = set()

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
            MessageError: If its ``groups`` returns anything but names of known participants by group.
        """
        title = self._method.title
        with naming(f"{title}.groups"):
            groups = checked_groups(self._method.groups(about), about.keys(), title)
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
        self._combinations = {tuple(groups) for groups in self._groups_of.values() if len(groups) > 1}

    def groups_of(self, name: str) -> list[str]:
        """Names of the groups of a participant."""
        return self._groups_of.get(name, [])

    def note_scores(self, headlines: Mapping[str, str], values: Mapping[str, float]) -> None:
        """Record each participant's validation score, clamped to [0, 1]; a missing or NaN score leaves the last one.

        It is that of its network, whose outputs are sent, also where a method's answer takes its place in evaluation.

        Args:
            headlines: Name of the headline metric by participant.
            values: Metrics by tag, such as ``"val_accuracy/hospital_a"``.
        """
        for name, headline in headlines.items():
            score = values.get(f"val_{headline}.{NETWORK}/{name}", values.get(f"val_{headline}/{name}"))
            if score is not None and score == score:  # noqa: PLR0124 - NaN where a metric could not be computed
                self.scores[name] = min(1.0, max(0.0, score))

    def drop_results(self) -> None:
        """Drop the last results of a method that keeps none from round to round."""
        for memory in () if self._method.keeps_results else self.memory.values():
            memory.last, memory.own = {}, {}

    def received_by(self, name: str) -> Message:
        """Last results of all groups of a participant; empty before the first."""
        found: dict[str, Tensor] = {}
        for group in self.groups_of(name):
            found |= self.memory[group].received_by(name)
        return found

    def of_only_group(self) -> Message:
        """Last result of the only group, tensors by key; empty without one, or with several groups.

        It is what the federation's student receives, which lives with the server and is no member of a group.
        """
        memory = list(self.memory.values())
        return memory[0].last if len(memory) == 1 else {}

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
            MessageError: If messages of a group differ in keys or dtypes, or ``combine`` returns no :class:`Combined`
                of tensors and numbers.
            RuntimeError: If it returns non-finite tensors.
        """
        results: dict[str, Message | PerParticipant] = {}
        figures: dict[str, list[float]] = {}
        stop = False
        self._tell_of_those_apart(sent, round_index)
        for group, members in self.groups.items():
            messages = {name: one for name, one in sent.items() if group in self.groups_of(name)}
            own_asked = [name for name in asked if group in self.groups_of(name)]
            if not (messages or (own_asked and self._method.combines_silence)):
                continue
            about = {name: self.about[name] for name in members}
            where = f"Round {round_index}: {self._method.title}.combine of {listed(list(messages)) or group}"
            # Whose messages are of several groups, as those of averages may be, has keys of all of them.
            alone = {name: one for name, one in messages.items() if len(self.groups_of(name)) == 1}
            self._tell(check_alike(alone, where))
            memory = self.memory[group]
            memory.scores = self.scores
            with naming(where), read_only(memory.last, "server.last", where):
                found = self._method.combine(messages, own_asked, about, memory, round_index)
            combined = checked_combined(found, members, where)
            stop |= combined.stop
            for key, values in combined.figures.items():
                figures.setdefault(key, []).extend(cast("list[float]", values))
            if combined.state is not None:
                results[group] = combined.state
                self.remember(group, combined.state)
        keys = {group: {*one.last, *(key for own in one.own.values() for key in own)}
                for group, one in self.memory.items()} if self._combinations else {}  # fmt: skip
        check_apart(keys, self._combinations, f"Round {round_index}: {self._method.title}.combine")
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
            memory.last, memory.own = dict(state), {}

    def _tell_of_those_apart(self, sent: Mapping[str, Message], round_index: int) -> None:
        names = [name for name, message in sent.items() if message and not self.groups_of(name)]
        if names:
            self._tell(
                f"Round {round_index}: {self._method.title}: what {listed(names)} sent is combined with nothing, since "
                "groups has no group of theirs."
            )

    def _tell(self, warning: str) -> None:
        """Warn, once of what is the same but for the round."""
        subject = warning.partition(": ")[2]
        if subject and subject not in self._told:
            self._told.add(subject)
            log.warning("%s", warning)

    def state_dict(self) -> dict[str, Any]:
        """Groups and their memory, for a checkpoint."""
        return {
            "groups": {name: list(members) for name, members in self.groups.items()},
            "memory": {name: one.state_dict() for name, one in self.memory.items()},
            "scores": dict(self.scores),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from the state of a checkpoint; :meth:`meet` follows."""
        self.groups = {name: tuple(members) for name, members in state["groups"].items()}
        self.scores = dict(state.get("scores", {}))  # Older checkpoints have none.
        self.memory = {}
        for name, own in state["memory"].items():
            self.memory[name] = ServerMemory(name)
            self.memory[name].load_state_dict(own)
        self._index()
