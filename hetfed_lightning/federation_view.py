"""Interface of the federation to callbacks, methods and engines: participants, cohort, round, and services of the run.

:class:`~hetfed_lightning.Federation` satisfies :class:`FederationView`. Code that needs less of it is annotated with
:class:`Company` or :class:`Run`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    import lightning as L
    import torch
    from torch import Tensor, nn

    from hetfed_lightning.data.loaders import LocalWork, RoundLoader
    from hetfed_lightning.data.module import FederatedDataModule
    from hetfed_lightning.fleets.engine import Engine
    from hetfed_lightning.fleets.fleet import Fleet
    from hetfed_lightning.fleets.member import Member
    from hetfed_lightning.fleets.shaping import LossShape
    from hetfed_lightning.fleets.terms import FleetTerm
    from hetfed_lightning.local_training.local_optimization import LocalOptimization
    from hetfed_lightning.local_training.step_hooks import StepHooks
    from hetfed_lightning.logs.metric_store import Ledger
    from hetfed_lightning.logs.undefined import UndefinedFigures
    from hetfed_lightning.methods.method_figures import Titled
    from hetfed_lightning.methods.plans import Moment, Part, Span
    from hetfed_lightning.participants.batch_result import Evaluated
    from hetfed_lightning.participants.participant import Participant, Scope, Stage
    from hetfed_lightning.strategies.ranks import Ranks
    from hetfed_lightning.supervised import Supervised


class Cohorts(Protocol):
    """Cohort of each round, in one process and at the coordinator of institutions alike."""

    @property
    def has_student(self) -> bool:
        """True if there is a unified model that learns from the participants."""

    def joined(self, round_index: int) -> list[str]:
        """Names of participants that have joined by a round and have not left."""

    def newcomers(self, round_index: int) -> list[str]:
        """Names of participants whose first round this is, later than the first of all."""

    def active_names(self, round_index: int) -> list[str]:
        """Names of participants that train in a round."""

    def joined_at(self, name: str) -> int:
        """Index of the first round of a participant's membership."""


class Company(Cohorts, Protocol):
    """Participants of a federation and the cohort of each round."""

    @property
    def participants(self) -> nn.ModuleDict:
        """Participants by name, without the student."""

    @property
    def student(self) -> Participant | None:
        """Unified model that learns from the participants; None without one."""

    @property
    def participation(self) -> float:
        """Fraction in (0, 1] of the joined participants sampled for each round."""

    @property
    def min_participants(self) -> int:
        """Smallest number of participants with which a round goes on, at least 1."""

    def __getitem__(self, name: str) -> Participant:
        """Participant of a name, or the student."""

    def members(self) -> dict[str, Participant]:
        """Participants by name, without the student."""

    def everyone(self) -> dict[str, Participant]:
        """Participants by name, and the student if there is one."""

    def trained(self, round_index: int) -> list[str]:
        """Names of a round's active participants, and of the student if there is one."""

    def trained_here(self, round_index: int) -> list[str]:
        """Names of participants that train in a round in this process."""

    def measured_here(self) -> list[str]:
        """Names of participants, with the student, that this process evaluates."""

    def contributors(self) -> list[str]:
        """Names of the current round's active participants without quarantined ones."""

    @staticmethod
    def prefix_of(name: str) -> str:
        """Prefix of a participant's keys in the federation's ``state_dict``."""


class Run(Protocol):
    """Run of a federation: its Trainer, its data, and the round in progress."""

    @property
    def trainer(self) -> L.Trainer:
        """Trainer of the run."""

    @property
    def device(self) -> torch.device:
        """Device of the participants."""

    @property
    def seed(self) -> int:
        """Seed of the run's random streams."""

    @property
    def current_round(self) -> int:
        """Index of the round in progress, from 0; 0 outside of a run."""

    @property
    def batches_done(self) -> int:
        """Number of the round's batches already trained."""

    @property
    def federated_data(self) -> FederatedDataModule:
        """Data module in use."""

    def train_loader(self) -> RoundLoader:
        """Loader of the run's training data."""

    def limit_batches(self, batches: int) -> int:
        """Number of a participant's batches after ``limit_train_batches``."""

    @property
    def local(self) -> Mapping[str, LocalOptimization]:
        """Optimizers and schedulers by participant; empty outside of a fit."""

    @property
    def ranks(self) -> Ranks:
        """Ranks that train the federation."""

    @property
    def step_hooks(self) -> StepHooks:
        """Callbacks' hooks on gradients and steps."""

    @property
    def plans(self) -> PlansView:
        """Plans of the participants' local work."""

    @property
    def guard(self) -> GuardView:
        """Last finite states, and the quarantined participants of the round."""

    @property
    def fleets(self) -> FleetsView:
        """Participants computed together."""

    @property
    def logbook(self) -> LogsView:
        """Metrics of the run."""

    @property
    def adding(self) -> Sequence[LossCallback]:
        """Callbacks that add to the local losses of the round."""

    @property
    def shaping(self) -> Sequence[LossCallback]:
        """Callbacks that shape the local losses of the round, example by example."""

    def log_round(self, values: Mapping[str, float], *, prog_bar: bool = False) -> None:
        """Log metrics of the federation for the round.

        Args:
            values: Metrics by tag.
            prog_bar: True to show them in progress bars.
        """

    def log_figures(self, method: Titled, figures: Mapping[str, float]) -> None:
        """Log a method's figures for the round.

        Args:
            method: The method.
            figures: Numbers by key.

        Raises:
            MessageError: If another method of the run has logged one of that name.
        """

    def count_bytes(self, method: str, *, up: int = 0, down: int = 0) -> None:
        """Count bytes of a method's messages in this round.

        Args:
            method: Title of the method.
            up: Bytes from participants.
            down: Bytes to participants.
        """

    @property
    def bytes_up(self) -> int:
        """Bytes that participants have sent in this round."""

    @property
    def bytes_down(self) -> int:
        """Bytes that participants have received in this round."""


class FederationView(Company, Run, Protocol):
    """Interface of a federation in a run to callbacks and methods."""

    def work_of(self, name: str, round_index: int) -> LocalWork:
        """Local work of a participant in a round.

        Args:
            name: Name of the participant.
            round_index: Index of the round, from 0.
        """

    def materialise(self, name: str) -> None:
        """Give a participant storage of its own for what it borrows."""

    def quarantine(self, name: str, reason: str) -> None:
        """Quarantine a participant for the rest of the round, and restore its state of the round's beginning.

        Args:
            name: Name of the participant.
            reason: Reason for the log.
        """

    def backward_of(self, participant: Participant, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Compute the gradients of a participant's loss, with everything that ``manual_backward`` does.

        Args:
            participant: Owner of the loss.
            loss: Loss, a scalar.
            args: Further arguments of ``Tensor.backward``.
            kwargs: Further arguments of ``Tensor.backward``.
        """


class GuardView(Protocol):
    """Last finite states of the participants, and the quarantined ones of the round."""

    @property
    def quarantined(self) -> dict[str, str]:
        """Reason of each quarantine, by participant."""

    def hold(self, states: Mapping[str, dict[str, Tensor]]) -> None:
        """Replace the stored states, tensors by participant and key."""

    def safe_state(self, name: str) -> dict[str, Tensor] | None:
        """Last finite state of a participant, tensors by key; None if it never had one."""


class LogsView(Protocol):
    """Ledgers of logged values, and metrics of the round."""

    def see(self, batch: Any) -> None:
        """Take the batch in progress, whose length is the weight of values logged without one."""

    def on_data_of(self, scope: Scope) -> AbstractContextManager[None]:
        """Take what is noted in the body of a ``with`` statement for figures on own data, or on everyone's."""

    @property
    def ledgers(self) -> Mapping[Stage, Ledger]:
        """Logged values by stage."""

    @property
    def rows(self) -> Mapping[Stage, dict[str, float]]:
        """Metrics not yet given to loggers, by stage and tag."""

    @property
    def undefined(self) -> UndefinedFigures:
        """Metrics that the participants' data do not define."""

    def withdraw(self, trainer: L.Trainer, keys: Iterable[str]) -> None:
        """Remove metrics of an earlier round.

        Args:
            trainer: Trainer with the metrics.
            keys: Tags to remove.
        """


class PublicLoss(Protocol):
    """A method, as far as it gives public batches a loss."""

    @property
    def title(self) -> str:
        """Name of the method in tags and messages."""

    @property
    def public_transform(self) -> Callable[[Any], Any] | None:
        """Transform of public inputs as a participant learns from them; None for none."""

    @property
    def shares_order(self) -> bool:
        """True if all participants see the public examples in one order."""

    def public_stream(self, moment: Moment) -> str:
        """First name of the streams that order public examples."""

    def public_loss(
        self,
        federation: FederationView,
        participant: Participant,
        indices: Tensor,
        augment: Callable[[Any], Any] | None = None,
    ) -> Tensor:
        """Loss of a public batch, a scalar."""


class PublicShape(PublicLoss, Protocol):
    """A method that gives public batches of a fleet's members their losses."""

    def public_shape(self, federation: FederationView, fleet: Fleet) -> LossShape:
        """Losses of public examples of a fleet's members."""


class PublicBatch(Protocol):
    """Public batch of one step of a participant."""

    @property
    def method(self) -> PublicLoss:
        """Method that has planned the batch, whose loss is that of the batch."""

    @property
    def indices(self) -> Tensor:
        """Places of the examples in the public set, shape ``(B,)``."""

    def transform_seed(self, federation: FederationView) -> int:
        """Seed of the method's ``public_transform`` on the batch, in [0, 2**63).

        Args:
            federation: The federation, in a round.
        """

    def loss(self, federation: FederationView, participant: Participant) -> Tensor:
        """Loss of the batch, a scalar.

        Args:
            federation: The federation, in a round.
            participant: Participant that learns.
        """


class PlansView(Protocol):
    """Plans of local work, looked up by participant, round and batch."""

    @property
    def is_empty(self) -> bool:
        """True if no method plans."""

    def of(self, federation: FederationView, name: str, round_index: int) -> tuple[Part, ...]:
        """Parts of a participant's local work in a round; empty without a plan.

        Args:
            federation: The federation, in a fit.
            name: Name of the participant.
            round_index: Index of the round, from 0.
        """

    def span_at(self, federation: FederationView, name: str, batch_idx: int) -> Span | None:
        """Part to which a batch of the current round belongs; None without a plan.

        Args:
            federation: The federation, in a round.
            name: Name of a participant with a batch.
            batch_idx: Index of the batch in the round, from 0.
        """

    def reads_public(self, federation: FederationView, name: str) -> bool:
        """True if a participant reads an input of the public set.

        Args:
            federation: The federation, in a fit, with a public set.
            name: Name of the participant, or of the student.
        """

    def learns_by_modules(self, federation: FederationView, name: str) -> bool:
        """True if a participant has modules of a method that plans local steps on public data for it.

        Args:
            federation: The federation, in a round.
            name: Name of the participant.
        """

    def public_at(self, federation: FederationView, name: str, batch_idx: int) -> Sequence[PublicBatch]:
        """Public batches of a participant's local step, with their methods.

        Args:
            federation: The federation, in a round.
            name: Name of the participant.
            batch_idx: Index of the batch in the round, from 0.
        """

    def fleet_terms(self, federation: FederationView, fleet: Fleet) -> list[FleetTerm]:
        """Losses of public batches as terms of a fleet's local steps.

        Args:
            federation: The federation, in a round.
            fleet: Fleet with its members enlisted.
        """

    def spans_of(self, federation: FederationView, name: str, round_index: int) -> tuple[Span, ...]:
        """Parts of a round with their first and last batches; empty without a plan.

        Args:
            federation: The federation, in a fit.
            name: Name of the participant.
            round_index: Index of the round, from 0.
        """

    def later_steps(self, federation: FederationView, name: str, round_index: int, *, resumed: bool) -> int:
        """Number of steps on a participant's own data at the other moments of a round.

        Args:
            federation: The federation, in a fit.
            name: Name of the participant.
            round_index: Index of the round, from 0.
            resumed: True for what is left of a round that was interrupted.
        """

    def check_losses(self, federation: FederationView, name: str) -> None:
        """Refuse losses that mix examples, before steps under DP-SGD at another moment than the round's beginning.

        Args:
            federation: The federation, in a round.
            name: Name of the participant.
        """


class LookaheadView(Protocol):
    """Evaluations of members' own validation sets, computed ahead."""

    def evaluated(self, owner: str, batch: Any, index: int) -> dict[str, Evaluated]:
        """Evaluation of a batch by its owner, by name; empty if it was not computed.

        Args:
            owner: Owner of the data.
            batch: Batch of B examples, on the device.
            index: Index of the batch in its loader.
        """


class FleetsView(Protocol):
    """Participants computed together, looked up by their names."""

    @property
    def has_bystanders(self) -> bool:
        """True if any code of the user's runs in the round."""

    @property
    def lookahead(self) -> LookaheadView:
        """Evaluations computed ahead."""

    def open_round(self, federation: FederationView, names: Sequence[str], *, terms: bool = True) -> None:
        """Form fleets of participants that train in this round.

        Args:
            federation: The federation, in a round.
            names: Names of the participants.
            terms: True to ask callbacks for their terms of the losses.
        """

    def views(
        self, federation: FederationView, names: Sequence[str], keys: Sequence[str] | None = None
    ) -> dict[str, dict[str, Tensor]]:
        """Tensors of each participant, as views by name and key, of the parameters' shapes.

        Args:
            federation: The federation, in a run.
            names: Names of the participants.
            keys: Keys of ``state_dict``; None for all.
        """

    def load(self, federation: FederationView, names: Iterable[str], state: Mapping[str, Tensor]) -> None:
        """Copy one state into several participants.

        Args:
            federation: The federation, in a run.
            names: Names of the participants.
            state: Tensors by key, of the parameters' shapes.
        """

    def learners(self, names: Iterable[str]) -> list[Fleet]:
        """Fleets in which two or more of ``names`` can learn together."""

    def stepping(
        self, federation: FederationView, names: Sequence[str], batch_idx: int
    ) -> Iterator[tuple[Fleet, Engine, list[Member]]]:
        """Fleets whose first members are exactly those of ``names`` that are seated in them, two at least.

        Args:
            federation: The federation, in a round.
            names: Names of the participants that step.
            batch_idx: Index of the step in the round.
        """

    def outputs(self, names: Sequence[str], inputs: Any) -> dict[str, Tensor]:
        """Outputs on common inputs, shape ``(B, C)`` by name, of participants computed together.

        Args:
            names: Names of the participants.
            inputs: Raw inputs, shape ``(B, ...)``.
        """

    def evaluated(self, names: Sequence[str], batch: Any) -> dict[str, Evaluated]:
        """Evaluations of a common batch, by name, of participants computed together.

        Args:
            names: Names of the participants.
            batch: Batch of B examples, on the device.
        """


class LossCallback(Protocol):
    """Callback that adds to local losses or changes them; see :class:`~hetfed_lightning.FederatedCallback`."""

    def local_loss(self, federation: FederationView, participant: Participant, batch_idx: int) -> Tensor | None:
        """Scalar to add to the loss of a local step; None for no term."""

    def loss_is_of_weights(self) -> bool:
        """True if :meth:`local_loss` depends on weights alone."""

    def fleet_term(self, federation: FederationView, fleet: Fleet) -> FleetTerm | None:
        """Term of :meth:`local_loss` for a fleet's members at once; None for no term."""

    def shaped_losses(
        self, federation: FederationView, participant: Participant, losses: Tensor, batch: Supervised
    ) -> Tensor:
        """Loss of each example of a local step, shape ``(B,)``; it replaces ``losses``."""

    def fleet_shape(self, federation: FederationView, fleet: Fleet) -> LossShape | None:
        """Function of the fleet's losses that equals :meth:`shaped_losses`; None if nothing changes."""
