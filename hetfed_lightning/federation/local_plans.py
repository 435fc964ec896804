"""Plans of the participants' local work, collected from the run's methods, checked, and looked up batch by batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hetfed_lightning.federated_callback import acting_callbacks
from hetfed_lightning.methods.method import Method
from hetfed_lightning.methods.plans import Moment, Part, PlanError, Span, spans

if TYPE_CHECKING:
    import lightning as L

    from hetfed_lightning.federation_view import FederationView
    from hetfed_lightning.participants.participant import Participant


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
        acting = acting_callbacks(trainer)
        self._planners = [one for one in acting if isinstance(one, Method) and type(one).plan is not Method.plan]

    @property
    def is_empty(self) -> bool:
        """True if no method plans."""
        return not self._planners

    def check(self, federation: FederationView) -> None:
        """Check the plan of each participant's first round.

        Raises:
            PlanError: If a plan cannot be followed.
        """
        for name, participant in federation.members().items():
            self.of(federation, name, max(federation.current_round, participant.joins_at))

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


def planned(method: Method, participant: Participant, moment: Moment, round_index: int) -> tuple[Part, ...]:
    """Plan of a method for one participant, checked.

    Args:
        method: Method that plans.
        participant: The participant.
        moment: Moment of the work.
        round_index: Index of the round, from 0.

    Raises:
        PlanError: If it cannot be followed; names the participant, the round and the method.
    """
    found: Any = method.plan(participant, moment, round_index)
    where = f"{participant.label}, round {round_index}: {method.title}.plan for the moment {moment!r}"
    if not isinstance(found, Sequence) or not all(isinstance(part, Part) for part in found):
        raise PlanError(f"{where}: expected Parts in a list, got {found!r}. Return [Part(epochs=1)], or () for none.")
    keys = [key for key, _ in participant.named_parameters()] if found else []
    for part in found:
        _check(part, participant, moment, keys, where)
    return tuple(found)


def _check(part: Part, participant: Participant, moment: Moment, keys: Sequence[str], where: str) -> None:
    if moment == "local" and part.on != "own":
        raise PlanError(
            f"{where}: local steps are on own data, got Part(on={part.on!r}). Plan such steps for the moment "
            "'received', or add the public loss in example_loss."
        )
    if part.optimizer is None and part.trains_everything:
        return
    if not participant.automatic_optimization:
        raise PlanError(
            f"{where}: it steps its optimizers itself, so that Part(trains=..., optimizer=...) cannot be heeded. Give "
            "lengths alone, or leave automatic_optimization on."
        )
    try:
        trained = part.keys(keys)
    except ValueError as error:
        raise PlanError(f"{where}: Part(trains=...): {error}. Name a module, a key or an fnmatch pattern.") from None
    if not trained:
        raise PlanError(f"{where}: Part(trains={part.trains!r}) leaves nothing to train. Exclude less.")
