"""Messages of one process, or of several ranks that train one federation: collected, combined, handed out at once."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from hetfed_lightning.methods.averaging.shared_states import SharedStates
from hetfed_lightning.methods.averaging.sharing_groups import SharingGroup
from hetfed_lightning.methods.messages import Message, PerParticipant
from hetfed_lightning.methods.method import Method
from hetfed_lightning.methods.participant_side import ParticipantSide
from hetfed_lightning.methods.server import Result, ServerSide, combine_seed
from hetfed_lightning.metrics import payload_bytes
from hetfed_lightning.seeding import seed_all

if TYPE_CHECKING:
    from hetfed_lightning.federation.federation import Federation
    from hetfed_lightning.methods.context import Context

log = logging.getLogger(__name__)


class LocalCarrier:
    """Both halves of one method where all participants are in one process, or divided over ranks.

    Every rank has the server's half and combines on equal input; each participant's half acts where it is hosted, and
    what it remembers is known to all ranks afterwards.

    Args:
        method: Whose messages it carries.
    """

    def __init__(self, method: Method) -> None:
        self.method = method
        self.server = ServerSide(method)
        self.participants = ParticipantSide(method, self.server.received_by)
        self._shared = SharedStates()
        self._asked: list[str] = []
        self._sent: dict[str, Message] = {}
        self._result: Result | None = None

    def prepare(self, federation: Federation) -> None:
        """Describe everyone and find the groups, before training."""
        names = list(federation.members())
        # On every rank for everyone: all of them have all data, and a layout on the device "meta" cannot travel.
        self.server.meet({name: self.participants.describe(federation, name) for name in names})
        for name in names:
            self.participants.rehearse(federation, name)

    def open_round(self, federation: Federation, round_index: int) -> None:
        """Hand newcomers what is current."""
        self.participants.forget({name for name, one in federation.members().items() if not _is_gone(one, round_index)})
        newcomers = [name for name in federation.newcomers(round_index) if self.server.received_by(name)]
        down = sum(payload_bytes(self.server.received_by(name)) for name in newcomers)
        federation.count_bytes(self.method.title, down=down)
        if newcomers:
            self._give(federation, newcomers)

    def collect(self, federation: Federation, round_index: int, when: Literal["start", "end"]) -> None:
        """Gather the messages of the exchange at that moment, if there is one and it is due."""
        for exchange in self.method.exchanges if self.method.is_due(round_index) else ():
            if exchange.when == when:
                sampled = exchange.who == "sampled"
                self._asked = federation.active_names(round_index) if sampled else federation.joined(round_index)
                self._sent = self._collect(federation, self._asked, when)

    def combine(self, federation: Federation, round_index: int) -> None:
        """Make the result of the messages just collected, equal on all ranks."""
        sent, self._sent = self._sent, {}
        if sent:
            seed_all(combine_seed(federation.seed, self.method, round_index), federation.device)
            self._result = self._combine(federation, sent, self._asked, round_index)

    def hand_out(self, federation: Federation, round_index: int) -> None:
        """Hand the result just made to those it is for who have joined."""
        result, self._result = self._result, None
        if result is None:
            return
        reached = [
            name
            for name in federation.joined(round_index)
            if any(result.is_for(name, group) for group in self.server.groups_of(name))
        ]
        down = sum(
            payload_bytes(self.server.memory[group].received_by(name))
            for name in reached
            if name in self._asked
            for group in self.server.groups_of(name)
            if result.is_for(name, group)
        )
        federation.count_bytes(self.method.title, down=down)
        for group, state in result.groups.items() if self.method.replaces_state else ():
            self._replace(federation, group, state, round_index)
        self._receive(federation, reached)
        if result.figures:
            federation.log_round({f"federation/{key}": value for key, value in result.figures.items()})
        if result.stop:
            federation.trainer.should_stop = True

    def _collect(self, federation: Federation, asked: Sequence[str], when: str) -> dict[str, Message]:
        """Usable messages by name; whose message is not finite is quarantined."""
        asked = [name for name in asked if name not in federation.guard.quarantined]
        if self.method.needs_steps and when == "end":
            trained = set(federation.active_names(federation.current_round))
            asked = [name for name in asked if name in trained and federation.local[name].landed]
        mine = {
            name: self.participants.send(federation, name, when=when) for name in filter(federation.ranks.hosts, asked)
        }
        sent: dict[str, Message] = {}
        for name, message in federation.ranks.gathered(mine, asked).items():
            if isinstance(message, str):
                federation.quarantine(name, message)
            else:
                sent[name] = {key: tensor.to(federation.device) for key, tensor in message.items()}
        up = sum(payload_bytes(message) for message in sent.values())
        federation.count_bytes(self.method.title, up=up)
        return sent

    def _combine(
        self, federation: Federation, sent: Mapping[str, Message], asked: Sequence[str], round_index: int
    ) -> Result:
        """The result, equal on all ranks."""
        if not self.method.once:
            return self.server.combine(sent, asked, round_index)
        mine: dict[str, Any] = {}
        if federation.trainer.is_global_zero:
            made = self.server.combine(sent, asked, round_index)
            mine = {"result": made, "memory": self.server.state_dict()}
        found = federation.ranks.gathered(mine, ["result", "memory"])
        if not federation.trainer.is_global_zero:
            about = self.server.about
            self.server.load_state_dict(found["memory"])
            self.server.about = about
        result: Result = found["result"]
        return result

    def _give(self, federation: Federation, names: Sequence[str]) -> None:
        """Hand the last results to those who join."""
        if self.method.replaces_state:
            for name in names:
                own = federation[name].state_dict(keep_vars=True)
                received = self.server.received_by(name)
                federation[name].load_state_of({key: one for key, one in received.items() if key in own})
        self._receive(federation, names)

    def _replace(self, federation: Federation, group: str, state: Message | PerParticipant, round_index: int) -> None:
        """Put a new result into the tensors of the same keys; into a loan of those who wait for their turn."""
        members = self.server.groups[group]
        if isinstance(state, PerParticipant):
            for name, own in state.items():
                federation[name].load_state_of(_held(federation, name, own))
            return
        held = _held(federation, members[0], state)
        self._shared.replace(federation, SharingGroup(members, tuple(held)), held, round_index)

    def _receive(self, federation: Federation, names: Sequence[str]) -> None:
        """Call ``receive`` where each participant is, and let all ranks know what came of it."""
        if type(self.method).receive is not Method.receive:
            for name in filter(federation.ranks.hosts, names):
                self.participants.receive(federation, name)
            federation.ranks.synchronise(names)
        self._share_memory(federation)

    def _share_memory(self, federation: Federation) -> None:
        names = list(federation.members())
        mine = {name: one for name, one in self.participants.memory.items() if one and federation.ranks.hosts(name)}
        self.participants.memory = federation.ranks.gathered(mine, names)

    def context(self, federation: Federation, name: str) -> Context:
        """The method's side of one participant."""
        return self.participants.context(federation, name)

    # Checkpoints

    def state_dict(self) -> dict[str, Any]:
        """Both halves, for a checkpoint."""
        return {"server": self.server.state_dict(), "memory": self.participants.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with a checkpoint's."""
        self.server.load_state_dict(state["server"])
        self.participants.load_state_dict(state["memory"])
        self._shared = SharedStates()


def _held(federation: Federation, name: str, state: Message) -> dict[str, Any]:
    """Entries of a result that the participant has tensors for."""
    own = federation[name].state_dict(keep_vars=True)
    return {key: tensor for key, tensor in state.items() if key in own}


def _is_gone(participant: Any, round_index: int) -> bool:
    return participant.leaves_at is not None and participant.leaves_at <= round_index
