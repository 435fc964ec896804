"""The coordinator's half of averaging: groups from the sites' descriptions, and their shared states."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
from torch import Tensor

from hetfed_lightning.flower.protocol.description import Description, empty_state, parameters_of
from hetfed_lightning.methods.averaging.backbone_averaging import BackboneAveraging, Sent, means
from hetfed_lightning.methods.averaging.private_averaging import Calendar, PrivateAveraging
from hetfed_lightning.methods.averaging.private_checks import check_company
from hetfed_lightning.methods.averaging.sharing_groups import SharingGroup
from hetfed_lightning.metrics import payload_bytes

log = logging.getLogger(__name__)

States = Mapping[str, Mapping[int, Mapping[str, Tensor]]]
"""Tensors of a parameter's or buffer's shape that participants sent: by name, by place of the averaging callback, by
key."""


class GroupAveraging:
    """One averaging callback at the coordinator, which applies its rule, weights, bounds and server optimizer.

    Args:
        place: Place of the callback among those of the configuration.
        callback: The same class, made of the same configuration, as at the sites.
    """

    def __init__(self, place: int, callback: BackboneAveraging) -> None:
        self.place = place
        self.callback = callback
        self.fresh: set[str] = set()
        """Names of groups whose state is of the last completed round."""

    def arrange(self, descriptions: Mapping[str, Description], *, is_whole: bool = True) -> None:
        """Find the groups of known participants; groups that change keep their shared states.

        Args:
            descriptions: Descriptions by participant.
            is_whole: True if no participant is missing; otherwise the present ones may have nothing in common for now.

        Raises:
            ValueError: If no two participants share anything, or the rule needs more participants.
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
        """Keys that a participant shares with others."""
        return tuple(key for group in self.callback.groups if name in group for key in group.keys)

    def state_for(self, name: str, *, fresh: bool) -> dict[str, Tensor]:
        """Shared tensors of a participant's groups, of their parameters' shapes, by key.

        Args:
            name: Name of the participant.
            fresh: True for groups that averaged in the last round alone.
        """
        return {
            key: tensor
            for group in self.callback.groups
            if name in group and group in self.callback.shared and (group.name in self.fresh or not fresh)
            for key, tensor in self.callback.shared[group].items()
        }

    def without_start(self, names: Sequence[str]) -> dict[str, list[SharingGroup]]:
        """Groups without a common start yet, by the participant with whose weights they are to begin."""
        found: dict[str, list[SharingGroup]] = {}
        for group in self.callback.groups:
            members = [name for name in names if name in group]
            if self.callback.synchronise_start and group not in self.callback.shared and members:
                found.setdefault(members[0], []).append(group)
        return found

    def begin(self, group: SharingGroup, state: Mapping[str, Tensor]) -> None:
        """Set the start of a group to a participant's weights.

        Args:
            group: The group.
            state: Tensors of the parameters' shapes, by key.
        """
        self.callback.shared.begin(group, {key: state[key] for key in group.keys})

    def aggregate(
        self,
        round_index: int,
        states: States,
        expected: Sequence[str],
        descriptions: Mapping[str, Description],
    ) -> tuple[dict[str, float], int, int]:
        """Figures by tag, and bytes up and down, of averaging the states that were sent in each group.

        Args:
            round_index: The round that ends.
            states: States of participants that take part, in the order of the federation.
            expected: Names of participants that were asked for them.
            descriptions: Descriptions by participant.
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
        """Keys that are no buffers; for private averages, keys that a participant among ``asked`` trains."""
        if isinstance(self.callback, PrivateAveraging):
            return frozenset(key for name in asked for key in descriptions[name].trained)
        return parameters_of(descriptions[name] for name in group.members if name in descriptions)

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
            calendar: Participants of each round.
            round_index: The first round.
            company: All callbacks of the configuration.
            count: Number of participants.

        Raises:
            ValueError: If it would; says why.
        """
        if isinstance(self.callback, PrivateAveraging):
            check_company(company, self.callback)
            self.callback.check_promise(count)
            self.callback.check_first(calendar, round_index)

    def is_spent(self, calendar: Calendar, round_index: int) -> bool:
        """True if averaging once more would exceed the budget of private averages, which is then logged.

        Args:
            calendar: Participants of each round.
            round_index: The round that ends.
        """
        return isinstance(self.callback, PrivateAveraging) and self.callback.is_spent(calendar, round_index)

    # Resuming

    def state_dict(self) -> dict[str, Any]:
        """State of the callback, with the members and keys of its groups."""
        groups = [[list(group.members), list(group.keys)] for group in self.callback.groups]
        return {"callback": self.callback.state_dict(), "groups": groups, "fresh": sorted(self.fresh)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the result of :meth:`state_dict`; :meth:`arrange` follows."""
        self.callback.groups = [SharingGroup(tuple(members), tuple(keys)) for members, keys in state["groups"]]
        self.callback.load_state_dict(state["callback"])
        self.fresh = set(state["fresh"])


def _continues(group: SharingGroup, old: SharingGroup) -> bool:
    return set(group.keys) <= set(old.keys) and any(name in old for name in group.members)
