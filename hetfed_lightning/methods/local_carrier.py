"""Transport of messages in one process, or over ranks of one federation: collected, combined, handed out at once."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from hetfed_lightning.methods.averaging.shared_states import SharedStates
from hetfed_lightning.methods.averaging.sharing_groups import SharingGroup
from hetfed_lightning.methods.descriptions import Interned
from hetfed_lightning.methods.messages import Message, PerParticipant, When
from hetfed_lightning.methods.method import Method, without_super
from hetfed_lightning.methods.participant_side import ParticipantSide
from hetfed_lightning.methods.public_outputs import PublicOutputs
from hetfed_lightning.methods.replaced import check_replaced
from hetfed_lightning.methods.server import Result, ServerSide, combine_seed
from hetfed_lightning.metrics import payload_bytes
from hetfed_lightning.participants.participant import STUDENT
from hetfed_lightning.seeding import seed_all

if TYPE_CHECKING:
    import torch

    from hetfed_lightning.federation_view import FederationView
    from hetfed_lightning.methods.context import Context

log = logging.getLogger(__name__)


class LocalCarrier:
    """Carrier of one method whose participants are all in one process, or divided over ranks.

    Every rank has the server's half and combines equal input. Each participant's half runs on the rank that hosts it,
    and its memory is copied to all ranks afterwards.

    Args:
        method: Method whose messages travel.
    """

    def __init__(self, method: Method) -> None:
        self.method = method
        self.server = ServerSide(method)
        self.participants = ParticipantSide(method, self._received_by)
        self.shared = SharedStates()
        self._idle: set[str] = set()
        self._is_prepared, self._is_spent, self._opened = False, False, -1
        self._when: When = "end"
        self._asked: list[str] = []
        self._sent: dict[str, Message] = {}
        self._result: Result | None = None

    @property
    def is_pending(self) -> bool:
        """True if there is a result that nobody has received."""
        return self._result is not None

    def _received_by(self, name: str) -> Message:
        """Last results of a participant's groups; of the student, which lives with the server, that of the only one."""
        return self.server.of_only_group() if name == STUDENT else self.server.received_by(name)

    def prepare(self, federation: FederationView) -> None:
        """Collect the descriptions of all participants and form the groups, before training."""
        self._is_prepared = True
        # On every rank for everyone: all of them have all data, and a layout on the device "meta" cannot travel.
        interned = Interned()
        self.server.meet(
            {name: interned.of(self.participants.describe(federation, name)) for name in federation.members()}
        )
        self.to(federation.device)
        for name in federation.members():
            if self.method.state_keys(name) is None:
                self.participants.rehearse(federation, name)

    def to(self, device: torch.device) -> None:
        """Bring everything received and remembered to a device.

        Args:
            device: Device of the participants.
        """
        self.server.to(device)
        self.participants.to(device)

    def open_round(self, federation: FederationView, round_index: int) -> None:
        """Hand the current results to newcomers; set groups to a common start.

        Args:
            federation: The federation, in a round.
            round_index: Index of the round, from 0.
        """
        self._opened = round_index
        if self.participants.memory:
            here = {name for name, one in federation.members().items() if not _has_left(one, round_index)}
            self.participants.forget(here)
        newcomers = federation.newcomers(round_index) if self.method.keeps_results else []
        federation.count_bytes(self.method.title)
        for group, memory in self.server.memory.items():
            if memory.last or memory.own:
                names = [name for name in newcomers if group in self.server.groups_of(name)]
                self._give(federation, group, names, round_index)
            elif self.method.synchronise_start:
                self._begin_alike(federation, group, round_index)
        self._receive(federation, [name for name in newcomers if self.server.received_by(name)])

    def collect(self, federation: FederationView, round_index: int, when: When) -> None:
        """Gather the messages of the exchange at a moment, if the method has one there and it is due.

        Args:
            federation: The federation, in a round.
            round_index: Index of the round, from 0.
            when: ``"start"`` or ``"end"`` of the round.
        """
        self._check_calls(when, round_index)
        self.server.drop_results()  # What the round's start brought was for the steps in between.
        self._when, self._asked, self._sent = when, [], {}
        asked = list(self.method.senders(when, round_index, self.server.about, federation))
        if asked and self.method.may_exchange(federation, round_index):
            self._asked = asked
            self._sent = self._collect(federation, asked, when)

    def combine(self, federation: FederationView, round_index: int) -> None:
        """Combine the messages just collected, with an equal result on all ranks.

        Args:
            federation: The federation, in a round.
            round_index: Index of the round, from 0.
        """
        sent = {name: one for name, one in self._sent.items() if name not in federation.guard.quarantined}
        self._sent = {}
        federation.count_bytes(self.method.title, up=sum(map(payload_bytes, sent.values())))
        self._result = None
        if self._asked and (sent or self.method.combines_silence):
            seed_all(combine_seed(federation.seed, self.method, round_index), federation.device)
            self._result = self._combine(federation, sent, self._asked, round_index)

    def hand_out(self, federation: FederationView, round_index: int) -> None:
        """Hand the new result to its receivers among the joined participants.

        Args:
            federation: The federation, in a round.
            round_index: Index of the round, from 0.
        """
        result, self._result = self._result, None
        self._is_spent |= result is not None and result.stop
        if self._is_spent and self._when == "end":  # Told to stop within a round, Lightning would break it off.
            federation.trainer.should_stop, self._is_spent = True, False
        if result is None:
            return
        joined, counted = federation.joined(round_index), set(self._asked)
        about, receivers = self.server.about, None
        if not self.method.keeps_results:
            receivers = self.method.receivers(self._when, round_index, about, federation)
        if receivers is not None:
            joined = [name for name in receivers if name not in federation.guard.quarantined]
            counted = set(joined)
        reached = {
            group: [name for name in joined if result.is_for(name, group) and group in self.server.groups_of(name)]
            for group in result.groups
        }
        down = sum(self.server.bytes_of(group, counted.intersection(names)) for group, names in reached.items())
        federation.count_bytes(self.method.title, down=down)
        for group, state in result.groups.items() if self.method.replaces_state else ():
            self._replace(federation, group, state, round_index)
        anyone = set().union(*reached.values())
        self._receive(federation, [name for name in joined if name in anyone])
        if result.figures:
            federation.log_figures(self.method, result.figures)

    def _check_calls(self, when: str, round_index: int) -> None:
        """Refuse methods whose overridden events have kept the round from the carrier."""
        missing = "prepare" if not self._is_prepared else ""
        if not missing and when == "start" and self._opened != round_index:
            missing = "on_round_start"
        if missing:
            raise RuntimeError(without_super(self.method, missing))

    def _collect(self, federation: FederationView, asked: Sequence[str], when: str) -> dict[str, Message]:
        """Usable messages by name; whose message is not finite is quarantined."""
        asked = [name for name in asked if name not in federation.guard.quarantined]
        if self.method.needs_steps and when == "end":
            trained = set(federation.active_names(federation.current_round))
            asked = [name for name in asked if name in trained]
            self._name_idle([name for name in asked if not federation.local[name].landed])
            asked = [name for name in asked if federation.local[name].landed]
        keys = {name: self.method.state_keys(name) for name in asked}
        sent = self._states(federation, {name: own for name, own in keys.items() if own is not None})
        made = [name for name in asked if keys[name] is None]
        if made:
            sent |= self._messages(federation, made, when)
        return {name: sent[name] for name in asked if name in sent}

    @staticmethod
    def _states(federation: FederationView, keys: Mapping[str, Sequence[str]]) -> dict[str, Message]:
        """Views of participants' states, which every rank has, those of equal keys at once."""
        alike: dict[tuple[str, ...], list[str]] = {}
        for name, own in keys.items():
            alike.setdefault(tuple(own), []).append(name)
        found: dict[str, Message] = {}
        for own_keys, names in alike.items():
            found |= federation.fleets.views(federation, names, own_keys)
        return found

    def _messages(self, federation: FederationView, names: Sequence[str], when: str) -> dict[str, Message]:
        """Messages that ``send`` makes where each participant is."""
        here = list(filter(federation.ranks.measures, names))  # One rank for each, also of a participant with replicas.
        together, memory = PublicOutputs(federation, here), self.participants.memory
        mine = {
            name: (self.participants.send(federation, name, when=when, together=together), memory.get(name))
            for name in here
        }
        sent: dict[str, Message] = {}
        for name, (message, remembered) in federation.ranks.gathered(mine, names).items():
            if remembered is not None:
                memory[name] = remembered
            if isinstance(message, str):
                federation.quarantine(name, message)
            else:
                sent[name] = {key: tensor.to(federation.device) for key, tensor in message.items()}
        return sent

    def _name_idle(self, names: Iterable[str]) -> None:
        """Say once in a run who took no step."""
        for name in names:
            if name not in self._idle:
                self._idle.add(name)
                self.method.warn_of_idle(name)

    def _combine(
        self, federation: FederationView, sent: Mapping[str, Message], asked: Sequence[str], round_index: int
    ) -> Result:
        """The result, equal on all ranks."""
        if not self.method.once or federation.trainer.world_size == 1:
            return self.server.combine(sent, asked, round_index)
        mine: dict[str, Any] = {}
        if federation.trainer.is_global_zero:
            made = self.server.combine(sent, asked, round_index)
            mine = {"result": made, "memory": self.server.state_dict()}
        found = federation.ranks.gathered(mine, ["result", "memory"])
        if not federation.trainer.is_global_zero:
            self.server.load_state_dict(found["memory"])
        result: Result = found["result"]
        return result

    def _replace(
        self, federation: FederationView, group: str, state: Message | PerParticipant, round_index: int
    ) -> None:
        """Put a new result into the tensors of the same keys; into a loan of those who wait for their turn."""
        where = f"Round {round_index}: {self.method.title}.combine"
        if isinstance(state, PerParticipant):
            for name, own in state.items():
                check_replaced(federation[name], own, where)
                federation[name].load_state_of(_held(federation, name, own))
            return
        check_replaced(federation[self.server.groups[group][0]], state, where)
        shared = self._sharing(federation, group)
        own = {key: state[key] for key in shared.keys}
        self.shared.replace(federation, shared, own, round_index, trains=self._when == "start")
        self.server.memory[group].last |= self.shared[shared]  # One copy: what is lent is the last result.

    def _sharing(self, federation: FederationView, group: str) -> SharingGroup:
        """The members of a group and the keys that are replaced, with the state of the last result."""
        members, last = self.server.groups[group], self.server.memory[group].last
        found = SharingGroup(members, tuple(_held(federation, members[0], last)))
        if found not in self.shared:
            self.shared.begin(found, {key: last[key] for key in found.keys})
        return found

    def _receive(self, federation: FederationView, names: Iterable[str]) -> None:
        """Call ``receive`` where each participant is, and let all ranks know what came of it."""
        if self.method.takes_over():
            reached = list(names)
            for name in filter(federation.ranks.hosts, reached):
                self.participants.receive(federation, name)
            federation.ranks.synchronise(reached)
        self._share_memory(federation)

    def _share_memory(self, federation: FederationView) -> None:
        if federation.trainer.world_size > 1:
            names = list(federation.members())
            mine = {name: one for name, one in self.participants.memory.items() if one and federation.ranks.hosts(name)}
            self.participants.memory = federation.ranks.gathered(mine, names)

    def close_round(self) -> None:
        """Drop results that are for their own round alone."""
        self.server.drop_results()

    def note_scores(self, headlines: Mapping[str, str], values: Mapping[str, float]) -> None:
        """Record validation scores for the server.

        Args:
            headlines: Name of the headline metric by participant.
            values: Metrics by tag, such as ``"val_accuracy/hospital_a"``.
        """
        self.server.note_scores(headlines, values)

    def context(self, federation: FederationView, name: str) -> Context:
        """Context of one participant: received tensors, memory and modules.

        Args:
            federation: The federation, in a round.
            name: Name of the participant.
        """
        return self.participants.context(federation, name)

    def last(self, group: str) -> Mapping[str, Tensor]:
        """Tensors by key of a group's last result; empty before the first."""
        return self.server.memory[group].last if group in self.server.memory else {}

    # As a round opens

    def _begin_alike(self, federation: FederationView, group: str, round_index: int) -> None:
        """Have all of a group who have joined begin with the state of the first."""
        names = [name for name in federation.joined(round_index) if group in self.server.groups_of(name)]
        keys = self.method.state_keys(names[0]) if names else None
        if not keys:
            return
        first = federation[names[0]].state_of(self.method.keys_of(group, keys))
        self.server.memory[group].last = first
        self._give(federation, group, names, round_index, sender=names[0])

    def _give(
        self, federation: FederationView, group: str, names: Sequence[str], round_index: int, *, sender: str = ""
    ) -> None:
        """Hand a group's last result to members as a round opens."""
        receivers = [name for name in names if name != sender]
        down = self.server.bytes_of(group, receivers)
        federation.count_bytes(self.method.title, down=down)
        if not self.method.replaces_state:
            return
        if self.server.memory[group].own:
            for name in receivers:
                own = _held(federation, name, self.server.memory[group].received_by(name))
                federation[name].load_state_of(own)
        elif names:
            shared = self._sharing(federation, group)
            self.shared.hand_out(federation, shared, names, round_index)
            self.server.memory[group].last |= self.shared[shared]

    # Checkpoints

    def state_dict(self) -> dict[str, Any]:
        """State of both halves, for a checkpoint."""
        state = {"server": self.server.state_dict(), "memory": self.participants.state_dict()}
        return state | ({"spent": True} if self._is_spent else {})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from the state of a checkpoint."""
        self.server.load_state_dict(state["server"])
        self.participants.load_state_dict(state["memory"])
        self._is_spent = state.get("spent", False)
        self.shared = SharedStates()


def _held(federation: FederationView, name: str, state: Message) -> dict[str, Any]:
    """Entries of a result that the participant has tensors for."""
    own = federation[name].state_dict(keep_vars=True)
    return {key: tensor for key, tensor in state.items() if key in own}


def _has_left(participant: Any, round_index: int) -> bool:
    return participant.leaves_at is not None and participant.leaves_at <= round_index
