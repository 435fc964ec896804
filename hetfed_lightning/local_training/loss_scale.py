"""Loss scaling in half precision, with a scale of its own for every participant.

A :class:`torch.amp.GradScaler` halves its scale at a non-finite gradient. If it were shared, one participant's overflow
would halve everybody's, and a participant's training would depend on the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor
from torch.optim import Optimizer

if TYPE_CHECKING:
    from lightning.pytorch.plugins.precision import Precision
    from torch.amp import GradScaler


class LossScale:
    """Loss scale of one participant: losses are multiplied by it before a backward pass, gradients divided by it after.

    The scale changes between steps and never between a backward pass and the step on its gradients. Several optimizers
    may step on the gradients of one backward pass.

    Args:
        template: Scaler of the trainer, copied for initial scale and growth.
    """

    def __init__(self, template: GradScaler) -> None:
        self._template = template
        self._scaler = deepcopy(template)
        self._scaled = self._stepped = False
        self._verdicts: list[bool] = []

    def scale(self, loss: Tensor) -> Tensor:
        """Loss times the scale, a scalar."""
        self.settle()
        self._scaled = True
        return self._scaler.scale(loss)

    def unscale_(self, optimizer: Optimizer) -> None:
        """Divide the gradients of an optimizer by the scale, once for each step."""
        if not self._scaled:
            # A scaler begins at its first loss; a run resumed inside an accumulation may step before it has one.
            self.scale(optimizer.param_groups[0]["params"][0].detach().new_zeros(()))
        self._scaler.unscale_(optimizer)

    def step(self, optimizer: Optimizer, **kwargs: Any) -> None:
        """Step the optimizer unless a gradient is not finite."""
        self._scaler.step(optimizer, **kwargs)
        self._stepped = True

    def settle(self) -> None:
        """Update the scale by the overflows of the steps since the last backward pass."""
        if not self._stepped:
            return
        before = self._scaler.get_scale()
        self._scaler.update()
        self._stepped = False
        self._verdicts.append(self._scaler.get_scale() >= before)

    def has_landed(self) -> bool:
        """True if the weights changed since the last call, or no step was tried; False if every step was skipped.

        Two optimizers that step on one backward pass have one verdict: a skipped step of one stands for both.
        """
        self.settle()
        landed = any(self._verdicts) or not self._verdicts
        self._verdicts.clear()
        return landed

    def restart(self) -> None:
        """Reset the scale to its initial value."""
        self._scaler = deepcopy(self._template)
        self._scaled = self._stepped = False
        self._verdicts.clear()

    def get_scale(self) -> float:
        """Value of the scale (one synchronisation with the device)."""
        return self._scaler.get_scale()

    def state_dict(self) -> dict[str, Any]:
        """Scale and growth state, as plain numbers."""
        return self._scaler.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from the state of :meth:`state_dict`; an empty one is of a disabled scaler."""
        if state_dict:
            self._scaler.load_state_dict(dict(state_dict))


class ScaledOptimizer(LightningOptimizer):
    """Optimizer returned by ``self.optimizers()`` to a participant that steps by itself while losses are scaled.

    Like Lightning's own wrapper, it divides the gradients by the scale and skips a step on infinite ones. Call
    ``self.manual_backward(loss)`` in place of ``loss.backward()``.

    Args:
        optimizer: Optimizer to wrap.
        scale: Loss scale of the participant.
    """

    def __init__(self, optimizer: Optimizer, scale: LossScale) -> None:
        super().__init__(optimizer)
        self._scale = scale

    def step(self, closure: Callable[[], Any] | None = None, **kwargs: Any) -> Any:
        """Call the closure, unscale the gradients, step.

        Args:
            closure: Recomputes the loss; None if the gradients are there.
            kwargs: Further arguments of the optimizer's ``step``.

        Returns:
            Value of the closure; None without one.
        """
        output = None if closure is None else closure()
        self._scale.unscale_(self._optimizer)
        self._scale.step(self._optimizer, **kwargs)
        return output


@contextmanager
def scaled_by(scale: LossScale, precision: Precision) -> Iterator[None]:
    """Context in which the trainer's precision plugin uses one participant's loss scale.

    Args:
        scale: Loss scale of the participant.
        precision: Precision plugin of the trainer.
    """
    shared = precision.scaler  # type: ignore[attr-defined]  # of MixedPrecision, and of plugins like it
    precision.scaler = scale  # type: ignore[attr-defined]
    try:
        yield
    finally:
        precision.scaler = shared  # type: ignore[attr-defined]
