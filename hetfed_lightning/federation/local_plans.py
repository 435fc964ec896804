"""Plans of the participants' local work, collected from the run's methods, checked, and looked up batch by batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hetfed_lightning.federated_callback import acting_callbacks
from hetfed_lightning.methods.method import Method
from hetfed_lightning.methods.plan_checks import planned
from hetfed_lightning.methods.plans import LATER, Part, PlanError, Span, spans

if TYPE_CHECKING:
    import lightning as L

    from hetfed_lightning.federation_view import FederationView


class LocalPlans:
    """Plans of a federation's participants; without a method that plans, their own settings hold."""

    def __init__(self) -> None:
        self._planners: list[Method] = []
        self._round = -1
        self._parts: dict[str, tuple[Part, ...]] = {}
        self._spans: dict[str, tuple[Span, ...]] = {}

    def __reduce__(self) -> tuple[type[LocalPlans], tuple[()]]:
        """Arguments of a copy, which belongs to no run."""
        return LocalPlans, ()

    def begin(self, trainer: L.Trainer) -> None:
        """Find the methods that plan."""
        self._round, self._parts, self._spans = -1, {}, {}
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
        for name, participant in federation.members().items():
            first = max(federation.current_round, participant.joins_at)
            self.of(federation, name, first)
            for method in self._planners:
                for moment in LATER:
                    planned(method, participant, moment, first)

    def of(self, federation: FederationView, name: str, round_index: int) -> tuple[Part, ...]:
        """Parts of a participant's local work in a round; empty if its own settings hold.

        Args:
            federation: The federation, in a fit.
            name: Name of the participant.
            round_index: Index of the round, from 0.

        Raises:
            PlanError: If they cannot be followed, or two methods have some.
        """
        if not self._planners:
            return ()
        if round_index != federation.current_round:  # Looked ahead.
            return self._asked(federation, name, round_index)
        self._settle(round_index)
        if name not in self._parts:
            self._parts[name] = self._asked(federation, name, round_index)
        return self._parts[name]

    def _settle(self, round_index: int) -> None:
        if self._round != round_index:
            self._round, self._parts, self._spans = round_index, {}, {}

    def _asked(self, federation: FederationView, name: str, round_index: int) -> tuple[Part, ...]:
        found = {
            one.title: parts
            for one in self._planners
            if (parts := planned(one, federation[name], "local", round_index))
        }
        if len(found) > 1:
            raise PlanError(
                f"{federation[name].label}, round {round_index}: {' and '.join(found)} both plan its local work. "
                "Leave out one of them, or have its plan return () for the moment 'local'."
            )
        return next(iter(found.values()), ())

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
        if name not in self._spans:
            self._spans[name] = self.spans_of(federation, name, federation.current_round)
        return next((one for one in self._spans[name] if one.start <= batch_idx < one.stop), None)

    def spans_of(self, federation: FederationView, name: str, round_index: int) -> tuple[Span, ...]:
        """Parts of a round with their places, after the Trainer's limit; empty without a plan.

        Args:
            federation: The federation, in a fit.
            name: Name of the participant.
            round_index: Index of the round, from 0.
        """
        if not (parts := self.of(federation, name, round_index)):
            return ()
        per_epoch = federation.federated_data.source(name).batches_per_epoch
        total = sum(part.batches(per_epoch) for part in parts)
        return spans(parts, per_epoch, federation.limit_batches(total))
