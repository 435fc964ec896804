"""Who is there: sites that have described themselves, those whose node is connected, and when each joined."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from hetfed_lightning.flower.description import Description
from hetfed_lightning.flower.exchange import Exchange, Fault
from hetfed_lightning.participant import STUDENT

log = logging.getLogger(__name__)


class Roll:
    """The sites of a federation.

    A node speaks for a participant if it was registered under the participant's name, or under none and nobody else
    speaks for it. One node alone speaks for each.

    Args:
        expected: Names of the configuration, in the order of the federation; others are added as they come.
        exchange: By which nodes are asked.
        deadline: Seconds for a description.
    """

    def __init__(self, expected: Sequence[str], exchange: Exchange, deadline: float) -> None:
        self.order = list(expected)
        self.descriptions: dict[str, Description] = {}
        self.joined_at: dict[str, int] = {}
        self.connected: set[str] = set()
        self._exchange = exchange
        self._deadline = deadline
        self._turned_away: set[int] = set()
        self._told: dict[int, str] = {}
        """What was last said of a node that does not describe itself: it is asked again and again."""

    def look(self, round_index: int) -> list[str]:
        """Find out who is connected, and have those describe themselves who are new.

        Args:
            round_index: The round about to begin, in which newcomers join.

        Returns:
            Names of those who were not known before.
        """
        online = self._exchange.online()
        known = {node: name for name, node in self._exchange.nodes.items() if name in self.descriptions}
        new = [node for node in online if node not in known and node not in self._turned_away]
        self.connected = {name for node, name in known.items() if node in online}
        return self._welcome(new, online, round_index) if new else []

    def _welcome(self, nodes: Sequence[int], online: Mapping[int, str], round_index: int) -> list[str]:
        found: list[str] = []
        for node, answer in self._exchange.describe(nodes, self._deadline).items():
            if isinstance(answer, Fault):
                if self._told.get(node) != answer.reason:
                    log.warning("Node %s (%s): %s.", node, online[node] or "without a name", answer.reason)
                self._told[node] = answer.reason
                continue
            name = answer.participant
            reason = self._objection(name, online[node])
            if reason:
                log.warning("Node %s is turned away: it claims to be %r, but %s.", node, name, reason)
                self._turned_away.add(node)
                continue
            if name not in self.descriptions:
                found.append(name)
            if name not in self.order:
                self.order.append(name)
            self._exchange.nodes[name] = node
            self.descriptions[name] = answer
            self.connected.add(name)
            self.joined_at.setdefault(name, max(answer.joins_at, round_index))
        self.descriptions = {name: self.descriptions[name] for name in self.order if name in self.descriptions}
        return [name for name in self.order if name in found]

    def _objection(self, name: str, registered: str) -> str:
        if not name.replace("_", "").replace("-", "").isalnum() or not name.isascii() or name == STUDENT:
            return "no participant may have that name"
        if registered and registered != name:
            return f"its key was registered for {registered!r}"
        if name in self.connected:
            return "another node that is connected is"
        return ""

    def forget(self, names: Sequence[str]) -> None:
        """Turn sites away that do not fit."""
        for name in names:
            self._turned_away.add(self._exchange.nodes.pop(name))
            del self.descriptions[name]
            self.joined_at.pop(name, None)
            self.connected.discard(name)

    def joined(self, round_index: int) -> list[str]:
        """Those who have joined by a round and have not left, connected or not."""
        return [
            name
            for name, one in self.descriptions.items()
            if self.joined_at[name] <= round_index and one.is_member(round_index)
        ]

    def newcomers(self, round_index: int) -> list[str]:
        """Those whose first round it is, later than the first of all."""
        return [name for name in self.joined(round_index) if self.joined_at[name] == round_index > 0]

    def state_dict(self) -> dict[str, Any]:
        """Who joined when, in order."""
        return {"order": list(self.order), "joined_at": dict(self.joined_at)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with it; everybody describes itself again."""
        self.order = list(dict.fromkeys([*state["order"], *self.order]))
        self.joined_at = dict(state["joined_at"])
