"""A participant's own optimizers and schedulers, stepped by hand after each of its backward passes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
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
"""Replaces the gradients of some parameters by their sum over the processes that split a batch."""


@dataclass(frozen=True)
class Schedule:
    """A learning-rate scheduler and when it steps.

    Attributes:
        scheduler: Any of ``torch.optim.lr_scheduler``, or Lightning's ``ReduceLROnPlateau``.
        interval: ``"epoch"`` is a round, ``"step"`` an optimizer step.
        frequency: Steps it every so many intervals.
        monitor: Metric that a plateau scheduler follows; ``val_loss`` is read as the participant's own.
    """

    scheduler: Any
    interval: str = "epoch"
    frequency: int = 1
    monitor: str | None = None

    @property
    def follows_metric(self) -> bool:
        """Whether it needs a metric to step."""
        return isinstance(self.scheduler, ReduceLROnPlateau)


@dataclass
class LocalOptimization:
    """Steps one participant: accumulation, clipping, optimizers, schedulers.

    Attributes:
        participant: Whose parameters they are.
        optimizers: In the order of ``configure_optimizers``.
        schedules: The schedulers.
        scale: What its losses are scaled by in half precision; None where they are not.
        landed: Optimizer steps in this round that changed the weights.
        rates: Sum of the learning rates of those steps, of the first optimizer's first group.
        skipped: Steps in this round that did not, since a gradient was infinite.
        private: Makes its gradients private before each step; None where they are not.
        hooks: Callbacks that hear of its gradients and steps.
        rests: Whether it takes no more steps in this round, since its ``on_train_batch_start`` has returned -1.
        is_stepping: Whether :meth:`step` is at work, not the participant itself.
        part: The part of its plan that it is at; None without a plan.
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
        """What ``participant.configure_optimizers()`` returns, in one form.

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
        """Begin to count."""
        self.landed = self.skipped = 0
        self.rates = 0.0
        self._pending = 0
        self.rests = False
        self.part = self._saved_part = None

    def enter(self, index: int, part: Part) -> None:
        """Be at a part of its plan; nothing changes if it was.

        Args:
            index: Place of the part in the plan.
            part: The part.
        """
        if self.part is None or self.part.index != index:
            self.part = PartInProgress(self.participant, index, part, self._saved_part)
            self._saved_part = None

    def leave(self) -> None:
        """Be at no part of a plan: later steps are on everything, by its own optimizers."""
        self.part = self._saved_part = None

    @property
    def stepping(self) -> list[Optimizer]:
        """Optimizers that step now: those of the participant, or that of a part of its plan."""
        return self.optimizers if self.part is None or self.part.optimizer is None else [self.part.optimizer]

    @property
    def is_accumulating(self) -> bool:
        """Whether its gradients wait for further batches of an accumulation."""
        return self._pending > 0

    def round_state(self) -> dict[str, Any]:
        """Where it stands in the round: steps that landed, and gradients that wait for an accumulation to end."""
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
        """Go on where :meth:`round_state` was taken."""
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
        """Backward, and a step once enough batches have been accumulated.

        Args:
            loss: Of a batch, or of this process's part of it; None where that part is empty.
            backward: Makes the gradients.
            reduction: Sums the gradients over the processes that split the batch, before each step.
            after_noise: Terms of the weights, scalars, whose gradients are added once those of the loss are private.
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
        """Step on what is left of an incomplete accumulation: on the mean over the batches that there were."""
        if self._pending:
            share = self.participant.accumulate_grad_batches / self._pending
            for parameter in self.participant.parameters():
                if parameter.grad is not None:
                    parameter.grad.mul_(share)
            self.step(reduction)

    def step(self, reduction: Reduction | None = None, after_noise: Sequence[Tensor] = ()) -> None:
        """Sum, unscale, clip, step, clear. A step that the scale skips (an infinite gradient) counts as none."""
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
        """After a step that landed: step what is scheduled by steps.

        Returns:
            Whether anything was.
        """
        self._steps += 1
        due = [
            schedule
            for schedule in self.schedules
            if schedule.interval == "step" and not schedule.follows_metric and self._steps % schedule.frequency == 0
        ]
        for schedule in due:
            schedule.scheduler.step()
        return bool(due)

    def count_step(self) -> bool:
        """Count the step just made among those that landed or those that the scale skipped; whether it landed."""
        landed = self.scale is None or self.scale.has_landed()
        self.landed += landed
        if landed and (stepping := self.stepping):
            self.rates += float(stepping[0].param_groups[0]["lr"])
        self.skipped += not landed
        return landed

    def handed_out(self, *, scaled: bool) -> list[Optimizer]:
        """The optimizers for stepping by hand; if ``scaled``, they mind the loss scale where there is one."""
        if self.scale is None or not scaled:
            return self.optimizers
        if not self._scaled:
            self._scaled = [ScaledOptimizer(optimizer, self.scale) for optimizer in self.optimizers]
        return self._scaled

    def collecting(self) -> AbstractContextManager[None]:
        """Around a local step: a context in which gradients are collected by example, if they are to be private."""
        return _NOTHING if self.private is None else self.private.collecting()

    def scaled(self, precision: Precision) -> AbstractContextManager[None]:
        """A context in which the trainer's precision plugin scales by this participant's scale, if by any."""
        return _NOTHING if self.scale is None else scaled_by(self.scale, precision)

    def restart_scale(self) -> None:
        """Begin again at the initial scale, where there is one: numbers that ran away have brought it down."""
        if self.scale is not None:
            self.scale.restart()

    def end_epoch(self, round_index: int, metrics: Mapping[str, Any], *, validated: bool = True) -> None:
        """Step what is scheduled by rounds.

        A scheduler that follows a metric of the validation waits for the next one, so that ``patience`` counts
        validations and not one of them twice.

        Args:
            round_index: The round that has ended.
            metrics: Figures by tag; those of a validation are of the last that there was.
            validated: Whether the round was validated.

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
        """Optimizer steps since the run began, for schedulers that count them."""
        return self._steps

    @progress.setter
    def progress(self, steps: int) -> None:
        self._steps = steps


def match_by_name(items: Sequence[Any], saved: Mapping[str, int], current: Sequence[str]) -> list[Any]:
    """Items saved in one order of participants, in another.

    Args:
        items: Saved by position, ``saved[name]`` consecutive ones for each participant.
        saved: Number of items per participant, in the order of saving.
        current: Names in the order wanted.
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
