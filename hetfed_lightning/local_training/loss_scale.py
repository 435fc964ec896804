"""Loss scaling in half precision: every participant has a scale of its own.

A :class:`torch.amp.GradScaler` halves its scale when it meets a gradient that is not finite. Shared by a federation,
one participant's overflow would halve everybody's, and what a participant learns would depend on who else is there.
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
    """One participant's scale: what losses are multiplied by before a backward pass, and gradients divided by after.

    The scale changes between steps and never between a backward pass and the step on its gradients: several
    optimizers may step on what one backward pass, or one each, has left.

    Args:
        template: Copied, so that initial scale and growth are those of the trainer's scaler.
    """

    def __init__(self, template: GradScaler) -> None:
        self._template = template
        self._scaler = deepcopy(template)
        self._scaled = self._stepped = False
        self._verdicts: list[bool] = []

    def scale(self, loss: Tensor) -> Tensor:
        """The loss times the scale."""
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
        """Step, unless a gradient is not finite."""
        self._scaler.step(optimizer, **kwargs)
        self._stepped = True

    def settle(self) -> None:
        """Let the scale follow what the steps since the last backward pass have met."""
        if not self._stepped:
            return
        before = self._scaler.get_scale()
        self._scaler.update()
        self._stepped = False
        self._verdicts.append(self._scaler.get_scale() >= before)

    def has_landed(self) -> bool:
        """Whether the weights changed since the last call: False where every step was skipped, True without any step.

        Two optimizers that step on one backward pass have one verdict: a step of one that is skipped stands for both.
        """
        self.settle()
        landed = any(self._verdicts) or not self._verdicts
        self._verdicts.clear()
        return landed

    def restart(self) -> None:
        """Begin again at the initial scale."""
        self._scaler = deepcopy(self._template)
        self._scaled = self._stepped = False
        self._verdicts.clear()

    def get_scale(self) -> float:
        """The scale (one synchronisation with the device)."""
        return self._scaler.get_scale()

    def state_dict(self) -> dict[str, Any]:
        """The scale and its growth, as plain numbers."""
        return self._scaler.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on with what :meth:`state_dict` gave; an empty one is of a scaler that was switched off."""
        if state_dict:
            self._scaler.load_state_dict(dict(state_dict))


class ScaledOptimizer(LightningOptimizer):
    """What ``self.optimizers()`` gives a participant that steps by hand while losses are scaled.

    As Lightning's own wrapper, it divides the gradients by the scale and leaves out a step on infinite ones; it asks
    for ``self.manual_backward(loss)`` in place of ``loss.backward()``.

    Args:
        optimizer: Which to step.
        scale: Of the participant whose it is.
    """

    def __init__(self, optimizer: Optimizer, scale: LossScale) -> None:
        super().__init__(optimizer)
        self._scale = scale

    def step(self, closure: Callable[[], Any] | None = None, **kwargs: Any) -> Any:
        """Call the closure, unscale, step.

        Returns:
            What the closure returned.
        """
        output = None if closure is None else closure()
        self._scale.unscale_(self._optimizer)
        self._scale.step(self._optimizer, **kwargs)
        return output


@contextmanager
def scaled_by(scale: LossScale, precision: Precision) -> Iterator[None]:
    """Let the trainer's precision plugin scale by one participant's scale, whoever asks it to."""
    shared = precision.scaler  # type: ignore[attr-defined]  # of MixedPrecision, and of plugins like it
    precision.scaler = scale  # type: ignore[attr-defined]
    try:
        yield
    finally:
        precision.scaler = shared  # type: ignore[attr-defined]
