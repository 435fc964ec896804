"""Optimizers and schedulers of one participant, stepped after each of its backward passes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from hetfed_lightning.local_training.loss_scale import LossScale, ScaledOptimizer, scaled_by
from hetfed_lightning.local_training.part_in_progress import PartInProgress
from hetfed_lightning.local_training.step_checks import check_steps
from hetfed_lightning.local_training.step_hooks import StepHooks
from hetfed_lightning.participants.precision import warn_of_vanishing_eps

if TYPE_CHECKING:
    from lightning.pytorch.plugins.precision import Precision
    from torch import nn

    from hetfed_lightning.local_training.dpsgd_steps import PrivateSteps
    from hetfed_lightning.methods.plans import Part
    from hetfed_lightning.participants.participant import Participant

_NOTHING = nullcontext()


Reduction = Callable[[Sequence["nn.Parameter"]], None]
"""Replaces gradients of parameters by their sum over the processes that split a batch."""


@dataclass(frozen=True)
class Schedule:
    """Learning-rate scheduler and the moments of its steps.

    Attributes:
        scheduler: Scheduler from ``torch.optim.lr_scheduler``, or Lightning's ``ReduceLROnPlateau``.
        interval: ``"epoch"`` is a round, ``"step"`` an optimizer step.
        frequency: Steps it every so many intervals, at least 1.
        monitor: Metric that a plateau scheduler follows; ``val_loss`` is the participant's own.
    """

    scheduler: Any
    interval: str = "epoch"
    frequency: int = 1
    monitor: str | None = None

    @property
    def follows_metric(self) -> bool:
        """True if the scheduler needs a metric to step."""
        return isinstance(self.scheduler, ReduceLROnPlateau)


@dataclass
class LocalOptimization:
    """Optimization of one participant: accumulation, clipping, optimizers, schedulers.

    Attributes:
        participant: Owner of the parameters.
        optimizers: Optimizers in the order of ``configure_optimizers``.
        schedules: Learning-rate schedulers.
        scale: Loss scale in half precision; None without one.
        landed: Optimizer steps in this round that changed the weights.
        rates: Sum of the learning rates of those steps, of the first optimizer's first group.
        skipped: Steps in this round left out because of an infinite gradient.
        private: Makes the gradients private before each step; None without DP-SGD.
        hooks: Callbacks' hooks on gradients and steps.
        rests: True if it takes no more steps in this round, since its ``on_train_batch_start`` has returned -1.
        is_stepping: True while :meth:`step` runs, as opposed to a step of the participant itself.
        part: Part of its plan in progress; None without a plan.
    """

    participant: Participant
    optimizers: list[Optimizer]
    schedules: list[Schedule]
    scale: LossScale | None = None
    landed: int = 0
    rates: float = 0.0
    skipped: int = 0
    private: PrivateSteps | None = None
    hooks: StepHooks = field(default_factory=StepHooks)
    is_stepping: bool = field(default=False, init=False)
    rests: bool = field(default=False, init=False)
    part: PartInProgress | None = field(default=None, init=False)
    _saved_part: Mapping[str, Any] | None = field(default=None, init=False)
    _scaled: list[Any] = field(default_factory=list, init=False)
    _pending: int = field(default=0, init=False)
    _steps: int = field(default=0, init=False)

    @classmethod
    def of(cls, participant: Participant) -> LocalOptimization:
        """Optimization with the optimizers and schedulers of ``participant.configure_optimizers()``.

        Raises:
            ValueError: If it returns several optimizers for automatic stepping, one that cannot step the participant's
                gradients, or something that is no optimizer.
        """
        try:
            configured = participant.configure_optimizers()
        except Exception as error:
            error.add_note(f"in configure_optimizers of {participant.label}")
            raise
        optimizers, schedules = _parse(configured, participant.label)
        if len(optimizers) > 1 and participant.automatic_optimization:
            raise ValueError(
                f"{participant.label}: configure_optimizers returned {len(optimizers)} optimizers; set "
                "self.automatic_optimization = False in the participant and step them in its training_step."
            )
        check_steps(participant, optimizers)
        for optimizer in optimizers:
            optimizer.zero_grad()
            warn_of_vanishing_eps(optimizer, participant.label)
        return cls(participant, optimizers, schedules)

    def open_round(self) -> None:
        """Reset the counters for a new round."""
        self.landed = self.skipped = 0
        self.rates = 0.0
        self._pending = 0
        self.rests = False
        self.part = self._saved_part = None

    def enter(self, index: int, part: Part) -> None:
        """Begin a part of the plan; does nothing if it is in progress.

        Args:
            index: Index of the part in the plan, from 0.
            part: The part.
        """
        if self.part is None or self.part.index != index:
            self.part = PartInProgress(self.participant, index, part, self._saved_part)
            self._saved_part = None

    def leave(self) -> None:
        """End the part in progress: later steps train all parameters with the participant's own optimizers."""
        self.part = self._saved_part = None

    @property
    def stepping(self) -> list[Optimizer]:
        """Optimizers of the next step: the participant's own, or that of a part of its plan."""
        return self.optimizers if self.part is None or self.part.optimizer is None else [self.part.optimizer]

    @property
    def is_accumulating(self) -> bool:
        """True if gradients wait for further batches of an accumulation."""
        return self._pending > 0

    def round_state(self) -> dict[str, Any]:
        """State within the round: counters, and gradients of an incomplete accumulation."""
        waiting = self.participant.named_parameters() if self._pending else ()
        gradients = {key: parameter.grad.detach() for key, parameter in waiting if parameter.grad is not None}
        counts = {"landed": self.landed, "rates": self.rates, "skipped": self.skipped, "pending": self._pending}
        state: dict[str, Any] = counts | {"gradients": gradients}
        if self.rests:
            state["rests"] = True
        if part := self._saved_part if self.part is None else self.part.state():
            state["part"] = part
        return state

    def load_round_state(self, state: Mapping[str, Any]) -> None:
        """Continue from the state of :meth:`round_state`."""
        self.landed, self.skipped, self._pending = state["landed"], state.get("skipped", 0), state["pending"]
        self.rests, self.rates = state.get("rests", False), state.get("rates", 0.0)
        self._saved_part = state.get("part")
        parameters = dict(self.participant.named_parameters())
        for key, gradient in state["gradients"].items():
            parameters[key].grad = gradient.to(parameters[key].device, copy=True)

    def descend(
        self,
        loss: Tensor | None,
        backward: Callable[[Participant, Tensor], None],
        reduction: Reduction | None = None,
        after_noise: Sequence[Tensor] = (),
    ) -> None:
        """Run the backward pass of one batch, and a step once enough batches are accumulated.

        Args:
            loss: Loss of the batch, a scalar, or of this process's part of it; None if that part is empty.
            backward: Computes the gradients.
            reduction: Sums the gradients over the processes that split the batch, before each step.
            after_noise: Terms of the weights, scalars, whose gradients are added after the noise of DP-SGD.
        """
        batches = self.participant.accumulate_grad_batches
        if not self._pending:  # As Lightning does: a backward pass of a callback's own may have left something.
            self._clear()
        if loss is not None:
            backward(self.participant, loss if batches == 1 else loss / batches)
        self._pending += 1
        if self._pending >= batches:
            self.step(reduction, after_noise)

    def _clear(self) -> None:
        for optimizer in self.optimizers if self.stepping is self.optimizers else [*self.optimizers, *self.stepping]:
            for parameter in _parameters(optimizer):
                parameter.grad = None

    def finish(self, reduction: Reduction | None = None) -> None:
        """Step on an incomplete accumulation, with the mean over its batches."""
        if self._pending:
            share = self.participant.accumulate_grad_batches / self._pending
            for parameter in self.participant.parameters():
                if parameter.grad is not None:
                    parameter.grad.mul_(share)
            self.step(reduction)

    def step(self, reduction: Reduction | None = None, after_noise: Sequence[Tensor] = ()) -> None:
        """Sum, unscale, clip, step, clear; a step skipped by the loss scale (an infinite gradient) does not count.

        Args:
            reduction: Sums the gradients over the processes that split the batch.
            after_noise: Terms of the weights, scalars, whose gradients are added after the noise of DP-SGD.
        """
        self.is_stepping = True
        try:
            self._step(reduction, after_noise)
        finally:
            self.is_stepping = False
        if self.count_step():
            self.hooks.after_step(self.participant)
            if self.part is None or self.part.optimizer is None:
                self.follow_step()

    def _step(self, reduction: Reduction | None, after_noise: Sequence[Tensor]) -> None:
        self._pending = 0
        participant, scale, part = self.participant, self.scale, self.part
        if self.private is not None and self.private.is_collecting:
            self.private.make_private(participant.trainable_parameters() if part is None else part.trained)
            _add_gradients(participant.trainable_parameters(), after_noise)
        if reduction is not None:
            reduction(participant.trainable_parameters())
        if part is not None:
            part.hold_still()
        for optimizer in self.stepping:
            if scale is not None and (part is None or part.has_gradients):
                scale.unscale_(optimizer)
            self.hooks.call("on_before_optimizer_step", participant, optimizer)
            if participant.gradient_clip_val is not None:
                clip_grad_norm_(_parameters(optimizer), participant.gradient_clip_val)
            if scale is None:
                optimizer.step()
            elif part is None or part.has_gradients:
                scale.step(optimizer)
            self.hooks.call("on_before_zero_grad", participant, optimizer)
            optimizer.zero_grad()

    def follow_step(self) -> bool:
        """Step the schedulers that count optimizer steps, after a step that changed the weights.

        Returns:
            True if there was one.
        """
        self._steps += 1
        if not self.schedules:
            return False
        due = [
            schedule
            for schedule in self.schedules
            if schedule.interval == "step" and not schedule.follows_metric and self._steps % schedule.frequency == 0
        ]
        for schedule in due:
            schedule.scheduler.step()
        return bool(due)

    def count_step(self) -> bool:
        """True if the last step changed the weights; counts it as landed or as skipped."""
        landed = self.scale is None or self.scale.has_landed()
        self.landed += landed
        if landed and (stepping := self.stepping):
            self.rates += float(stepping[0].param_groups[0]["lr"])
        self.skipped += not landed
        return landed

    def handed_out(self, *, scaled: bool) -> list[Optimizer]:
        """Optimizers for a participant that steps by itself.

        Args:
            scaled: Wraps them to heed the loss scale, if there is one.
        """
        if self.scale is None or not scaled:
            return self.optimizers
        if not self._scaled:
            self._scaled = [ScaledOptimizer(optimizer, self.scale) for optimizer in self.optimizers]
        return self._scaled

    def collecting(self) -> AbstractContextManager[None]:
        """Context of a local step, in which gradients are collected by example under DP-SGD."""
        return _NOTHING if self.private is None else self.private.collecting()

    def scaled(self, precision: Precision) -> AbstractContextManager[None]:
        """Context in which the trainer's precision plugin uses this participant's loss scale, if it has one."""
        return _NOTHING if self.scale is None else scaled_by(self.scale, precision)

    def restart_scale(self) -> None:
        """Reset the loss scale, if there is one, to its initial value: non-finite numbers have lowered it."""
        if self.scale is not None:
            self.scale.restart()

    def end_epoch(self, round_index: int, metrics: Mapping[str, Any], *, validated: bool = True) -> None:
        """Step the schedulers that count rounds.

        A scheduler that follows a validation metric waits for the next validation, so that ``patience`` counts each
        validation once.

        Args:
            round_index: Index of the round that has ended, from 0.
            metrics: Metrics by tag; those of a validation are the latest.
            validated: True if the round was validated.

        Raises:
            ValueError: If a plateau scheduler follows a metric that was not logged.
        """
        for schedule in self.schedules:
            if (round_index + 1) % schedule.frequency or (schedule.interval == "step" and not schedule.follows_metric):
                continue
            if not schedule.follows_metric:
                with warnings.catch_warnings():
                    # A round is over for who was not sampled too, though its optimizer has yet to step.
                    warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
                    schedule.scheduler.step()
                continue
            own = f"{schedule.monitor}/{self.participant.name}"
            value = metrics.get(own, metrics.get(schedule.monitor or ""))
            if not validated and (value is None or (schedule.monitor or "").startswith(("val_", "federation/val_"))):
                continue
            if value is None:
                raise ValueError(
                    f"{self.participant.label}: its ReduceLROnPlateau follows {schedule.monitor!r}, but neither that "
                    f"nor {own!r} was logged in round {round_index}. Logged: {', '.join(sorted(metrics)) or 'nothing'}."
                )
            if value == value:  # noqa: PLR0124 - NaN where the participant's data do not define what it follows
                schedule.scheduler.step(value)

    @property
    def progress(self) -> int:
        """Number of optimizer steps since the run began, for schedulers that count them."""
        return self._steps

    def go_on_from(self, steps: int) -> None:
        """Take a number of optimizer steps for those made since the run began."""
        self._steps = steps


def count_together(steppers: Iterable[LocalOptimization]) -> bool:
    """True if something scheduled by steps was stepped, once a step of a fleet is counted for its members.

    In one loop, since a fleet of a hundred counts thousands of steps a round.

    Args:
        steppers: Those of the members that have stepped.
    """
    stepped = False
    for one in steppers:
        if one.scale is None and one.part is None:
            one.landed += 1
            one.rates += float(one.optimizers[0].param_groups[0]["lr"])
        else:
            one.count_step()
        stepped |= one.follow_step()
    return stepped


def match_by_name(items: Sequence[Any], saved: Mapping[str, int], current: Sequence[str]) -> list[Any]:
    """Items saved in one order of participants, in another order.

    Args:
        items: Items saved by position, ``saved[name]`` consecutive ones for each participant.
        saved: Number of items by participant, in the order of saving.
        current: Names in the new order.
    """
    parts: dict[str, list[Any]] = {}
    start = 0
    for name, count in saved.items():
        parts[name] = list(items[start : start + count])
        start += count
    return [item for name in current for item in parts.get(name, [])]


def _add_gradients(parameters: Sequence[nn.Parameter], terms: Sequence[Tensor]) -> None:
    """Add the gradients of some terms to those that the parameters have."""
    for term in terms:
        found = torch.autograd.grad(term, parameters, allow_unused=True) if term.requires_grad else ()
        for parameter, gradient in zip(parameters, found, strict=False):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _parse(configured: Any, label: str) -> tuple[list[Optimizer], list[Schedule]]:
    """One optimizer, several, ``{"optimizer", "lr_scheduler"}``, or ``([optimizers], [schedulers])``."""
    if configured is None:
        return [], []
    if isinstance(configured, Optimizer):
        return [configured], []
    if isinstance(configured, Mapping):
        if not isinstance(configured.get("optimizer"), Optimizer):
            raise ValueError(  # noqa: TRY004 - it is the value that is incomplete, not of a wrong type
                f"{label}: configure_optimizers returned a dictionary without an 'optimizer'."
            )
        scheduler = configured.get("lr_scheduler")
        return [configured["optimizer"]], [] if scheduler is None else [_schedule(scheduler, label)]
    if isinstance(configured, (list, tuple)):
        is_pair = len(configured) == 2 and all(isinstance(part, (list, tuple)) for part in configured)
        if is_pair:
            return list(configured[0]), [_schedule(scheduler, label) for scheduler in configured[1]]
        parsed = [_parse(part, label) for part in configured]
        return [o for optimizers, _ in parsed for o in optimizers], [s for _, schedules in parsed for s in schedules]
    raise ValueError(
        f"{label}: configure_optimizers returned {type(configured).__name__}; expected an optimizer, a list of them, "
        "a dictionary with 'optimizer' and 'lr_scheduler', or two lists."
    )


def _schedule(configured: Any, label: str) -> Schedule:
    if not isinstance(configured, Mapping):
        monitor = getattr(configured, "monitor", None)
        schedule = Schedule(configured, monitor=monitor)
    else:
        schedule = Schedule(
            configured["scheduler"],
            configured.get("interval", "epoch"),
            configured.get("frequency", 1),
            configured.get("monitor", getattr(configured["scheduler"], "monitor", None)),
        )
    if schedule.follows_metric and schedule.monitor is None:
        raise ValueError(f"{label}: ReduceLROnPlateau needs 'monitor', the metric to follow (e.g. 'val_loss').")
    return schedule
