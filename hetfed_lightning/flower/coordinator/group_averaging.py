"""The coordinator's half of averaging: groups from the sites' descriptions, and their shared states."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
from torch import Tensor

from hetfed_lightning.flower.protocol.description import Description, empty_state, parameters_of
from hetfed_lightning.methods.averaging.backbone_averaging import BackboneAveraging
from hetfed_lightning.methods.averaging.offers import offer
from hetfed_lightning.methods.averaging.private_averaging import Calendar, PrivateAveraging
from hetfed_lightning.methods.averaging.private_checks import check_company
from hetfed_lightning.methods.averaging.sharing_groups import SharingGroup
from hetfed_lightning.methods.messages import Message
from hetfed_lightning.methods.server import ServerSide
from hetfed_lightning.metrics import payload_bytes

log = logging.getLogger(__name__)

States = Mapping[str, Mapping[int, Mapping[str, Tensor]]]
"""Tensors that participants sent: by name, by place of the averaging callback, by key."""


class GroupAveraging:
    """One averaging callback at the coordinator: the server's half of the method.

    Args:
        place: The callback's among those of the configuration.
        callback: The same class, made of the same configuration, as at the sites.
    """

    def __init__(self, place: int, callback: BackboneAveraging) -> None:
        self.place = place
        self.callback = callback
        self.server = ServerSide(callback)
        self.fresh: set[str] = set()
        """Names of groups whose state is of the last completed round."""
        self._idle: set[str] = set()

    def arrange(self, descriptions: Mapping[str, Description], *, is_whole: bool = True) -> None:
        """Find the groups of those who are known; where they change, what they share goes on.

        Args:
            descriptions: By participant.
            is_whole: Whether nobody is missing; if somebody is, those who are there may have nothing in common for now.

        Raises:
            ValueError: If nobody has anything in common, or the rule needs more participants.
        """
        try:
            kin = self.server.meet(offers(descriptions, self.place))
        except ValueError as error:
            if is_whole:
                raise
            log.warning("For now nothing new is averaged, since not all sites are there: %s", error)
            return
        self.callback.tell(
            {name: empty_state(one.offered[self.place]) for name, one in descriptions.items()},
            {name: empty_state(one.personal) for name, one in descriptions.items()},
            {name: one.tied for name, one in descriptions.items()},
        )
        self.fresh = {group for group, old in kin.items() if old in self.fresh}

    def keys_of(self, name: str) -> tuple[str, ...]:
        """Keys that a participant shares with somebody."""
        return tuple(key for group in self.server.groups_of(name) for key in self.callback.sharing[group].keys)

    def state_for(self, name: str, *, fresh: bool) -> dict[str, Tensor]:
        """Tensors that a participant's groups share; if ``fresh``, of those alone that averaged in the last round."""
        return {
            key: tensor
            for group in self.server.groups_of(name)
            if group in self.fresh or not fresh
            for key, tensor in self.server.memory[group].last.items()
        }

    def stepped(self, changed: Mapping[str, bool]) -> list[str]:
        """Participants that have something to average; of each that has not, a warning says so once in a run.

        Args:
            changed: Whether an optimizer step of the round changed its weights, by participant.
        """
        for name, has_changed in changed.items():
            if not has_changed and name not in self._idle:
                self._idle.add(name)
                self.callback.warn_of_idle(name)
        return [name for name, has_changed in changed.items() if has_changed]

    def without_start(self, names: Sequence[str]) -> dict[str, list[SharingGroup]]:
        """Groups that have no common start yet, by the participant with whose weights they are to begin."""
        found: dict[str, list[SharingGroup]] = {}
        for group, memory in self.server.memory.items():
            members = [name for name in names if group in self.server.groups_of(name)]
            if self.callback.synchronise_start and not memory.last and members:
                found.setdefault(members[0], []).append(self.callback.sharing[group])
        return found

    def begin(self, group: SharingGroup, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Take a participant's weights for a group's start.

        Returns:
            What the group shares now.
        """
        self.server.memory[group.name].last = {key: state[key] for key in group.keys}
        return self.server.memory[group.name].last

    def aggregate(self, round_index: int, states: States, expected: Sequence[str]) -> tuple[dict[str, float], int, int]:
        """Make each group's next shared state of what was sent.

        Args:
            round_index: The round that ends.
            states: Of those who take part, in the order of the federation.
            expected: Who was asked to.

        Returns:
            Figures by tag, and bytes up and down.
        """
        sent = {name: one[self.place] for name, one in states.items() if self.place in one}
        result = self.server.combine(sent, expected, round_index)
        self.fresh = set(result.groups)
        up = down = 0
        for group in result.groups:
            size = payload_bytes(self.server.memory[group].last)
            up += size * sum(group in self.server.groups_of(name) for name in sent)
            down += size * sum(group in self.server.groups_of(name) for name in expected)
        figures = {f"federation/{key}": value for key, value in result.figures.items()}
        return figures | self._spent(), up, down

    # Privacy

    @property
    def is_accounted(self) -> bool:
        """True if averages are private, and each of them counts."""
        return isinstance(self.callback, PrivateAveraging)

    def _spent(self) -> dict[str, float]:
        return self.callback.figures() if isinstance(self.callback, PrivateAveraging) else {}

    def may_begin(self, calendar: Calendar, round_index: int, company: Sequence[L.Callback], count: int) -> None:
        """Refuse a run that would void the promise of private averages.

        Args:
            calendar: Who takes part when.
            round_index: The first round.
            company: All callbacks of the configuration.
            count: Of participants.

        Raises:
            ValueError: With the reason.
        """
        if isinstance(self.callback, PrivateAveraging):
            check_company(company, self.callback)
            self.callback.check_promise(count)
            self.callback.check_first(calendar, round_index)

    def is_spent(self, calendar: Calendar, round_index: int) -> bool:
        """True if averaging once more would exceed the budget of private averages, which is then logged."""
        return isinstance(self.callback, PrivateAveraging) and self.callback.is_spent(calendar, round_index)

    # Resuming

    def state_dict(self) -> dict[str, Any]:
        """Memory of the method's server, and which groups' states are new."""
        return {"callback": self.callback.with_memory(self.server), "fresh": sorted(self.fresh)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on; :meth:`arrange` follows."""
        self.callback.load_state_dict(state["callback"])
        self.server.load_state_dict(self.callback.memory_of(state["callback"])["server"])
        self.fresh = set(state["fresh"])


def offers(descriptions: Mapping[str, Description], place: int) -> dict[str, Message]:
    """Offers of sites to one averaging callback, by name, as they describe them."""
    parameters = parameters_of(descriptions.values())
    found: dict[str, Message] = {}
    for name, one in descriptions.items():
        trained = {key: key in one.trained for key in parameters}
        found[name] = offer(empty_state(one.offered[place]), trained, one.foundations.get(place, {}), one.samples)
    return found
