"""Sites of a run: their descriptions, connections, and the rounds they joined in."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from hetfed_lightning.flower.coordinator.messenger import Messenger, Node
from hetfed_lightning.flower.coordinator.requests import Fault
from hetfed_lightning.flower.protocol.description import Description
from hetfed_lightning.flower.protocol.untrusted import NAME, one_line, shown
from hetfed_lightning.participants.participant import STUDENT

log = logging.getLogger(__name__)

_NAME = re.compile(r"[A-Za-z0-9_-]*[A-Za-z0-9][A-Za-z0-9_-]*", re.ASCII)

PATIENCE = 10.0
"""Seconds after which a node that could not describe itself is asked once more."""


class ConnectedSites:
    """The sites of a federation.

    A node stands for a participant if it was registered under the participant's name, or under none while no other node
    stands for it. Only one node stands for each.

    Args:
        expected: Names in the configuration, in the order of the federation; others are added as they come.
        messenger: Messenger that asks nodes.
        deadline: Seconds for a description.
        impossible: Function from a description to its contradiction, for which the site is turned away; empty for none.
    """

    def __init__(
        self,
        expected: Sequence[str],
        messenger: Messenger,
        deadline: float,
        impossible: Callable[[Description], str] = lambda _: "",
    ) -> None:
        self.order = list(expected)
        self.descriptions: dict[str, Description] = {}
        self.joined_at: dict[str, int] = {}
        self.connected: set[str] = set()
        self._messenger = messenger
        self._deadline = deadline
        self._impossible = impossible
        self._turned_away: dict[int, Node] = {}
        self._said: dict[int, str] = {}
        self._asked: dict[int, float] = {}

    def look(self, round_index: int) -> list[str]:
        """Names of sites that are new; connections are looked up, and new nodes asked for their descriptions.

        Args:
            round_index: The round about to begin, in which newcomers join.
        """
        online = self._messenger.online()
        known = {node: name for name, node in self._messenger.nodes.items() if name in self.descriptions}
        new = [node for node in online if node not in known and self._may_be_asked(node, online[node])]
        self.connected = {name for node, name in known.items() if node in online}
        return self._welcome(new, online, round_index) if new else []

    def _may_be_asked(self, number: int, node: Node) -> bool:
        """True unless the node was turned away and has not been restarted since, or failed to answer recently."""
        if self._turned_away.get(number) == node:
            return False
        return time.monotonic() - self._asked.get(number, -PATIENCE) >= PATIENCE

    def _welcome(self, numbers: Sequence[int], online: Mapping[int, Node], round_index: int) -> list[str]:
        found: list[str] = []
        self._asked |= dict.fromkeys(numbers, time.monotonic())
        for number, answer in self._messenger.describe(numbers, self._deadline).items():
            node = online[number]
            if isinstance(answer, Fault):
                who = node.registered or f"Node {number}"
                self._tell(number, f"{one_line(who, NAME)} does not describe itself: {answer.reason}.")
                continue
            name = answer.participant
            reason = self._objection(name, node.registered)
            if reason:
                self._tell(number, f"Node {number} is turned away: it claims to be {shown(name)}, but {reason}.")
                self._turned_away[number] = node
                continue
            if reason := self._impossible(answer):
                self._tell(
                    number,
                    f"{name} is turned away: it {one_line(reason)}. It is asked again once it was started again.",
                )
                self._turned_away[number] = node
                continue
            if name in self.descriptions and (entry := _changed(self.descriptions[name], answer)):
                self._tell(
                    number,
                    f"{name} is turned away: it tells of another {entry!r} than as it joined. End the run and resume "
                    "it, which has all sites describe themselves anew.",
                )
                self._turned_away[number] = node
                continue
            if name not in self.descriptions:
                found.append(name)
            if name not in self.order:
                self.order.append(name)
            self._messenger.nodes[name] = number
            self.descriptions[name] = answer
            self.connected.add(name)
            self.joined_at.setdefault(name, max(answer.joins_at, round_index))
        self.descriptions = {name: self.descriptions[name] for name in self.order if name in self.descriptions}
        return [name for name in self.order if name in found]

    def _tell(self, number: int, sentence: str) -> None:
        """Log a warning on a node, unless it is the same as the last one."""
        if self._said.get(number) != sentence:
            self._said[number] = sentence
            log.warning("%s", sentence)

    def _objection(self, name: str, registered: str) -> str:
        if not _NAME.fullmatch(name) or name == STUDENT:
            return "no participant may have that name"
        if registered and registered != name:
            return f"its key was registered for {registered!r}"
        if name in self.connected:
            return "another node that is connected is"
        return ""

    def forget(self, names: Sequence[str]) -> None:
        """Turn away sites that do not fit."""
        online = self._messenger.online()
        for name in names:
            number = self._messenger.nodes.pop(name)
            if number in online:
                self._turned_away[number] = online[number]
            del self.descriptions[name]
            self.joined_at.pop(name, None)
            self.connected.discard(name)

    def joined(self, round_index: int) -> list[str]:
        """Names of sites that have joined by a round and have not left, connected or not."""
        return [
            name
            for name, one in self.descriptions.items()
            if self.joined_at[name] <= round_index and one.is_member(round_index)
        ]

    def newcomers(self, round_index: int) -> list[str]:
        """Names of sites whose first round it is, later than the first of all."""
        return [name for name in self.joined(round_index) if self.joined_at[name] == round_index > 0]

    def state_dict(self) -> dict[str, Any]:
        """Order of the sites, and the round in which each joined."""
        return {"order": list(self.order), "joined_at": dict(self.joined_at)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the result of :meth:`state_dict`; all sites describe themselves again."""
        self.order = list(dict.fromkeys([*state["order"], *self.order]))
        self.joined_at = dict(state["joined_at"])


def _changed(before: Description, after: Description) -> str:
    """First differing entry of two descriptions of a site, among those that a round relies on; empty without one."""
    names = [one.name for one in fields(Description) if one.name not in {"role", "versions"}]
    return next((name for name in names if getattr(before, name) != getattr(after, name)), "")
