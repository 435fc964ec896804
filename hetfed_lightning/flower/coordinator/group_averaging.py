"""The coordinator's half of averaging: groups of what was described, and what they share."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
from torch import Tensor

from hetfed_lightning.callbacks.backbone_averaging import BackboneAveraging, Sent, means
from hetfed_lightning.callbacks.private_averaging import Calendar, PrivateAveraging
from hetfed_lightning.callbacks.private_checks import check_company
from hetfed_lightning.callbacks.sharing import SharingGroup
from hetfed_lightning.flower.protocol.description import Description, empty_state, parameters_of
from hetfed_lightning.metrics import payload_bytes

log = logging.getLogger(__name__)

States = Mapping[str, Mapping[int, Mapping[str, Tensor]]]
"""What participants sent: by name, by place of the averaging callback, by key."""


class GroupAveraging:
    """One averaging callback at the coordinator, which applies its rule, weights, bounds and server optimizer.

    Args:
        place: The callback's among those of the configuration.
        callback: The same class, made of the same configuration, as at the sites.
    """

    def __init__(self, place: int, callback: BackboneAveraging) -> None:
        self.place = place
        self.callback = callback
        self.fresh: set[str] = set()
        """Groups whose state is of the last round that ended."""

    def arrange(self, descriptions: Mapping[str, Description], *, is_whole: bool = True) -> None:
        """Find the groups of those who are known; where they change, what they share goes on.

        Args:
            descriptions: By participant.
            is_whole: Whether nobody is missing; if somebody is, those who are there may have nothing in common for now.

        Raises:
            ValueError: If nobody has anything in common, or the rule needs more participants.
        """
        before, state = self.callback.groups, self.callback.state_dict()
        try:
            self.callback.arrange(
                {name: empty_state(one.offered[self.place]) for name, one in descriptions.items()},
                {name: empty_state(one.personal) for name, one in descriptions.items()},
                {name: one.tied for name, one in descriptions.items()},
                {name: one.foundations.get(self.place, {}) for name, one in descriptions.items()},
            )
        except ValueError as error:
            if is_whole:
                raise
            self.callback.groups = before
            log.warning("For now nothing new is averaged, since not all sites are there: %s", error)
            return
        shared, servers, fresh = {}, {}, set()
        for group in self.callback.groups:
            kin = next((old for old in before if _continues(group, old) and old.name in state["shared"]), None)
            if kin is not None:
                shared[group.name] = {key: state["shared"][kin.name][key] for key in group.keys}
                if kin.name in state["servers"] and group.keys == kin.keys:
                    servers[group.name] = state["servers"][kin.name]
                if kin.name in self.fresh:
                    fresh.add(group.name)
        told = self.callback.state_dict()["foundations"]
        self.callback.load_state_dict(state | {"shared": shared, "servers": servers, "foundations": told})
        self.fresh = fresh

    def keys_of(self, name: str) -> tuple[str, ...]:
        """What a participant shares with somebody."""
        return tuple(key for group in self.callback.groups if name in group for key in group.keys)

    def state_for(self, name: str, *, fresh: bool) -> dict[str, Tensor]:
        """What a participant's groups share; if ``fresh``, of those alone that averaged in the last round."""
        return {
            key: tensor
            for group in self.callback.groups
            if name in group and group in self.callback.shared and (group.name in self.fresh or not fresh)
            for key, tensor in self.callback.shared[group].items()
        }

    def without_start(self, names: Sequence[str]) -> dict[str, list[SharingGroup]]:
        """Groups that have no common start yet, by the participant with whose weights they are to begin."""
        found: dict[str, list[SharingGroup]] = {}
        for group in self.callback.groups:
            members = [name for name in names if name in group]
            if self.callback.synchronise_start and group not in self.callback.shared and members:
                found.setdefault(members[0], []).append(group)
        return found

    def begin(self, group: SharingGroup, state: Mapping[str, Tensor]) -> None:
        """Take a participant's weights for a group's start."""
        self.callback.shared.begin(group, {key: state[key] for key in group.keys})

    def aggregate(
        self,
        round_index: int,
        states: States,
        expected: Sequence[str],
        descriptions: Mapping[str, Description],
    ) -> tuple[dict[str, float], int, int]:
        """Make each group's next shared state of what was sent.

        Args:
            round_index: The round that ends.
            states: Of those who take part, in the order of the federation.
            expected: Who was asked to.
            descriptions: By participant.

        Returns:
            Figures by tag, and bytes up and down.
        """
        self.fresh = set()
        figures: dict[str, list[float]] = {"clipped": [], "divergence": []}
        up = down = 0
        for group in self.callback.groups:
            senders = {name: one[self.place] for name, one in states.items() if name in group}
            if not any(name in descriptions for name in group.members):
                continue
            asked = tuple(name for name in expected if name in group)
            sent = Sent(
                round_index,
                {name: {key: state[key] for key in group.keys} for name, state in senders.items()},
                {name: descriptions[name].samples for name in senders},
                asked,
                self._parameters(group, asked, descriptions),
            )
            shared = self.callback.combine(group, sent, figures)
            if shared is not None:
                self.callback.shared.begin(group, shared)
                self.fresh.add(group.name)
                up += payload_bytes(shared) * len(senders)
                down += payload_bytes(shared) * len(asked)
        return means({key: values for key, values in figures.items() if values}) | self._spent(), up, down

    def _parameters(
        self, group: SharingGroup, asked: Sequence[str], descriptions: Mapping[str, Description]
    ) -> frozenset[str]:
        """Keys that are no buffers; where averages are private, what is trained by somebody who was asked."""
        if isinstance(self.callback, PrivateAveraging):
            return frozenset(key for name in asked for key in descriptions[name].trained)
        return parameters_of(descriptions[name] for name in group.members if name in descriptions)

    # Privacy

    @property
    def is_accounted(self) -> bool:
        """Whether averages are private, and each of them counts."""
        return isinstance(self.callback, PrivateAveraging)

    def _spent(self) -> dict[str, float]:
        return self.callback.figures() if isinstance(self.callback, PrivateAveraging) else {}

    def may_begin(self, calendar: Calendar, round_index: int, company: Sequence[L.Callback], count: int) -> None:
        """Refuse what would void a private average.

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
        """Whether averaging once more would exceed the budget of private averages; if so, that is said."""
        return isinstance(self.callback, PrivateAveraging) and self.callback.is_spent(calendar, round_index)

    # Resuming

    def state_dict(self) -> dict[str, Any]:
        """What the callback keeps, and whose it is."""
        groups = [[list(group.members), list(group.keys)] for group in self.callback.groups]
        return {"callback": self.callback.state_dict(), "groups": groups, "fresh": sorted(self.fresh)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on; :meth:`arrange` follows."""
        self.callback.groups = [SharingGroup(tuple(members), tuple(keys)) for members, keys in state["groups"]]
        self.callback.load_state_dict(state["callback"])
        self.fresh = set(state["fresh"])


def _continues(group: SharingGroup, old: SharingGroup) -> bool:
    return set(group.keys) <= set(old.keys) and any(name in old for name in group.members)
