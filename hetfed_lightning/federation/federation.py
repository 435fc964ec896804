"""Federation: participants trained side by side in one Trainer, with one round per epoch."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import lightning as L
from torch import nn

from hetfed_lightning.callbacks.monitor import FederationMonitor
from hetfed_lightning.callbacks.progress_bar import take_lightnings_place
from hetfed_lightning.checkpointing.compact import compact
from hetfed_lightning.checkpointing.file_names import keep_names_flat
from hetfed_lightning.checkpointing.harmless import LoadsHarmlessly
from hetfed_lightning.checkpointing.plugin import make_safe
from hetfed_lightning.checkpointing.readable import check_readable
from hetfed_lightning.data.loaders import LocalWork, RoundLoader
from hetfed_lightning.data.module import FederatedDataModule
from hetfed_lightning.data.name_checks import did_you_mean
from hetfed_lightning.federated_callback import FederatedCallback, acting_callbacks, federated_callbacks, raise_event
from hetfed_lightning.federation.checkpoint_entries import own_parts, saved_participants, without_poison
from hetfed_lightning.federation.cohort import Roster
from hetfed_lightning.federation.epoch_schedules import EpochSchedules
from hetfed_lightning.federation.evaluation import evaluate, owner_of, predict, skip_empty_validation
from hetfed_lightning.federation.forwarded_hooks import HandsOnHooks, check_hooks
from hetfed_lightning.federation.lightning_progress import tell_that_nothing_was_left
from hetfed_lightning.federation.local_plans import LocalPlans
from hetfed_lightning.federation.log_writer import LogBook, is_fitting
from hetfed_lightning.federation.member_storage import MemberStorage
from hetfed_lightning.federation.own_trainer import OwnTrainer
from hetfed_lightning.federation.preemption import Preemption
from hetfed_lightning.federation.preflight import (
    check_data,
    check_members,
    check_names,
    check_trainer,
    tell_of_no_exchange,
)
from hetfed_lightning.federation.preflight_methods import check_methods
from hetfed_lightning.federation.preflight_monitors import check_monitors
from hetfed_lightning.federation.preflight_owners import check_owners
from hetfed_lightning.federation.preflight_privacy import check_gradients, check_privacy
from hetfed_lightning.federation.resume import take_on_precision
from hetfed_lightning.federation.resumed_run import ResumedRun, fit_to_participants
from hetfed_lightning.federation.round_clock import RoundClock
from hetfed_lightning.federation.round_length import expect_batches, warn_of_accumulation
from hetfed_lightning.federation.round_state import RoundState
from hetfed_lightning.federation.training_watch import tell_that_training_begins
from hetfed_lightning.fleets import EngineName, Fleets
from hetfed_lightning.local_training.backward import go_backward
from hetfed_lightning.local_training.local_optimization import LocalOptimization
from hetfed_lightning.local_training.local_step import check_shaping, take_local_step, take_public_step
from hetfed_lightning.local_training.privacy_budgets import epsilons, give_privacy
from hetfed_lightning.local_training.scales import skipped_steps
from hetfed_lightning.local_training.step_hooks import StepHooks
from hetfed_lightning.local_training.steps_by_hand import hear_steps_by_hand
from hetfed_lightning.logs.metric_store import QUARANTINED, Reduced, quarantine_flags
from hetfed_lightning.methods.answering import Answering
from hetfed_lightning.methods.local_carrier import LocalCarrier
from hetfed_lightning.methods.method import Method
from hetfed_lightning.methods.method_figures import MethodFigures, Titled
from hetfed_lightning.methods.own_modules import give_modules
from hetfed_lightning.methods.public_fleets import learn_in_fleets
from hetfed_lightning.participants.fit_to_data import (
    fit_to_own_data,
    take_class_shares,
    take_up_schemas,
    warn_of_unfitted,
    warn_without_shares,
)
from hetfed_lightning.participants.groups import ParticipantGroup, expanded
from hetfed_lightning.participants.layer_checks import check_initialised, check_memory
from hetfed_lightning.participants.newcomer import hold_still, let_go
from hetfed_lightning.participants.participant import OWN, STUDENT, Participant, Scope, Stage
from hetfed_lightning.participants.separation import keep_apart
from hetfed_lightning.seeding import seed_sample, stream_seed, streams_kept
from hetfed_lightning.strategies.ranks import Ranks
from hetfed_lightning.strategies.strategy import ranks_of

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

    from hetfed_lightning.federation.finite_guard import FiniteGuard
    from hetfed_lightning.federation.member_storage import SpareStorage
    from hetfed_lightning.methods.byte_count import ByteCount

log = logging.getLogger(__name__)


class Federation(LoadsHarmlessly, HandsOnHooks):  # type: ignore[misc]  # as its data
    """Participants that learn together, as one LightningModule.

    ``Trainer(max_epochs=R)`` runs R rounds. Callbacks decide what participants share
    (:class:`~hetfed_lightning.BackboneAveraging`, :class:`~hetfed_lightning.EnsembleDistillation`); without any, each
    trains alone.

    Args:
        participants: Participants by name (letters, digits, ``_`` and ``-``), in the order of their steps; a
            :class:`~hetfed_lightning.ParticipantGroup` stands for many.
        student: Unified model that learns from the participants' ensemble alone; None for no student.
        participation: Fraction of the joined participants sampled for each round, in (0, 1]; at least one is sampled.
        min_participants: Smallest number of participants left after quarantine, at least 1; with fewer the run ends
            with an error that names them.
        seed: Seed of every random stream of the run, together with round, participant and batch. Initial weights are
            drawn when the participants are made: call ``lightning.seed_everything`` before that.
        predict_with: Predictor of ``Trainer.predict``: a participant's name, ``"student"``, or None for the student if
            there is one, else every participant on its own test set.
        engine: Training of participants with one architecture: ``"sequential"`` one after another, ``"vmap"`` or
            ``"batched"`` (chains of linear layers) all at once if possible, ``"auto"`` the fastest on the first batch.

    Raises:
        ValueError: If there is no participant, a name is unusable, two participants hold parts of one network, or a
            setting is out of its range.
    """

    def __init__(
        self,
        participants: Mapping[str, Participant | ParticipantGroup],
        student: Participant | None = None,
        *,
        participation: float = 1.0,
        min_participants: int = 1,
        seed: int = 0,
        predict_with: str | None = None,
        engine: EngineName = "auto",
    ) -> None:
        super().__init__()
        members = expanded(participants)
        check_members(members, student)
        keep_apart(members if student is None else members | {STUDENT: student})
        if not 0 < participation <= 1:
            raise ValueError(f"participation: expected a fraction in (0, 1], got {participation}.")
        if min_participants < 1:
            raise ValueError(f"min_participants: expected at least 1, got {min_participants}.")
        predictors = [*members, *([] if student is None else [STUDENT])]
        if predict_with is not None and predict_with not in predictors:
            raise ValueError(f"predict_with: no participant {predict_with!r}{did_you_mean(predict_with, predictors)}.")
        self.automatic_optimization = False
        self.participation = participation
        self.min_participants = min_participants
        self.seed = seed
        self.predict_with = predict_with
        self.participants = nn.ModuleDict()
        for name, participant in members.items():
            participant.attach(name, self)
            self.participants[name] = participant
        self.student = student
        if student is not None:
            student.attach(STUDENT, self)
        self.roster = Roster()
        self.storage = MemberStorage()
        self.fleets = Fleets(engine)
        self.local: dict[str, LocalOptimization] = {}
        self.round_state = RoundState()
        self.plans = LocalPlans()
        self.logbook = LogBook()
        self.ranks = Ranks()
        self.preemption: Preemption | None = None
        self.has_trained = False
        self.schedules = EpochSchedules()
        self.resumed = ResumedRun()
        self.step_hooks = StepHooks()
        self.answering: Answering | None = None
        self.method_figures = MethodFigures()

    def __getstate__(self) -> dict[str, Any]:
        # Optimizers belong to a run; every fit makes new ones.
        return dict(super().__getstate__()) | {
            "local": {},
            "fleets": Fleets(self.fleets.wanted),
            "ranks": Ranks(),
            "preemption": None,
            "step_hooks": StepHooks(),
            "answering": None,
            "method_figures": MethodFigures(),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a copy and attach its participants, whose references to the original are not copied."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        for name, participant in self.everyone().items():
            participant.attach(name, self)

    # Participants

    def __getitem__(self, name: str) -> Participant:
        if name == STUDENT and self.student is not None:
            return self.student
        return cast("Participant", self.participants[name])

    def members(self) -> dict[str, Participant]:
        """Participants by name, without the student."""
        return {name: cast("Participant", participant) for name, participant in self.participants.items()}

    def everyone(self) -> dict[str, Participant]:
        """Participants by name, and the student if there is one."""
        return self.members() | ({} if self.student is None else {STUDENT: self.student})

    def joined(self, round_index: int) -> list[str]:
        """Names of participants that have joined by a round and have not left."""
        return self.roster.joined(self.participants, round_index)

    def newcomers(self, round_index: int) -> list[str]:
        """Names of participants whose first round it is, later than the first of all."""
        return self.roster.newcomers(self.participants, round_index)

    def active_names(self, round_index: int) -> list[str]:
        """Names of participants that train in a round: all joined ones, or the sample set by ``participation``."""
        return self.roster.active(self.participants, round_index, self.participation, self.seed)

    def joined_at(self, name: str) -> int:
        """Index of the first round of a participant's membership."""
        return self[name].joins_at

    @property
    def has_student(self) -> bool:
        """True if there is a unified model that learns from the participants."""
        return self.student is not None

    def trained(self, round_index: int) -> list[str]:
        """Names of everyone whose weights a round changes: active participants, and the student if there is one."""
        return self.active_names(round_index) + ([] if self.student is None else [STUDENT])

    def drop(self, name: str) -> Participant:
        """The participant of a name, or the student, which leaves before a run and belongs to no federation."""
        leaver = self[name]
        if leaver is self.student:
            self.student = None
        else:
            del self.participants[name]
        leaver.detach()
        return leaver

    def trained_here(self, round_index: int) -> list[str]:
        """Names of the participants that train in a round in this process."""
        return list(filter(self.ranks.hosts, self.active_names(round_index)))

    def measured_here(self) -> list[str]:
        """Names of the participants that this process evaluates, with the student."""
        return list(filter(self.ranks.measures, self.everyone()))

    def contributors(self) -> list[str]:
        """Names of the current round's active participants without quarantined ones, whose states may be sent."""
        return [name for name in self.active_names(self.current_round) if name not in self.guard.quarantined]

    # Storage that participants have in common

    @property
    def spare(self) -> SpareStorage:
        """Memory for those who train next."""
        return self.storage.spare

    def materialise(self, name: str) -> None:
        """Give a participant storage of its own for what it borrows, as a round opens in which it trains."""
        self.storage.materialise(name, self[name])

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        return super()._apply(self.storage.keeping_loans(fn, self.everyone()), recurse)  # type: ignore[no-untyped-call]

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As ``Module.load_state_dict``; participants whose tensors are one in ``state_dict`` borrow one."""
        self.storage.expect(self.everyone(), self.prefix_of, state_dict, assign=assign)
        return super().load_state_dict(state_dict, strict, assign)

    # The schedule of a round

    @property
    def current_round(self) -> int:
        """Index of the round in progress, from 0; 0 outside of a run."""
        return 0 if self._trainer is None else self.trainer.fit_loop.epoch_progress.current.processed  # type: ignore[attr-defined]

    @property
    def batches_done(self) -> int:
        """Number of the round's batches already trained."""
        return self.trainer.fit_loop.epoch_loop.batch_progress.current.ready

    def work_of(self, name: str, round_index: int) -> LocalWork:
        """Work of a participant in a round, from its plan, or from its own settings if no method plans.

        Args:
            name: Name of the participant.
            round_index: Index of the round, from 0.
        """
        participant = self[name]
        poisson = participant.privacy is not None
        if not (parts := self.plans.of(self, name, round_index)):
            least = participant.min_steps or 0
            return LocalWork(participant.local_epochs, participant.step_budget, poisson, min_steps=least)
        own = [part for part in parts if part.on != "public"]
        epochs, steps = sum(part.epochs or 0 for part in own), sum(part.steps or 0 for part in own)
        without = self.plans.without_own_batch(self, name, round_index)
        return LocalWork(epochs, None, poisson, steps, without=without)

    def rounds_ahead(self) -> Sequence[int]:
        """Indices of the run's rounds whose plans may differ in length; the current one alone if no method plans."""
        now = self.current_round
        return [now] if self.plans.is_empty else self._clock.rounds_ahead(self.trainer, now)

    @property
    def _clock(self) -> RoundClock:
        callbacks: list[L.Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        return next(one for one in callbacks if isinstance(one, RoundClock))

    def limit_batches(self, batches: int) -> int:
        """Number of a participant's batches after ``limit_train_batches``; a fraction is of *its* own, at least 1."""
        limit = self.trainer.limit_train_batches
        if isinstance(limit, int):
            return min(batches, limit)
        return batches if limit is None else max(min(1, batches), int(batches * limit))

    def expect_batches(self, batches: int) -> int:
        """Number of batches of the round about to begin or resume, set to ``batches`` in Lightning."""
        return expect_batches(self.trainer, batches)

    @property
    def federated_data(self) -> FederatedDataModule:
        """Data module in use.

        Raises:
            TypeError: If the trainer was given something else.
        """
        datamodule = getattr(self.trainer, "datamodule", None)
        if not isinstance(datamodule, FederatedDataModule):
            raise TypeError(
                f"A federation trains on a FederatedDataModule, got {type(datamodule).__name__}. Pass "
                "datamodule=FederatedDataModule(train={'name': dataset, ...}) to Trainer.fit."
            )
        return datamodule

    # The round in progress, as others read it

    @property
    def opened_round(self) -> int:
        """The round that was opened last, from 0; -1 before the first."""
        return self.round_state.index

    @property
    def round_is_open(self) -> bool:
        """True between a round's first batch and the end of its exchanges."""
        return self.round_state.is_open

    @property
    def guard(self) -> FiniteGuard:
        """Participants taken out of the round, and everyone's last finite states."""
        return self.round_state.guard

    @property
    def byte_count(self) -> ByteCount:
        """Bytes of the round's messages."""
        return self.round_state.byte_count

    @property
    def adding(self) -> Sequence[FederatedCallback]:
        """Callbacks that add terms to the losses of the round."""
        return self.round_state.adding

    @property
    def shaping(self) -> Sequence[FederatedCallback]:
        """Callbacks that change the loss of each example of the round."""
        return self.round_state.shaping

    def hear(self, callbacks: Iterable[FederatedCallback]) -> None:
        """Let those callbacks that add to losses, or shape them, be asked in the steps that follow."""
        self.round_state.hear(callbacks, self)

    # Lightning's hooks: beginning

    def configure_callbacks(self) -> list[L.Callback]:
        """Clock of the round's events, and monitor and progress bar unless the user brought others."""
        check_trainer(self.trainer)
        keep_names_flat(self.trainer)
        present = {type(callback) for callback in self.trainer.callbacks}  # type: ignore[attr-defined]
        own = [kind() for kind in (FederationMonitor, RoundClock) if not any(issubclass(one, kind) for one in present)]
        return [*own, *take_lightnings_place(self.trainer)]

    def setup(self, stage: str) -> None:
        """Attach the trainer to the participants, since Lightning sets it for direct children alone."""
        if stage == "fit":  # Comes before a checkpoint is read, which may set them again.
            self.schedules.begin(self.current_round)
            self.resumed = ResumedRun()
            # Lightning 2.6 asks torch 2.13 in a way that torch deprecates; a user can do nothing about it.
            warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated")
            # With every_n_train_steps; a federation's checkpoints are meant to hold what the steps have made.
            warnings.filterwarnings("ignore", message="Using ModelCheckpoint with manual optimization")
            self.has_trained = False
            self.logbook.begin()
            self.plans.begin(self.trainer)
            self.fleets.forget()
            self.roster.begin()
        make_safe(self.trainer)
        self.preemption = Preemption(self.trainer)
        self.ranks = ranks_of(self)
        self._take_back()
        afresh = stage == "fit" and self.trainer.current_epoch == 0
        for method in self._methods():
            method.begin_run(self, afresh=afresh)
        check_methods(acting_callbacks(self.trainer))
        give_modules(self, fit=stage == "fit")
        self.answering = Answering(self)
        if stage == "fit":
            check_shaping(acting_callbacks(self.trainer), self.members().values())
        for participant in self.everyone().values():
            check_initialised(participant, participant.label)
            check_memory(participant, participant.label)
            participant.trainer = cast("L.Trainer", OwnTrainer(self.trainer, self, cast("str", participant.name)))
        super().setup(stage)

    def _take_back(self) -> None:
        """Become the host again of participants that another federation has taken, or that have trained alone since."""
        for name, participant in self.everyone().items():
            if participant.host is not self:
                if participant.host is not None:
                    log.info("%s leaves another federation to be %r in this one.", participant.label, name)
                participant.attach(name, self)

    def configure_optimizers(self) -> Any:
        """Optimizers and schedulers of all participants, in the order of the participants."""
        self.local = {name: LocalOptimization.of(participant) for name, participant in self.everyone().items()}
        check_owners(self.local)
        self.resumed.take_up_optimizers(self.local)
        optimizers = [optimizer for local in self.local.values() for optimizer in local.optimizers]
        schedulers = [
            {"scheduler": schedule.scheduler, "name": f"lr/{name}"}
            for name, local in self.local.items()
            for schedule in local.schedules
        ]
        return optimizers, schedulers

    def on_fit_start(self) -> None:
        """Fit transforms and tasks, and refuse data that does not fit the participants."""
        check_hooks(self.everyone())
        check_names(self.members(), self.federated_data)
        self.plans.check(self)
        check_privacy(self)
        take_up_schemas(self.members(), self.federated_data)
        for name, participant in self.members().items():
            fit_to_own_data(participant, self.federated_data.data.train[name], self.federated_data.collate_fn)
        check_data(self, self.federated_data)
        take_class_shares(self.members(), self.federated_data)
        self.plans.check_public(self)
        tell_of_no_exchange(self)
        check_monitors(self, self.federated_data, self.resumed.rounds_done(otherwise=0))
        give_privacy(self)
        check_gradients(self)
        self.ranks.prepare()
        self.method_figures = MethodFigures(self._methods())
        for method in self._methods():
            if method.carrier is None:
                method.carrier = LocalCarrier(method)
        with streams_kept(self.device):
            raise_event(self, "prepare", 0)
        acting = acting_callbacks(self.trainer)
        self.step_hooks = StepHooks(self.trainer, [one for one in acting if one.follows_steps()])
        for local in self.local.values():
            local.hooks = self.step_hooks
            hear_steps_by_hand(local)
        self.resumed.take_up_accounts(self)
        super().on_fit_start()

    def on_fit_end(self) -> None:
        """Call ``on_fit_end`` of the participants, and warn of a fit that had nothing left to do."""
        super().on_fit_end()
        if not self.has_trained:
            tell_that_nothing_was_left(self.trainer)

    def on_train_start(self) -> None:
        """Call ``on_train_start`` of the participants."""
        self.has_trained = True
        self.train_loader().set_epoch(self.current_round)
        self.resumed.settle(self.trainer)
        skip_empty_validation(self.trainer)
        super().on_train_start()
        self.ranks.begin()
        if self.resumed.is_before_validation:
            self.hear(federated_callbacks(self.trainer))
            self.fleets.take_seats(self)
            self.resumed.pass_validation()
        self.round_state.close()
        tell_that_training_begins()

    def on_train_end(self) -> None:
        """Gather all participants in this process, also after an interrupted round, and call their ``on_train_end``."""
        self.ranks.synchronise(list(self.everyone()))
        super().on_train_end()
        self._end_if_told()

    # The round

    def open_round(self, round_index: int, *, resumed: bool = False) -> None:
        """Seed the process, store finite states, and make up for scheduler steps that a checkpoint cut off.

        Args:
            round_index: Index of the round, from 0.
            resumed: True if the round resumes from a checkpoint inside it.
        """
        self._step_epoch_schedulers(round_index)
        seed_sample(stream_seed(self.seed, "round", round_index))
        trained = self.trained(round_index)
        left = [name for name, one in self.members().items() if one.leaves_at == round_index]
        # A participant that leaves takes its weights along.
        self.storage.materialise_active(self.everyone(), trained + left)
        for name in trained:
            hold_still(self[name], round_index)
        self.round_state.open(round_index, {name: self[name] for name in trained})
        for name in trained:
            self.local[name].open_round()
        if not resumed:
            warn_of_accumulation(self, round_index)
        elif saved := self.resumed.round_saved(round_index):
            self.round_state.load_state_dict(self.ranks.resumed(saved), self.local, self.logbook, self.device)
        self.hand_on("on_train_epoch_start", names=self.trained_here(round_index))

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        """Local step of every participant that has a batch, each with backward pass and step before the next."""
        for name, own in self.fleets.train(self, batch, batch_idx).items():
            take_local_step(self, name, own, batch_idx)
        for name in learn_in_fleets(self, self.plans.on_public(self, batch_idx), batch_idx):
            take_public_step(self, name, batch_idx)
        self.logbook.write_steps(self.trainer)
        # Lightning counts optimizer steps; for loggers, max_steps and checkpoints a federation's step is a batch.
        progress = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        progress.increment_ready()
        progress.increment_completed()

    def on_train_batch_end(self, *args: Any) -> None:
        """End the run if a signal asked for it, after all callbacks of the batch."""
        del args
        self._end_if_told()

    def _end_if_told(self) -> None:
        if self.preemption is not None:
            self.preemption.look(self)

    def backward_of(self, participant: Participant, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Compute the gradients of a participant's loss, with everything that ``manual_backward`` does.

        Args:
            participant: Owner of the loss.
            loss: Loss, a scalar.
            args: Further arguments of ``Tensor.backward``.
            kwargs: Further arguments of ``Tensor.backward``.
        """
        go_backward(self.trainer, participant, loss, self.step_hooks, *args, **kwargs)

    def finish_local_work(self) -> None:
        """Step on the gradients of incomplete accumulations."""
        for name in self.trained_here(self.current_round):
            self.local[name].finish(self.ranks.reduction)
            self.local[name].leave()

    def quarantine(self, name: str, reason: str) -> None:
        """Quarantine a participant for the rest of the round, and restore its state of the round's beginning.

        Args:
            name: Name of the participant.
            reason: Reason for the log.
        """
        self.guard.quarantine(name, self[name], self.local[name].optimizers, self.current_round, reason)
        self.local[name].restart_scale()

    def count_bytes(self, method: str, *, up: int = 0, down: int = 0) -> None:
        """Count bytes of a method's messages in this round.

        Args:
            method: Title of the method.
            up: Bytes from participants.
            down: Bytes to participants.
        """
        self.byte_count.count(method, up=up, down=down)

    def log_figures(self, method: Titled, figures: Mapping[str, float]) -> None:
        """Log a method's figures for the round.

        Args:
            method: The method.
            figures: Numbers by key.

        Raises:
            MessageError: If another method of the run has logged one of that name.
        """
        self.log_round(self.method_figures.tagged(method, figures, self.current_round))

    @property
    def bytes_up(self) -> int:
        """Bytes sent by participants in this round."""
        return self.byte_count.up

    @property
    def bytes_down(self) -> int:
        """Bytes received by participants in this round."""
        return self.byte_count.down

    def close_round(self) -> None:
        """Reduce and log the metrics and counters of the round."""
        figures = {
            "quarantined": len(self.guard.quarantined),
            "participants": len(self.contributors()),
        }
        figures |= self.byte_count.figures()
        figures |= skipped_steps({name: self.local[name] for name in self.trained(self.opened_round)})
        self.log_round(epsilons(self.members()))
        self.log_round({f"federation/{name}": float(value) for name, value in figures.items()} | self._left_out())
        self._publish("train")
        self.round_state.close()

    def _left_out(self) -> dict[str, float]:
        """``quarantined/NAME`` of everyone who ever was: 1 in rounds that went on without it, 0 in others."""
        known = self.resumed.metrics.keys() | self.trainer.callback_metrics.keys()
        metrics = (key.split("/", 1) for key in known if key.startswith(f"{QUARANTINED}/"))
        return quarantine_flags([name for _, name in metrics], self.guard.quarantined)

    def on_train_epoch_end(self) -> None:
        """Step the schedulers that count rounds."""
        self.hand_on("on_train_epoch_end", names=self.trained_here(self.current_round - 1))
        self._publish("train")
        if saved := self.resumed.round_saved(self.current_round - 1):
            # Logged before the checkpoint that this round was resumed from, and not yet written by any logger.
            self.logbook.put_before("train", saved["logged"])
        self.logbook.write(self.trainer, "train", self.current_round)
        self._step_epoch_schedulers(self.current_round)
        self.resumed.end()
        self.ranks.end_round()

    def begin_schedules(self, round_index: int) -> None:
        """Set the first round that schedulers count."""
        self.schedules.begin(round_index)

    def _step_epoch_schedulers(self, round_index: int) -> None:
        self.schedules.catch_up(self, round_index, self.resumed.metrics)

    def teardown(self, stage: str) -> None:
        """Call ``teardown`` of the participants, and end worker processes."""
        self.fleets.disband()
        for participant in self.everyone().values():
            let_go(participant)
        super().teardown(stage)
        self.answering = None  # By hand a participant is asked for its network.
        self.roster.end()
        self.close_loader()

    # Evaluation

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Evaluate the owner of the data, or all participants on global data.

        Args:
            batch: Batch on the device.
            batch_idx: Index of the batch in its loader.
            dataloader_idx: Index of the loader.
        """
        evaluate(self, "validation", owner_of(self.trainer.val_dataloaders, dataloader_idx), batch, batch_idx)

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Evaluate the owner of the data, or all participants on global data.

        Args:
            batch: Batch on the device.
            batch_idx: Index of the batch in its loader.
            dataloader_idx: Index of the loader.
        """
        evaluate(self, "test", owner_of(self.trainer.test_dataloaders, dataloader_idx), batch, batch_idx)

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        """Predictions of ``predict_with``, or of the owner of the data.

        Args:
            batch: Batch on the device.
            batch_idx: Index of the batch in its loader.
            dataloader_idx: Index of the loader.
        """
        return predict(self, owner_of(self.trainer.predict_dataloaders, dataloader_idx), batch, batch_idx)

    def on_validation_model_zero_grad(self) -> None:
        """Clear gradients before a validation, except those of an incomplete accumulation."""
        for local in self.local.values():
            if not local.is_accumulating:
                local.participant.zero_grad()

    def on_validation_start(self) -> None:
        """Warn of participants whose task has not been fitted, and call their hook."""
        warn_of_unfitted(self.members())
        self._begin_answering()
        super().on_validation_start()

    def on_test_start(self) -> None:
        """Warn of participants whose task has not been fitted, and call their hook."""
        warn_of_unfitted(self.members())
        self._begin_answering()
        super().on_test_start()

    def on_predict_start(self) -> None:
        """Warn of participants without the class shares that ``own_prior`` weighs, and call their hook."""
        warn_without_shares(self.members())
        self._begin_answering()
        super().on_predict_start()

    def _begin_answering(self) -> None:
        """Give methods what the checkpoint has of them; in a fit they have it."""
        if self.answering is not None and not is_fitting(self.trainer):
            done = self.resumed.rounds_done(otherwise=self.current_round)
            self.answering.begin(self, max(0, done - 1), of_checkpoint=self.resumed.has_read)

    def on_validation_epoch_start(self) -> None:
        """Seed the process, so that a validation after a resume has the same draws as without."""
        seed_sample(stream_seed(self.seed, "validation", self.current_round))
        super().on_validation_epoch_start()
        self.fleets.open_validation(self)

    def on_validation_epoch_end(self) -> None:
        """Publish each participant's metrics, and the federation's summary of them."""
        super().on_validation_epoch_end()
        self._publish("val")

    def on_validation_end(self) -> None:
        """End the run if a signal asked for it."""
        super().on_validation_end()
        if is_fitting(self.trainer) and not self.trainer.sanity_checking:
            self._end_if_told()

    def on_test_epoch_end(self) -> None:
        """Publish each participant's metrics, and the federation's summary of them."""
        super().on_test_epoch_end()
        self._publish("test")

    # Logs

    @property
    def scope(self) -> Scope:
        """``"global"`` while global data is evaluated, else ``"own"``."""
        return self.logbook.scope

    def log_for(self, participant: Participant, name: str, value: Any, *args: Any, **kwargs: Any) -> None:
        """Record a participant's value; see :meth:`Participant.log`.

        Args:
            participant: Participant that logs.
            name: Name of the metric.
            value: Number, scalar tensor or metric.
            args: Further arguments of ``LightningModule.log``.
            kwargs: Further arguments of ``LightningModule.log``.
        """
        self.logbook.note(self, participant, name, value, *args, **kwargs)

    def log_round(self, values: Mapping[str, float], *, prog_bar: bool = False) -> None:
        """Log metrics of the federation for the round; NaN goes to no logger.

        Args:
            values: Metrics by tag.
            prog_bar: True to show them in progress bars.
        """
        self.logbook.log(
            self, {key: Reduced(value, prog_bar, logger=not math.isnan(value)) for key, value in values.items()}
        )

    def _publish(self, stage: Stage) -> None:
        if stage == "val" and is_fitting(self.trainer):
            trained = self.current_round + 1
        else:  # Of the checkpoint that is evaluated, or of the run before.
            trained = self.resumed.rounds_done(otherwise=self.current_round)
        self.logbook.publish(self, stage, trained)

    def _methods(self) -> list[Method]:
        return [one for one in federated_callbacks(self.trainer) if isinstance(one, Method)]

    # Host of the participants

    def outputs_of(self, participant: Participant, inputs: Any) -> dict[str, Tensor]:
        """Outputs of a participant by model; see :meth:`Participant.outputs_by_model`.

        Args:
            participant: Participant that is evaluated.
            inputs: Inputs of its backbone, of B examples.
        """
        if self.answering is None:
            return {OWN: participant(inputs)}
        return self.answering.outputs(self, participant, inputs)

    def optimizers_of(self, participant: Participant, *, scaled: bool = False) -> list[Optimizer]:
        """Optimizers of a participant.

        Args:
            participant: Owner of the optimizers.
            scaled: Returns optimizers whose steps heed the loss scale.
        """
        return self.local[cast("str", participant.name)].handed_out(scaled=scaled)

    def schedulers_of(self, participant: Participant) -> list[Any]:
        """Learning-rate schedulers of a participant."""
        return [schedule.scheduler for schedule in self.local[cast("str", participant.name)].schedules]

    def close_loader(self) -> None:
        """End the worker processes of the training data, if there are any."""
        if isinstance(loader := self.trainer.train_dataloader, RoundLoader):
            loader.close()

    def train_loader(self) -> RoundLoader:
        """Loader of the run in progress."""
        return cast("RoundLoader", self.trainer.train_dataloader)

    # Checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save optimizers by participant's name, and replace non-finite states by the last finite ones."""
        checkpoint["federation"] = saved_participants(self.local, self.schedules.rounds) | {
            "in_progress": self.round_state.state_dict(
                {name: self.local[name] for name in self.trained(self.opened_round)}, self.logbook
            ),
            # A scheduler may follow one that was logged in the round, before a checkpoint inside it.
            "metrics": {key: float(value) for key, value in self.trainer.callback_metrics.items()},
            "own": own_parts(self.everyone()),
            "engines": dict(self.fleets.chosen),
            "run": dict(self.resumed.run),
        }
        self.ranks.complete(checkpoint)
        without_poison(checkpoint, self)
        compact(checkpoint["state_dict"])
        check_readable(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse another federation's checkpoint by name; reorder one with another order of participants."""
        fit_to_participants(checkpoint, self)
        take_on_precision(self)
        self.resumed.read(checkpoint, self, self._trainer)
        self.schedules.begin(self.resumed.scheduled_rounds)
        self.fleets.resume(self.resumed.engines)

    @staticmethod
    def prefix_of(name: str) -> str:
        """Prefix of a participant's keys in the federation's ``state_dict``."""
        return STUDENT if name == STUDENT else f"participants.{name}"
