"""Rounds between institutions: the orders that sites get, their sequence, and the combination of the replies.

The order of a round is that of one process (:mod:`hetfed_lightning.federation.round_clock`), split where sites have to
hear of each other. With averaging alone that is one message a round and site: it closes the round before and trains the
next. With an ensemble it is two: predictions on the public set go up, the ensemble's targets go down. Exchanges are
made by phase, as there: averages are of what was distilled.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hetfed_lightning.checkpointing.plugin import PASSING
from hetfed_lightning.checkpointing.reading import read_checkpoint
from hetfed_lightning.checkpointing.sealing import write_checkpoint
from hetfed_lightning.federated_callback import FederatedCallback
from hetfed_lightning.federation.cohort import sampled
from hetfed_lightning.federation.quarantine import TooFewParticipantsError
from hetfed_lightning.flower.coordinator.averaging_rounds import AveragingRounds, PrivateRounds
from hetfed_lightning.flower.coordinator.connected_sites import ConnectedSites
from hetfed_lightning.flower.coordinator.distillation_rounds import DistillationRounds
from hetfed_lightning.flower.coordinator.messenger import Messenger, read_or_fault
from hetfed_lightning.flower.coordinator.method_rounds import CombineError, MethodRounds
from hetfed_lightning.flower.coordinator.requests import Fault
from hetfed_lightning.flower.coordinator.server_config import ServerConfig
from hetfed_lightning.flower.coordinator.site_compatibility import (
    Difference,
    disagreements,
    impossible,
    odd_ones,
    refuse_disagreements,
    table,
)
from hetfed_lightning.flower.coordinator.student import Student
from hetfed_lightning.flower.protocol.arrays import Layout
from hetfed_lightning.flower.protocol.deployable import carried_methods
from hetfed_lightning.flower.protocol.description import Description, parameters_of
from hetfed_lightning.flower.protocol.orders import Order, Reply
from hetfed_lightning.flower.protocol.reply_checks import fault_of, usable_metrics
from hetfed_lightning.methods.averaging.backbone_averaging import BackboneAveraging
from hetfed_lightning.methods.averaging.private_averaging import PrivateAveraging
from hetfed_lightning.methods.byte_count import ByteCount
from hetfed_lightning.methods.distillation.ensemble_distillation import EnsembleDistillation
from hetfed_lightning.methods.messages import When
from hetfed_lightning.methods.method import Method
from hetfed_lightning.methods.method_figures import MethodFigures
from hetfed_lightning.participants.participant import STUDENT

if TYPE_CHECKING:
    from hetfed_lightning.flower.coordinator.journal import Journal

log = logging.getLogger(__name__)

STATE = "coordinator.ckpt"
"""File of the coordinator's state in the run's folder, enough to go on after the last completed round."""

PAUSE = 1.0
"""Seconds between two looks for sites that are not connected."""


class Coordinator:
    """Coordinator that leads a federation of sites through its rounds.

    Args:
        config: The server's configuration.
        messenger: Messenger between it and the sites.
        journal: Journal of the run.
        folder: Folder of the run, where its state is kept.
        resume: True to go on where the run in ``folder`` stopped.
        wait: Function called with seconds while sites are waited for.
    """

    def __init__(
        self,
        config: ServerConfig,
        messenger: Messenger,
        journal: Journal,
        folder: Path,
        *,
        resume: bool = False,
        wait: Callable[[float], object] = time.sleep,
    ) -> None:
        self.config = config
        self.messenger = messenger
        self.journal = journal
        self.callbacks = [one for one in config.callbacks if isinstance(one, FederatedCallback)]
        self.methods = [self._rounds_of(place, one) for place, one in carried_methods(self.callbacks).items()]
        tags = MethodFigures([one.method for one in self.methods])
        for rounds in self.methods:
            rounds.tags = tags
        self.sites = ConnectedSites(
            config.sites, messenger, min(config.deadline, config.wait), lambda told: impossible(told, self.callbacks)
        )
        self.run_id = uuid.uuid4().hex
        self.next_round = 0
        self.left: dict[str, str] = {}
        """Participants that are out of the round in progress, with the reason."""
        self._blamed: dict[str, str] = {}
        """Participants left out of the round before, with the reason, until they are told."""
        self._open: set[str] = set()
        """Participants that have not closed the round before yet."""
        self.student = None if config.student is None else Student(config, folder)
        self._is_spent = False
        self._pending: dict[str, Any] = {}
        """Journal entry of the round before, until its metrics have come."""
        self._metrics: dict[str, float] = {}
        self._metrics_of_student: dict[str, float] = {}
        self._file = folder / STATE
        self._wait = wait
        self.layouts: Mapping[str, Mapping[str, Layout]] = config.layouts
        if resume:
            self._load()

    def lead(self) -> None:
        """Lead the federation through all rounds.

        Raises:
            DisagreementError: If the sites do not fit together; nothing was trained.
            TooFewParticipantsError: If fewer than ``min_participants`` are there, or left in a round.
        """
        try:
            self._gather()
            for method in self.methods:
                method.may_begin(self.next_round, self.callbacks, len(self.sites.descriptions))
            while self.next_round < self.config.rounds and not self._is_spent:
                self._round(self.next_round)
            self._close_last()
        except BaseException as error:
            self.journal.fail(str(error))
            raise
        self.journal.finish()

    def _rounds_of(self, place: int, method: Method) -> MethodRounds:
        if isinstance(method, PrivateAveraging):
            return PrivateRounds(place, method, self.config.seed, self)
        if isinstance(method, BackboneAveraging):
            return AveragingRounds(place, method, self.config.seed)
        if isinstance(method, EnsembleDistillation):
            return DistillationRounds(place, method, self.config.seed)
        return MethodRounds(place, method, self.config.seed)

    @property
    def _teaching(self) -> list[MethodRounds]:
        """Methods whose results are learned from before a round's last messages are made."""
        return [one for one in self.methods if one.method.teaches_within_round]

    @property
    def _closed_by(self) -> list[MethodRounds]:
        """Methods whose results close a round."""
        return [one for one in self.methods if not one.method.teaches_within_round]

    # Connected sites

    def active_names(self, round_index: int) -> list[str]:
        """Names of participants that train in a round: all that have joined, or a sample of them."""
        joined = self.joined(round_index)
        return sampled(joined, round_index, self.config.participation, self.config.seed) if joined else []

    def joined(self, round_index: int) -> list[str]:
        """Names of participants that have joined by a round and have not left, connected or not."""
        return self.sites.joined(round_index)

    def newcomers(self, round_index: int) -> list[str]:
        """Names of participants whose first round it is, later than the first of all."""
        return self.sites.newcomers(round_index)

    def joined_at(self, name: str) -> int:
        """Index of the first round of a participant's membership."""
        return self.sites.joined_at[name]

    @property
    def has_student(self) -> bool:
        """True if there is a unified model that learns from the participants."""
        return self.student is not None

    def _gather(self) -> None:
        """Wait for the sites, and refuse those that do not fit."""
        began = time.monotonic()
        log.info("Waiting for %s, at most %g s.", ", ".join(self.config.sites), self.config.wait)
        while True:
            self.sites.look(self.next_round)
            wanted = [name for name in self.config.sites if self.config.joins_at.get(name, 0) <= self.next_round]
            missing = [name for name in wanted if name not in self.sites.connected]
            if not missing:
                break
            if time.monotonic() - began >= self.config.wait:
                self._refuse_too_few(len(self.sites.connected), missing)
                log.warning("Going on without %s, not there after %g s.", ", ".join(missing), self.config.wait)
                break
            self._wait(PAUSE)
        self._refuse_unfit()
        self._arrange()
        log.info("%d sites: %s.", len(self.sites.descriptions), ", ".join(self.sites.descriptions))

    def _refuse_unfit(self) -> None:
        """End the run if sites do not fit together, or go on without the odd ones if there is a quorum of others."""
        known = self.sites.descriptions
        found = self._disagreements(known)
        odd = [name for name in known if name in odd_ones(found)]
        rest = {name: one for name, one in known.items() if name not in odd}
        quorum = self.config.min_participants
        # A quorum of one is the default, and no permission to go on without a site.
        if quorum < 2 or len(rest) < quorum or self._disagreements(rest):
            refuse_disagreements(found)
        elif found:
            log.warning(
                "Going on without %s, which does not fit; min_participants=%d do. Who is brought to agree and started "
                "again joins.\n%s",
                ", ".join(odd), quorum, table(found),
            )  # fmt: skip
            self.sites.forget(odd)

    def _disagreements(self, descriptions: Mapping[str, Description]) -> dict[str, Difference]:
        return disagreements(descriptions, self.callbacks, self.config.seed, self.layouts)

    def _refuse_too_few(self, found: int, missing: Sequence[str]) -> None:
        least = self.config.min_participants
        if found < least:
            raise TooFewParticipantsError(
                f"Round {self.next_round + 1}: {found} sites are connected after {self.config.wait:g} s, "
                f"min_participants={least} are needed. Not there: {', '.join(missing) or 'nobody else is known'}. Look "
                "at the logs of their nodes: is the address reachable, the certificate trusted, the key registered?"
            )

    def _arrange(self) -> None:
        is_whole = set(self.config.sites) <= self.sites.descriptions.keys()
        for method in self.methods:
            method.arrange(self.sites.descriptions, is_whole=is_whole)
        everyone = self.sites.descriptions | ({} if self.student is None else {STUDENT: self.student.describe()})
        self.journal.introduce(everyone, self.callbacks, self.next_round)

    def _look(self, round_index: int) -> None:
        """Admit newcomers, leave absent sites out, and wait while too few are connected."""
        began = time.monotonic()
        while True:
            new = self.sites.look(round_index)
            unfit = self._unfit(new)
            if fit := [name for name in new if name not in unfit]:
                log.info("Round %d: %s joins.", round_index + 1, ", ".join(fit))
                self._arrange()
            joined = self.sites.joined(round_index)
            absent = [name for name in joined if name not in self.sites.connected]
            if len(joined) - len(absent) >= min(self.config.min_participants, len(joined)) and len(joined) > len(
                absent
            ):
                break
            if time.monotonic() - began >= self.config.wait:
                self._refuse_too_few(len(joined) - len(absent), absent)
                break
            self._wait(PAUSE)
        for name in absent:
            self._leave_out(name, "its node is not connected")

    def _unfit(self, new: Sequence[str]) -> list[str]:
        unfit = []
        for name in new:
            others = {key: one for key, one in self.sites.descriptions.items() if key not in new or key == name}
            found = self._disagreements(others)
            if found:
                log.warning("%s cannot join, since it does not fit:\n%s", name, table(found))
                unfit.append(name)
        self.sites.forget(unfit)
        return unfit

    # A round

    def _round(self, round_index: int) -> None:
        began = time.monotonic()
        self.left, self._metrics, self._metrics_of_student = {}, {}, {}
        self._look(round_index)
        joined = self.sites.joined(round_index)
        self._see_off(round_index, joined)
        active = self.active_names(round_index)
        newcomers = self.sites.newcomers(round_index)
        for method in self.methods:
            method.open_round(newcomers)
        pupils = self._pupils(round_index)
        figures: dict[str, float] = {}
        for phase in (self._teaching, self._closed_by):
            self._give_start(phase, joined)
            figures |= self._exchange_start(phase, round_index, joined, newcomers, pupils)
        due = self._due_at("end", round_index)
        late = self._learners(due, round_index)
        everyone = self._train(round_index, joined, active, newcomers, pupils, due, late)
        replies = {name: reply for name, reply in everyone.items() if name in active}
        self._publish()
        self._refuse_too_few_left(round_index, active, replies)
        figures |= self._combined(self._teaching, "end", round_index, replies, due)
        replies |= self._learn(round_index, replies, due, late)
        self._teach_student(round_index)
        replies = {name: reply for name, reply in replies.items() if name not in self.left}
        self._refuse_too_few_left(round_index, active, replies)
        figures |= self._combined(self._closed_by, "end", round_index, everyone | replies, due)
        volume = ByteCount()
        for one in self.methods:
            up, down = one.bytes_of_round()
            volume.count(one.method.title, up=up, down=down)
            self._is_spent |= one.is_spent
        for one in self._teaching:
            one.close_round()
        figures |= {
            "federation/participants": float(len(replies)),
            "federation/quarantined": float(len(self.left)),
        }
        figures |= {f"federation/{key}": float(count) for key, count in volume.figures().items()}
        self._pending = {
            "round": round_index,
            "figures": figures,
            "left": dict(self.left),
            "student": self._metrics_of_student,
            "seconds": time.monotonic() - began,
        }
        self._blamed = {name: reason for name, reason in self.left.items() if name in active}
        self._open = set(joined)
        self.next_round = round_index + 1
        self._save()

    def _see_off(self, round_index: int, joined: Sequence[str]) -> None:
        """Let participants that leave with this round close their last one and take along its shared state."""
        leaving = [name for name in self._open if name not in joined and name in self.sites.connected]
        self._carry_out({name: self._closing(name, round_index) for name in leaving})
        for name in leaving:  # A failure here costs them nothing of a round that they are no part of.
            self.left.pop(name, None)

    def _pupils(self, round_index: int) -> set[str]:
        """Participants that train for the first time after joining a run in progress, and ask for lessons."""
        teaching = [one for one in self._teaching if isinstance(one, DistillationRounds)]
        return {name for one in teaching for name in one.pupils(round_index, self)}

    def _has_lessons(self, order: Order, pupils: Collection[str], name: str) -> bool:
        """True if an order brings a pupil the results that it is taught."""
        return name in pupils and any(one.place in order.shared for one in self._teaching)

    def _learners(self, due: Mapping[int, Sequence[str]], round_index: int) -> list[str]:
        """Participants that learn at a round's end, and send the messages by which it closes after that."""
        found: dict[str, None] = {}
        for one in self._teaching:
            found |= dict.fromkeys((one.receivers("end", round_index, self) or ()) if due[one.place] else ())
        return list(found)

    def _give_start(self, methods: Sequence[MethodRounds], joined: Sequence[str]) -> None:
        """Have groups begin with the state of their first member who is here."""
        for one in methods:
            while found := one.without_start([name for name in joined if name not in self.left]):
                name, keys = next(iter(found.items()))
                reply = self._carry_out({name: Order(self.run_id, messages={one.place: keys})}).get(name)
                if reply is not None:
                    one.begin(name, reply.shared[one.place], joined)

    def _train(
        self,
        round_index: int,
        joined: Sequence[str],
        active: Sequence[str],
        newcomers: Sequence[str],
        pupils: Collection[str],
        due: Mapping[int, Sequence[str]],
        late: Collection[str],
    ) -> dict[str, Reply]:
        """Replies of the round's participants after their local steps; the others close the round before."""
        orders = {}
        first = {one.place: due[one.place] for one in self._teaching}
        for name in joined:
            if name in self.left:
                continue
            order = replace(self._closing(name, round_index), joins=name in newcomers)
            if name in active:
                asked = self._asked_of(name, first if name in late else due)
                taught = self._has_lessons(order, pupils, name)
                order = replace(order, begin=round_index, is_pupil=taught, messages=asked)
            else:
                order = self._attending(order, name, round_index, due)
            if _leads_on(order):
                orders[name] = order
        return self._carry_out(orders)

    # Messages of methods

    def _due_at(self, when: When, round_index: int) -> dict[int, list[str]]:
        """Participants whose messages are due at a moment of a round, by place of the method."""
        return {one.place: one.asked(when, round_index, self) for one in self.methods}

    def _asked_of(self, name: str, due: Mapping[int, Sequence[str]]) -> dict[int, tuple[str, ...]]:
        """Keys of the messages that are due of a participant, by place of the method."""
        return {
            one.place: keys
            for one in self.methods
            if name in due.get(one.place, ()) and (keys := one.message_of(name)) is not None
        }

    def _attending(self, order: Order, name: str, round_index: int, due: Mapping[int, Sequence[str]]) -> Order:
        """The order of a participant that does not train, with what methods have for it in the round."""
        stepless = {one.place for one in self.methods if not one.method.needs_steps}
        messages = {place: keys for place, keys in self._asked_of(name, due).items() if place in stepless}
        is_heard = any(one.is_heard and one.place in order.shared for one in self.methods)
        has_work = order.joins and any(one.method.plans_work() for one in self._closed_by)
        attends = messages or has_work or (is_heard and order.finish is None)
        return replace(order, attend=round_index, messages=messages) if attends else order

    def _exchange_start(
        self,
        methods: Sequence[MethodRounds],
        round_index: int,
        joined: Sequence[str],
        newcomers: Sequence[str],
        pupils: Collection[str],
    ) -> dict[str, float]:
        """Figures of a phase's exchanges at a round's start; the results go down with the next orders.

        Everyone closes the round before first, since results of that would be replaced. Pupils have their lessons
        before they send anything; newcomers, who join after that, as they begin.
        """
        due = {one.place: one.asked("start", round_index, self) for one in methods}
        if self.left.keys() >= set().union(*due.values()):
            return {}
        replaced = {one.place for one in methods if one.method.keeps_results}
        lessons = {one.place for one in self._teaching}
        orders = {}
        for name in joined:
            order = self._closing(name, round_index)
            if name in newcomers:
                order = replace(
                    order, shared={place: one for place, one in order.shared.items() if place not in lessons}
                )
            messages = self._asked_of(name, due)
            if messages or (order.finish is None and not replaced.isdisjoint(order.shared)):
                taught = self._has_lessons(order, pupils, name)
                order = replace(order, enter=round_index, messages=messages, is_pupil=taught)
            if _leads_on(order) and name not in self.left:
                orders[name] = order
        replies = self._carry_out(orders)
        self._publish()
        return self._combined(methods, "start", round_index, replies, due)

    def _combined(
        self,
        methods: Sequence[MethodRounds],
        when: When,
        round_index: int,
        replies: Mapping[str, Reply],
        due: Mapping[int, Sequence[str]],
    ) -> dict[str, float]:
        """Figures of a phase's exchanges; the results wait for their receivers.

        Raises:
            TooFewParticipantsError: If nobody has sent what a method cannot do without.
        """
        figures: dict[str, float] = {}
        usable = {name: reply for name, reply in replies.items() if name not in self.left}
        for one in methods:
            is_silent = not any(one.place in reply.shared for reply in usable.values())
            if is_silent and when == "end" and one in self._teaching:
                one.close_round()  # All teachers are out of the round, which goes on for the others.
                continue
            to = one.receivers(when, round_index, self)
            here = None if to is None else [name for name in to if name not in self.left]
            try:
                figures |= one.combine(round_index, usable, due[one.place], self.joined(round_index), here)
            except CombineError as error:
                if not is_silent:
                    raise
                raise TooFewParticipantsError(
                    f"Round {round_index + 1}: nobody whom {one.method.title} asks has sent anything to use "
                    f"({self._reasons() or error.__cause__}). The round before is kept: mend the sites named and go on "
                    "with resume."
                ) from error
        return figures

    def _learn(
        self,
        round_index: int,
        replies: Mapping[str, Reply],
        due: Mapping[int, Sequence[str]],
        late: Sequence[str],
    ) -> dict[str, Reply]:
        """Replies of those who learn at the round's end, and then send the messages by which it closes."""
        later = {one.place: due[one.place] for one in self._closed_by}
        orders = {}
        for name in late:
            if name in replies and name not in self.left:
                found = {one.place: one.result_for(name) for one in self._teaching}
                shared = {place: state for place, state in found.items() if state is not None}
                messages = self._asked_of(name, later)
                orders[name] = Order(self.run_id, learn=round_index, messages=messages, shared=shared)
        return self._carry_out(orders)

    def _teach_student(self, round_index: int) -> None:
        """Have the student learn from the results of the round, if there is one."""
        if self.student is None:
            return
        results = {one.place: one.for_student() for one in self._teaching}
        learned = self.student.learn(self.run_id, round_index, {place: own for place, own in results.items() if own})
        self._metrics_of_student = learned.metrics
        if learned.quarantined:
            self._leave_out(STUDENT, learned.quarantined)

    def _close_last(self) -> None:
        """Send all sites the last round's shared state, to receive and to validate."""
        self.left, self._metrics = {}, {}
        self.sites.look(self.next_round)
        absent = [name for name in self._open if name not in self.sites.connected]
        for name in absent:
            self._leave_out(name, "its node is not connected")
        names = [name for name in self.sites.descriptions if name in self._open and name not in self.left]
        self._carry_out({name: self._closing(name, self.next_round) for name in names})
        self._publish()

    # Orders and replies

    def _closing(self, name: str, round_index: int) -> Order:
        """Order by which a site closes the round before, if it has not."""
        closes = name in self._open
        found = {one.place: one.result_for(name) for one in self.methods}
        return Order(
            self.run_id,
            finish=round_index - 1 if closes else None,
            left_out=self._blamed.get(name, "") if closes else "",
            is_last=closes and round_index == self.config.rounds,
            shared={place: state for place, state in found.items() if state is not None},
            renewed=tuple(one.place for one in self.methods if one.is_renewed_in_part(name) and found[one.place]),
        )

    def _carry_out(self, orders: Mapping[str, Order]) -> dict[str, Reply]:
        """Usable replies to orders; a site with any other reply is left out of the round."""
        usable = {}
        for name, answer in self.messenger.carry_out(orders, self.config.deadline, self.sites.descriptions).items():
            if isinstance(answer, Fault):
                self._leave_out(name, answer.reason)
                continue
            order = orders[name]
            for method in self.methods:
                if method.place in order.shared:
                    method.has_received(name)
            if answer.finished is not None and answer.finished == order.finish:
                self._open.discard(name)
                self._metrics |= usable_metrics(answer, self.sites.descriptions[name])
            fault = self._fault_of(name, answer, order)
            if fault:
                self._leave_out(name, fault)
                continue
            usable[name] = answer
        return usable

    def _fault_of(self, name: str, reply: Reply, order: Order) -> str:
        """Reason why a reply cannot be used; a failure of the checks themselves is one too. Empty if it can."""
        described = self.sites.descriptions
        parameters = parameters_of(described.values())
        methods = {one.place: one.method for one in self.methods}
        found = read_or_fault(reply, lambda one: fault_of(one, order, described[name], parameters, methods))
        return found.reason if isinstance(found, Fault) else found

    def _leave_out(self, name: str, reason: str) -> None:
        if name not in self.left:
            self.left[name] = reason
            log.warning("Round %d: %s is left out: %s.", self.next_round + 1, name, reason)

    def _refuse_too_few_left(self, round_index: int, active: Sequence[str], replies: Mapping[str, Reply]) -> None:
        if active and len(replies) < self.config.min_participants:
            raise TooFewParticipantsError(
                f"Round {round_index + 1}: {len(replies)} of {len(active)} participants are left to go on with, "
                f"min_participants={self.config.min_participants} are needed ({self._reasons()}). The round before is "
                "kept: mend the sites named and go on with resume."
            )

    def _reasons(self) -> str:
        return "; ".join(f"{name}: {reason}" for name, reason in self.left.items())

    # Records and state

    def _publish(self) -> None:
        """Write the round before, whose metrics have come with the replies to this round's first orders."""
        if not self._pending:
            return
        headlines = {name: str(one.role.get("headline", "")) for name, one in self.sites.descriptions.items()}
        for method in self.methods:
            method.note_scores(headlines, self._metrics)
        done, self._pending = self._pending, {}
        metrics = self._metrics | done["student"]
        self.journal.close_round(done["round"], done["figures"], metrics, done["left"], done["seconds"])

    def _save(self) -> None:
        content = {
            "run": self.run_id,
            "next_round": self.next_round,
            "roll": self.sites.state_dict(),
            "methods": {one.place: one.state_dict() for one in self.methods},
            "pending": self._pending,
            "blamed": self._blamed,
            "open": sorted(self._open),
            "spent": self._is_spent,
        }
        try:
            write_checkpoint(content, self._file)
        except OSError as error:
            # Every private average that is sent has to be in an account that outlives this process.
            if error.errno not in PASSING or any(method.is_accounted for method in self.methods):
                raise
            log.warning(
                "%s could not be written: %s. The run goes on; until it can be, resuming goes further back.",
                self._file, error.strerror,
            )  # fmt: skip

    def _load(self) -> None:
        saved = read_checkpoint(self._file)
        self.run_id, self.next_round = saved["run"], saved["next_round"]
        self.sites.load_state_dict(saved["roll"])
        methods = saved.get("lessons", {}) | saved["methods"]  # Of an older run, those of teachers are apart.
        for method in self.methods:
            method.load_state_dict(methods[method.place])
        self._pending, self._blamed, self._is_spent = saved["pending"], saved["blamed"], saved["spent"]
        self._open = set(saved["open"])
        log.info("Going on with round %d of %d.", self.next_round + 1, self.config.rounds)


def _leads_on(order: Order) -> bool:
    """True if an order brings a site further in a run, and has it receive what is handed out."""
    return any(one is not None for one in (order.finish, order.enter, order.attend, order.begin, order.learn))
