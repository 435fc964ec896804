"""The coordinator's half of a method: what sites have described and sent, results, and who has yet to receive them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from hetfed_lightning.flower.protocol.description import Description
from hetfed_lightning.flower.protocol.orders import Reply
from hetfed_lightning.methods.messages import Message
from hetfed_lightning.methods.method import Method
from hetfed_lightning.methods.server import ServerSide, combine_seed
from hetfed_lightning.metrics import payload_bytes
from hetfed_lightning.seeding import seed_all

log = logging.getLogger(__name__)

Moment = Literal["start", "end"]


class MethodRounds:
    """Rounds of one method at the coordinator.

    Args:
        place: Place of the method among the callbacks.
        method: Method, made of the same configuration as at the sites.
        seed: Seed of the federation.

    Attributes:
        waiting: Participants that the last result is for and who have yet to receive it.
        is_spent: True if a result has ended the training.
    """

    def __init__(self, place: int, method: Method, seed: int) -> None:
        self.place, self.method, self._seed = place, method, seed
        self.waiting: set[str] = set()
        self.is_spent = False
        self._server = ServerSide(method)
        self._up = self._down = 0

    def arrange(self, descriptions: Mapping[str, Description], *, is_whole: bool) -> None:
        """Find the groups of those who are known.

        Args:
            descriptions: Descriptions by participant.
            is_whole: True if nobody is missing; while somebody is, those who are there may not be enough.

        Raises:
            Exception: That with which the method's ``groups`` refuses all of them, before the first round.
        """
        try:
            self._server.meet({name: one.about_for(self.place) for name, one in descriptions.items()})
        except Exception as error:
            if is_whole and not self._server.groups:
                raise
            # Whatever a newcomer tells of itself, those who are there go on.
            log.warning("For now %s goes on as before, its groups cannot be found: %s", self.method.title, error)

    # A round

    def open_round(self, newcomers: Sequence[str]) -> None:
        """Have newcomers wait for what is current, and begin to count bytes.

        Args:
            newcomers: Participants whose first round it is.
        """
        sizes = {name: payload_bytes(self._server.received_by(name)) for name in newcomers}
        self.waiting |= {name for name, size in sizes.items() if size}
        self._up, self._down = 0, sum(sizes.values())

    def asked(self, when: Moment, round_index: int, active: Sequence[str], joined: Sequence[str]) -> list[str]:
        """Participants whose messages are due at a moment of a round, in their order.

        Args:
            when: The moment.
            round_index: The round, from 0.
            active: Participants that train in the round.
            joined: Participants that have joined.
        """
        for exchange in self.method.exchanges if self.method.is_due(round_index) else ():
            if exchange.when == when:
                return list(active if exchange.who == "sampled" else joined)
        return []

    def combine(
        self, round_index: int, replies: Mapping[str, Reply], asked: Sequence[str], joined: Sequence[str]
    ) -> dict[str, float]:
        """Make the result of a moment's messages, which waits until its receivers are next asked for something.

        Args:
            round_index: The round, from 0.
            replies: Usable replies by participant.
            asked: Participants that were asked.
            joined: Participants that have joined.

        Returns:
            Figures by tag.
        """
        sent: dict[str, Message] = {}
        for name in asked:
            reply = replies.get(name)
            if reply is not None and self.place in reply.shared and not (self.method.needs_steps and reply.idle):
                sent[name] = reply.shared[self.place]
        self._up += sum(map(payload_bytes, sent.values()))
        if not asked or not (sent or self.method.combines_silence):
            return {}
        seed_all(combine_seed(self._seed, self.method, round_index), torch.device("cpu"))
        result = self._server.combine(sent, asked, round_index)
        own = {name: self._server.groups_of(name) for name in joined}
        reached = {name: [group for group in own[name] if result.is_for(name, group)] for name in joined}
        self.waiting = {name for name in joined if reached[name] or name in self.waiting}
        self._down += sum(
            payload_bytes(self._server.memory[group].received_by(name))
            for name in asked
            for group in reached.get(name, ())
        )
        self.is_spent |= result.stop
        return {f"federation/{key}": value for key, value in result.figures.items()}

    def bytes_of_round(self) -> tuple[int, int]:
        """Bytes of the round's messages, up and down."""
        return self._up, self._down

    # What sites receive

    @property
    def is_heard(self) -> bool:
        """True if each result has to be received in its own round, since something is made of it there."""
        return type(self.method).receive is not Method.receive

    def result_for(self, name: str) -> Mapping[str, Tensor]:
        """Tensors for a participant; empty if it has them.

        Args:
            name: The participant.
        """
        return self._server.received_by(name) if name in self.waiting else {}

    # Resuming

    def state_dict(self) -> dict[str, Any]:
        """Memory of the server's half, and who waits."""
        return {"server": self._server.state_dict(), "waiting": sorted(self.waiting), "spent": self.is_spent}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the result of :meth:`state_dict`; :meth:`arrange` follows.

        Args:
            state: Result of :meth:`state_dict`.
        """
        self._server.load_state_dict(state["server"])
        self.waiting, self.is_spent = set(state["waiting"]), state["spent"]
