"""The coordinator's half of a method: what sites have described and sent, results, and who has yet to receive them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import lightning as L
import torch
from torch import Tensor

from hetfed_lightning.flower.protocol.description import Description
from hetfed_lightning.flower.protocol.orders import Reply
from hetfed_lightning.methods.messages import Message, When
from hetfed_lightning.methods.method import Method
from hetfed_lightning.methods.method_figures import MethodFigures
from hetfed_lightning.methods.server import ServerSide, combine_seed
from hetfed_lightning.metrics import payload_bytes
from hetfed_lightning.seeding import seed_all

if TYPE_CHECKING:
    from hetfed_lightning.federation_view import Cohorts

log = logging.getLogger(__name__)


class CombineError(RuntimeError):
    """Messages of sites that a method cannot combine; the message names method, round and senders."""


class MethodRounds:
    """Rounds of one method at the coordinator.

    Args:
        place: Place of the method among the callbacks.
        method: Method, made of the same configuration as at the sites.
        seed: Seed of the federation.

    Attributes:
        is_accounted: True if each result has to be in an account that outlives the process.
        is_spent: True if a result has ended the training.
    """

    is_accounted: ClassVar[bool] = False

    def __init__(self, place: int, method: Method, seed: int) -> None:
        self.place, self.method, self._seed = place, method, seed
        self.is_spent = False
        self.tags = MethodFigures([method])
        """Tags of figures, which a coordinator's methods have in common."""
        self._server = ServerSide(method)
        self._waiting: dict[str, set[str]] = {}
        """Groups whose last result a participant has yet to receive, by its name."""
        self._is_arranged = False
        self._idle: set[str] = set()
        self._up = self._down = 0

    def about(self, descriptions: Mapping[str, Description]) -> dict[str, Message]:
        """Descriptions of sites to the method, by name.

        Args:
            descriptions: Descriptions by participant.
        """
        return {name: one.about_for(self.place) for name, one in descriptions.items()}

    def arrange(self, descriptions: Mapping[str, Description], *, is_whole: bool = True) -> bool:
        """True if groups of those who are known are found; where they change, their memory goes on.

        Args:
            descriptions: Descriptions by participant.
            is_whole: True if nobody is missing; while somebody is, those who are there may not be enough.

        Raises:
            Exception: That with which the method's ``groups`` refuses all of them, before the first round.
        """
        try:
            kin = self._server.meet(self.about(descriptions))
        except Exception as error:
            if is_whole and not self._is_arranged:
                raise
            # Whatever a newcomer tells of itself, those who are there go on.
            log.warning(
                "For now %s goes on as before: the groups of %s cannot be found: %s",
                self.method.title, ", ".join(descriptions), error,
            )  # fmt: skip
            return False
        self._is_arranged = True
        for name, old in self._waiting.items():
            self._waiting[name] = {group for group in self._server.groups_of(name) if kin.get(group) in old}
        return True

    def may_begin(self, round_index: int, company: Sequence[L.Callback], count: int) -> None:
        """Refuse a run that the method may not take part in; none by default.

        Args:
            round_index: The first round, from 0.
            company: All callbacks of the configuration.
            count: Number of participants.
        """

    # A round

    def open_round(self, newcomers: Sequence[str]) -> None:
        """Have newcomers wait for what is current, and begin to count bytes.

        Args:
            newcomers: Participants whose first round it is.
        """
        self._up = self._down = 0
        for group, memory in self._server.memory.items() if self.method.keeps_results else ():
            names = [name for name in newcomers if group in self._server.groups_of(name) and memory.received_by(name)]
            self._down += self._server.bytes_of(group, names)
            for name in names:
                self._waiting.setdefault(name, set()).add(group)

    def without_start(self, names: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """Keys of the state that groups without a common start are to begin with, by their first member.

        Args:
            names: Participants that can be asked.
        """
        found: dict[str, list[str]] = {}
        for group in self._without_start():
            members = [name for name in names if group in self._server.groups_of(name)]
            keys = self.method.state_keys(members[0]) if members else None
            if keys:
                found.setdefault(members[0], []).extend(self.method.keys_of(group, keys))
        return {name: tuple(keys) for name, keys in found.items()}

    def begin(self, name: str, state: Message, joined: Sequence[str]) -> None:
        """Have groups begin with the state of a member, which all who have joined wait for.

        Args:
            name: The member.
            state: Tensors that it sent, by key.
            joined: Participants that have joined.
        """
        own = self.method.state_keys(name) or ()
        for group in self._without_start():
            keys = self.method.keys_of(group, own) if group in self._server.groups_of(name) else ()
            if not keys or not state.keys() >= set(keys):
                continue
            self._server.remember(group, {key: state[key] for key in keys})
            members = [other for other in joined if group in self._server.groups_of(other)]
            self._down += self._server.bytes_of(group, [other for other in members if other != name])
            for other in members:
                self._waiting.setdefault(other, set()).add(group)

    def _without_start(self) -> list[str]:
        memory = self._server.memory if self.method.synchronise_start and self.method.replaces_state else {}
        return [group for group, one in memory.items() if not (one.last or one.own)]

    def asked(self, when: When, round_index: int, cohorts: Cohorts) -> list[str]:
        """Participants whose messages are due at a moment of a round, in their order.

        Args:
            when: The moment.
            round_index: The round, from 0.
            cohorts: Cohort of each round.
        """
        return list(self.method.senders(when, round_index, self._server.about, cohorts))

    def note_scores(self, headlines: Mapping[str, str], metrics: Mapping[str, float]) -> None:
        """Record the participants' validation scores, for a method with ``needs_scores``.

        Args:
            headlines: Name of the headline metric by participant.
            metrics: Metrics by tag, such as ``"val_accuracy/hospital_a"``.
        """
        if self.method.needs_scores:
            self._server.note_scores(headlines, metrics)

    def message_of(self, name: str) -> tuple[str, ...] | None:
        """Keys of the state that is a participant's message, empty if ``send`` makes it; None if it has none to send.

        Args:
            name: The participant.
        """
        if not self.method.sends_state:
            return ()
        return tuple(self.method.state_keys(name) or ()) or None

    def combine(
        self,
        round_index: int,
        replies: Mapping[str, Reply],
        asked: Sequence[str],
        joined: Sequence[str],
        receivers: Sequence[str] | None = None,
    ) -> dict[str, float]:
        """Make the result of a moment's messages, which waits until its receivers are next asked for something.

        Args:
            round_index: The round, from 0.
            replies: Usable replies by participant.
            asked: Participants that were asked.
            joined: Participants that have joined.
            receivers: Those that the result may reach; None for all who have joined.

        Returns:
            Figures by tag.

        Raises:
            CombineError: If the method fails on the messages.
        """
        self.close_round()  # What the round's start brought was for the steps in between.
        sent = self._sent(replies, asked)
        self._up += sum(map(payload_bytes, sent.values()))
        if not asked or not (sent or self.method.combines_silence):
            return {}
        seed_all(combine_seed(self._seed, self.method, round_index), torch.device("cpu"))
        try:
            result = self._server.combine(sent, asked, round_index)
            figures = self.tags.tagged(self.method, result.figures, round_index)
        except Exception as error:
            raise CombineError(
                f"Round {round_index + 1}: {self.method.title}.combine fails on the messages of "
                f"{', '.join(sent) or 'nobody'}: {error} The round before is kept: mend the method, or take out the "
                "site whose message it cannot combine, and go on with resume."
            ) from error
        joined, counted = (joined, set(asked)) if receivers is None else (receivers, set(receivers))
        own = {name: self._server.groups_of(name) for name in joined}
        reached = {name: {group for group in own[name] if result.is_for(name, group)} for name in joined}
        self._waiting = {name: reached[name] | self._waiting.get(name, set()) for name in joined}
        for group in result.groups:
            names = {name for name in joined if group in reached[name]}
            self._down += self._server.bytes_of(group, names.intersection(counted))
        self.is_spent |= result.stop
        return figures

    def receivers(self, when: When, round_index: int, cohorts: Cohorts) -> Sequence[str] | None:
        """Participants that the result of a moment may reach, in their order; None for all who have joined.

        Args:
            when: The moment.
            round_index: The round, from 0.
            cohorts: Cohort of each round.
        """
        if self.method.keeps_results:
            return None
        return self.method.receivers(when, round_index, self._server.about, cohorts)

    def for_student(self) -> Message:
        """Result that the student receives, tensors by key; empty without one."""
        return self._server.of_only_group()

    def close_round(self) -> None:
        """Drop a result that is for its own round alone."""
        if not self.method.keeps_results:
            self._server.drop_results()
            self._waiting = {}

    def _sent(self, replies: Mapping[str, Reply], asked: Sequence[str]) -> dict[str, Message]:
        """Messages of those who have something to send; of each that has not, a warning says so once in a run."""
        sent: dict[str, Message] = {}
        for name in asked:
            reply = replies.get(name)
            if reply is not None and reply.idle and self.method.needs_steps:
                if name not in self._idle:
                    self._idle.add(name)
                    self.method.warn_of_idle(name)
            elif reply is not None and self.place in reply.shared:
                sent[name] = reply.shared[self.place]
        return sent

    def bytes_of_round(self) -> tuple[int, int]:
        """Bytes of the round's messages, up and down."""
        return self._up, self._down

    # What sites receive

    @property
    def is_heard(self) -> bool:
        """True if each result has to be received in its own round, since something is made of it there."""
        return type(self.method).receive is not Method.receive

    def result_for(self, name: str) -> dict[str, Tensor] | None:
        """Tensors for a participant by key; None if it has them.

        A result replaces state only in groups that have a new one. All other methods receive the results of all groups.

        Args:
            name: The participant.
        """
        if not self._waiting.get(name):
            return None
        found: dict[str, Tensor] = {}
        for group in self._server.groups_of(name):
            if group in self._waiting[name] or not self.method.replaces_state:
                found |= self._server.memory[group].received_by(name)
        return found

    def is_renewed_in_part(self, name: str) -> bool:
        """True if the tensors for a participant are those of some of its groups.

        Args:
            name: The participant.
        """
        return self.method.replaces_state and self._waiting.get(name, set()) < {*self._server.groups_of(name)}

    def has_received(self, name: str) -> None:
        """Take a participant from those who wait.

        Args:
            name: The participant.
        """
        self._waiting.pop(name, None)

    # Resuming

    def state_dict(self) -> dict[str, Any]:
        """State of the method with the server's memory, and who waits for which groups' results."""
        return {
            "method": self.method.as_saved({"server": self._server.state_dict(), "memory": {}}),
            "waiting": {name: sorted(groups) for name, groups in self._waiting.items() if groups},
            "spent": self.is_spent,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the result of :meth:`state_dict`; :meth:`arrange` follows.

        Args:
            state: Result of :meth:`state_dict`.
        """
        self.method.load_state_dict(state["method"])
        self._server.load_state_dict(self.method.memory_of(state["method"])["server"])
        self._waiting = {name: {*groups} for name, groups in state["waiting"].items()}
        self.is_spent = state["spent"]
