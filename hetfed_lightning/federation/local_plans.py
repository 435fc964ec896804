"""Plans of the participants' local work, collected from the run's methods, checked, and looked up batch by batch."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from hetfed_lightning.federated_callback import acting_callbacks
from hetfed_lightning.federation.preflight_privacy import check_shaped_losses_of
from hetfed_lightning.methods.augmentation_checks import check_public_transform
from hetfed_lightning.methods.method import Method
from hetfed_lightning.methods.plan_checks import planned
from hetfed_lightning.methods.planned_work import own_batches
from hetfed_lightning.methods.plans import LATER, Moment, Part, PlanError, Span, spans
from hetfed_lightning.methods.public_batches import PublicBatch, PublicOrders
from hetfed_lightning.methods.public_fleets import PublicTerm
from hetfed_lightning.participants.first_batch import check_last_public_batch, outputs_of
from hetfed_lightning.participants.participant import STUDENT, Participant

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import lightning as L

    from hetfed_lightning.federation_view import FederationView
    from hetfed_lightning.fleets.fleet import Fleet
    from hetfed_lightning.fleets.terms import FleetTerm

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LocalPlan:
    """Plan of a participant's local work in a round.

    Attributes:
        parts: Parts with a length, of one method; empty if the participant's own settings hold.
        method: Method of these parts; None without any.
        along: Parts that go along with steps on own data, with their methods.
    """

    parts: tuple[Part, ...] = ()
    method: Method | None = None
    along: tuple[tuple[Method, Part], ...] = ()

    @property
    def on_public(self) -> list[Method]:
        """Methods with steps on public data."""
        found = dict.fromkeys(method for method, _ in self.along)
        if self.method is not None and any(part.on != "own" for part in self.parts):
            found[self.method] = None
        return list(found)


@dataclass
class _Round:
    """What is known of the round in progress, by participant."""

    index: int = -1
    plans: dict[str, LocalPlan] = field(default_factory=dict)
    spans: dict[str, tuple[Span, ...]] = field(default_factory=dict)
    ready: dict[tuple[str, str], bool] = field(default_factory=dict)


class LocalPlans:
    """Plans of a federation's participants; without a method that plans, their own settings hold."""

    def __init__(self) -> None:
        self._planners: list[Method] = []
        self._now = _Round()
        self._orders = PublicOrders()
        self._reads: dict[str, bool] = {}
        self._told: set[str] = set()

    def __reduce__(self) -> tuple[type[LocalPlans], tuple[()]]:
        """Arguments of a copy, which belongs to no run."""
        return LocalPlans, ()

    def begin(self, trainer: L.Trainer) -> None:
        """Find the methods that plan."""
        self._now, self._orders, self._reads = _Round(), PublicOrders(), {}
        self._told = set()
        self._planners = [one for one in acting_callbacks(trainer) if isinstance(one, Method) and one.plans_work()]

    @property
    def is_empty(self) -> bool:
        """True if no method plans."""
        return not self._planners

    def check(self, federation: FederationView) -> None:
        """Check the plans of each participant's first round, for all moments.

        Raises:
            PlanError: If a plan cannot be followed.
        """
        for name in federation.everyone() if self._planners else ():
            if name != STUDENT:
                self._plan_of(federation, name, _first_round(federation, name))
            for _ in self._first_plans(federation, name):
                pass

    def check_public(self, federation: FederationView) -> None:
        """Pass the first public examples through the networks and transforms of those who plan steps on them.

        Raises:
            ValueError: If a network cannot take them, its BatchNorm cannot train on the last public batch, or a
                ``public_transform`` cannot be applied.
        """
        for name, participant in federation.everyone().items() if self._planners else ():
            for method, part in self._first_plans(federation, name):
                if part.on != "own":
                    data = federation.federated_data
                    inputs = data.public_inputs(torch.arange(1))
                    outputs_of(participant, inputs, "the public set")
                    setting = f"{type(method).__name__}(batch_size=...)"
                    if not hasattr(method, "batch_size"):
                        setting = f"batch_size of {type(method).__name__}'s Parts"
                    check_last_public_batch(participant, inputs, data.num_public, part.batch_size, setting)
        for method in self._planners:
            self._check_transform(federation, method)

    def _check_transform(self, federation: FederationView, method: Method) -> None:
        """Check a method's transform on the inputs of those who learn from public examples in some round."""
        transform, has_plain = method.public_transform, False
        for name, participant in federation.everyone().items() if transform is not None else ():
            is_plain = type(participant) is Participant and participant.transform is None
            if is_plain and has_plain:
                continue  # Its inputs are those of one that was checked.
            if transform is not None and (part := self._first_on_public(federation, method, name)) is not None:
                check_public_transform(federation, transform, name, part.batch_size, type(method).__name__)
                has_plain = has_plain or is_plain

    def _first_on_public(self, federation: FederationView, method: Method, name: str) -> Part | None:
        """A participant's first part with public examples, of all rounds to come; None if it never learns from any."""
        moments, first = LATER if name == STUDENT else ("local", *LATER), _first_round(federation, name)
        for round_index in range(first, max(first + 1, federation.trainer.max_epochs or 0)):
            for moment in moments:
                for part in planned(federation, method, name, moment, round_index):
                    if part.on != "own":
                        return part
        return None

    def _first_plans(self, federation: FederationView, name: str) -> Iterator[tuple[Method, Part]]:
        """Parts of a participant's first round at all moments, with their methods."""
        moments = LATER if name == STUDENT else ("local", *LATER)
        for method in self._planners:
            for moment in moments:
                for part in planned(federation, method, name, moment, _first_round(federation, name)):
                    yield method, part

    def reads_public(self, federation: FederationView, name: str) -> bool:
        """True if a participant reads an input of the public set; one that does not abstains, which is logged once.

        Args:
            federation: The federation, in a fit, with a public set.
            name: Name of the participant, or of the student.
        """
        if name not in self._reads:
            inputs = federation.federated_data.public_inputs(torch.arange(1))
            self._reads[name] = federation[name].reads_any_of(inputs)
            if not self._reads[name]:
                found = ", ".join(map(repr, inputs)) if isinstance(inputs, dict) else type(inputs).__name__
                log.info(
                    "%s reads nothing of the public set, which has %s: it neither teaches nor learns on it.",
                    federation[name].label, found,
                )  # fmt: skip
        return self._reads[name]

    # Local steps

    def of(self, federation: FederationView, name: str, round_index: int) -> tuple[Part, ...]:
        """Parts of a participant's local work in a round; empty if its own settings hold.

        Args:
            federation: The federation, in a fit.
            name: Name of the participant.
            round_index: Index of the round, from 0.

        Raises:
            PlanError: If they cannot be followed, or two methods have some.
        """
        return self._plan_of(federation, name, round_index).parts

    def _plan_of(self, federation: FederationView, name: str, round_index: int) -> LocalPlan:
        if not self._planners:
            return LocalPlan()
        if round_index != federation.current_round:  # Looked ahead.
            return self._asked(federation, name, round_index)
        self._settle(round_index)
        if name not in self._now.plans:
            self._now.plans[name] = self._asked(federation, name, round_index)
        return self._now.plans[name]

    def later_steps(self, federation: FederationView, name: str, round_index: int, *, resumed: bool) -> int:
        """Number of steps on a participant's own data at the other moments of a round.

        Args:
            federation: The federation, in a fit.
            name: Name of the participant.
            round_index: Index of the round, from 0.
            resumed: True for what is left of a round that was interrupted.
        """
        is_new = not resumed and name in federation.newcomers(round_index)
        is_active = name in federation.active_names(round_index)
        is_last = round_index + 1 == federation.trainer.max_epochs and name in federation.joined(round_index)
        steps = 0
        for one in self._planners:
            due: dict[Moment, bool] = {
                "joined": is_new,
                "received": is_active and one.is_due(round_index),
                "last": is_last,
            }
            steps += sum(own_batches(federation, one, name, moment, round_index) for moment in LATER if due[moment])
        return steps

    def check_losses(self, federation: FederationView, name: str) -> None:
        """Refuse losses that mix examples, before steps under DP-SGD at another moment than the round's beginning.

        Args:
            federation: The federation, in a round.
            name: Name of the participant.
        """
        check_shaped_losses_of(federation, name)

    def _settle(self, round_index: int) -> None:
        if self._now.index != round_index:
            self._now = _Round(round_index)

    def _asked(self, federation: FederationView, name: str, round_index: int) -> LocalPlan:
        found = {one: planned(federation, one, name, "local", round_index) for one in self._planners}
        along = tuple((one, part) for one, parts in found.items() for part in parts if part.goes_along)
        if along and not federation[name].automatic_optimization:
            who = federation[name].label
            self._tell(name, f"{who} steps its optimizers itself: no public batch goes along with its local steps.")
            along = ()
        lengths = {one: own for one, parts in found.items() if (own := _with_length(parts))}
        if len(lengths) > 1:
            raise PlanError(
                f"{federation[name].label}, round {round_index}: {' and '.join(one.title for one in lengths)} both "
                "plan its local work. Leave out one of them, or have its plan return () for the moment 'local'; "
                "Part(on='both') without epochs and steps may stand beside any plan."
            )
        method, parts = next(iter(lengths.items()), (None, ()))
        return LocalPlan(parts, method, along)

    def _tell(self, name: str, line: str) -> None:
        """Log a line about a participant, once in a run."""
        if name not in self._told:
            self._told.add(name)
            log.info("%s", line)

    def span_at(self, federation: FederationView, name: str, batch_idx: int) -> Span | None:
        """Part to which a batch of the current round belongs; None without a plan.

        Args:
            federation: The federation, in a round.
            name: Name of a participant with a batch.
            batch_idx: Index of the batch in the round, from 0.
        """
        if not self._planners:
            return None
        self._settle(federation.current_round)
        if name not in self._now.spans:
            self._now.spans[name] = self.spans_of(federation, name, federation.current_round)
        return next((one for one in self._now.spans[name] if one.start <= batch_idx < one.stop), None)

    def spans_of(self, federation: FederationView, name: str, round_index: int) -> tuple[Span, ...]:
        """Parts of a round with their places, after the Trainer's limit; empty without a plan.

        Args:
            federation: The federation, in a fit.
            name: Name of the participant.
            round_index: Index of the round, from 0.
        """
        if not (parts := self.of(federation, name, round_index)):
            return ()
        per_epoch, public = federation.federated_data.source(name).batches_per_epoch, _num_public(federation, parts)
        total = sum(part.batches(per_epoch, public) for part in parts)
        return spans(parts, per_epoch, federation.limit_batches(total), public)

    def without_own_batch(self, federation: FederationView, name: str, round_index: int) -> tuple[range, ...]:
        """Batches of a round that are public alone, before the Trainer's limit.

        Args:
            federation: The federation, in a fit.
            name: Name of the participant.
            round_index: Index of the round, from 0.
        """
        parts = self.of(federation, name, round_index)
        if all(part.on != "public" for part in parts):
            return ()
        per_epoch, public = federation.federated_data.source(name).batches_per_epoch, _num_public(federation, parts)
        total = sum(part.batches(per_epoch, public) for part in parts)
        return tuple(
            range(one.start, one.stop) for one in spans(parts, per_epoch, total, public) if one.part.on == "public"
        )

    # Public batches of local steps

    def on_public(self, federation: FederationView, batch_idx: int) -> list[str]:
        """Participants of this process whose step is on a public batch alone.

        Args:
            federation: The federation, in a round.
            batch_idx: Index of the batch in the round, from 0.
        """
        found = []
        for name in federation.trained_here(federation.current_round) if self._planners else ():
            span = self.span_at(federation, name, batch_idx)
            if span is not None and span.part.on == "public":
                found.append(name)
        return found

    def learns_by_modules(self, federation: FederationView, name: str) -> bool:
        """True if a participant has modules of a method that plans local steps on public data for it in this round.

        Args:
            federation: The federation, in a round.
            name: Name of the participant.
        """
        plan = self._plan_of(federation, name, federation.current_round)
        return any(federation[name].modules_of(one.title) for one in plan.on_public)

    def public_at(self, federation: FederationView, name: str, batch_idx: int) -> list[PublicBatch]:
        """Public batches of a participant's local step, with their methods; none before these have received anything.

        Args:
            federation: The federation, in a round.
            name: Name of the participant.
            batch_idx: Index of the batch in the round, from 0.
        """
        return [] if not self._planners else list(self._public_at(federation, name, batch_idx))

    def _public_at(self, federation: FederationView, name: str, batch_idx: int) -> Iterator[PublicBatch]:
        plan, span = self._plan_of(federation, name, federation.current_round), None
        if plan.method is not None:
            span = self.span_at(federation, name, batch_idx)
        size = federation.federated_data.num_public
        planner = None if span is None or span.part.on == "own" else plan.method
        if planner is not None and span is not None and self._is_ready(federation, planner, name):
            yield self._batch(federation, planner, name, span.part, span.place(batch_idx, size))
        if span is not None and span.part.on == "public":
            return
        for method, part in plan.along:
            if self._is_ready(federation, method, name) and _goes_along(federation, name, part, batch_idx):
                yield self._batch(federation, method, name, part, divmod(batch_idx, part.public_batches(size)))

    def _batch(
        self, federation: FederationView, method: Method, name: str, part: Part, place: tuple[int, int]
    ) -> PublicBatch:
        stream = method.public_stream("local")
        round_index, size = federation.current_round, part.batch_size
        return self._orders.batch(federation, method, stream, name, round_index, size, place)

    def _is_ready(self, federation: FederationView, method: Method, name: str) -> bool:
        key = (method.title, name)
        if key not in self._now.ready:
            self._now.ready[key] = method.is_ready(federation, federation[name])
        return self._now.ready[key]

    def fleet_terms(self, federation: FederationView, fleet: Fleet) -> list[FleetTerm]:
        """Losses of public batches as terms of a fleet's local steps in the round that opens.

        Args:
            federation: The federation, in a round.
            fleet: Fleet with its members enlisted.
        """
        self._settle(federation.current_round)
        self._now.ready = {}  # Results may have come at the round's start.
        found: dict[Method, None] = {}
        for one in fleet.members if self._planners else ():
            found |= dict.fromkeys(self._plan_of(federation, one.name, federation.current_round).on_public)
        return [PublicTerm(federation, method, fleet) for method in found]


def _first_round(federation: FederationView, name: str) -> int:
    return max(federation.current_round, federation[name].joins_at)


def _with_length(parts: Sequence[Part]) -> tuple[Part, ...]:
    return tuple(part for part in parts if not part.goes_along)


def _num_public(federation: FederationView, parts: Sequence[Part]) -> int:
    return federation.federated_data.num_public if any(part.on == "public" for part in parts) else 0


def _goes_along(federation: FederationView, name: str, part: Part, batch_idx: int) -> bool:
    """True if a part goes along with a batch, which may lie in a pass that it leaves out."""
    if part.last_epochs is None:
        return True
    source = federation.federated_data.source(name)
    work = federation.work_of(name, federation.current_round)
    epochs = work.passes(source)
    if part.last_epochs >= epochs:
        return True
    # In whole numbers: 9 * (1 - 2 / 3) is more than 3.
    return work.own_index(batch_idx) * epochs >= work.own_batches(source) * (epochs - part.last_epochs)
