"""DP-SGD: each example's gradient is clipped, and their sum is noised; it protects the examples of one participant.

Per-example gradients are Opacus's, attached to the modules for the time of a step; clipping and noise are here.
"""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hetfed_lightning.aggregation.clipping import check_max_norm
from hetfed_lightning.privacy.accountant import check_budget


@dataclass(frozen=True)
class DPSGD:
    """Differential privacy of a participant's training examples, as ``Participant(privacy=...)`` takes it.

    Each optimizer step is a Gaussian mechanism on a Poisson sample: each example is in a batch with the probability
    ``batch_size / examples``, so that batches vary in size and may be empty. The sample and the noise come from the
    operating system's entropy, not from the federation's seed: two runs differ.

    Args:
        noise_multiplier: Standard deviation of the noise on the sum of gradients, in units of ``max_grad_norm``.
        max_grad_norm: Largest L2 norm of an example's gradient, above 0.
        delta: In (0, 1); well below one over the number of examples.
        max_epsilon: Limit of epsilon: the participant takes no step of a round whose steps would exceed it. In one
            process training ends before that round; between institutions its site sits the round out. None for no
            limit, but a first round that costs more than 100 is then refused.

    Raises:
        ValueError: If one is out of its range.
        ImportError: If Opacus or dp-accounting is not installed.

    Reference:
        Abadi et al. (2016), Deep learning with differential privacy, Algorithm 1; Chua et al. (2024), How private are
        DP-SGD implementations?, for why batches are not shuffled.
    """

    noise_multiplier: float
    max_grad_norm: float
    delta: float
    max_epsilon: float | None = None

    def __post_init__(self) -> None:
        """Refuse settings out of range and missing packages."""
        check_max_norm(self.max_grad_norm, "max_grad_norm")
        check_budget(self.noise_multiplier, self.delta, self.max_epsilon)
        _opacus("opacus")


@torch.no_grad()
def private_gradients(
    gradients: Sequence[Tensor],
    *,
    max_norm: float,
    noise_multiplier: float,
    expected: float,
    noise: Callable[[int], Tensor],
) -> list[Tensor]:
    """Noised sum of clipped gradients over the expected number of examples, one tensor per parameter.

    Args:
        gradients: Gradients by example of each parameter, shape ``(B, ...)``; B may be 0. An example whose gradient is
            not finite counts as one with a gradient of zero.
        max_norm: Largest L2 norm of an example's gradient, over all parameters together.
        noise_multiplier: Standard deviation of the noise on the sum, in units of ``max_norm``.
        expected: Expected number of examples in a batch, above 0: the actual one is private.
        noise: Source of noise: takes a count, returns as many standard normal numbers in float64, shape ``(count,)``.

    Returns:
        A gradient for each parameter, in its shape and dtype.

    Reference:
        Abadi et al. (2016), Deep learning with differential privacy, Algorithm 1.
    """
    squares = [one.double().reshape(len(one), math.prod(one.shape[1:])).square().sum(dim=1) for one in gradients]
    norms = torch.stack(squares).sum(dim=0).sqrt()
    # Slightly less than the bound, since the sum of squares was rounded.
    factors = (max_norm * (1 - 1e-6) / norms).clamp(max=1.0).nan_to_num(1.0)
    finite = torch.isfinite(norms)
    private = []
    for one in gradients:
        heard = torch.where(finite.view(-1, *[1] * (one.ndim - 1)), one, 0.0)
        total = torch.tensordot(factors.to(heard.dtype) * finite, heard, dims=1).double()
        drawn = noise(total.numel()).to(total.device).view(total.shape)
        private.append(((total + drawn * (noise_multiplier * max_norm)) / expected).to(one.dtype))
    return private


class PerExampleGradients:
    """Gradients by example, collected while attached to modules; nothing stays in the modules afterwards.

    Args:
        modules: Modules with the parameters; the input of each has the examples first.

    Raises:
        NotImplementedError: If a module has something that Opacus cannot differentiate by example.
    """

    def __init__(self, *modules: nn.Module) -> None:
        # A container outside of every module's tree, since Opacus writes to its attributes.
        self._whole = nn.ModuleList(modules)
        self._hooks = _opacus("opacus.grad_sample.grad_sample_module").GradSampleHooks

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Context in which a backward pass of a loss, a mean over examples, collects their gradients."""
        training = self._whole.training
        self._whole.training = True
        hooks = self._hooks(self._whole, loss_reduction="mean", strict=True)
        try:
            with warnings.catch_warnings():
                # The first layer's inputs have no gradient, as intended.
                warnings.filterwarnings("ignore", message="Full backward hook is firing when gradients are computed")
                yield
        finally:
            hooks.remove_hooks()
            self._whole.training = training
            self._forget()

    def _forget(self) -> None:
        for module in self._whole.modules():
            for left in ("activations", "max_batch_len"):
                if hasattr(module, left):
                    delattr(module, left)
        for parameter in self._whole.parameters():
            for left in ("grad_sample", "_forward_counter", "_current_grad_sample", "summed_grad"):
                if hasattr(parameter, left):
                    delattr(parameter, left)

    def of(self, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
        """Collected gradients, shape ``(B, ...)`` for each parameter; zeros for one that the loss did not reach.

        Raises:
            RuntimeError: If a parameter has a gradient and none by example, or was passed through several times.
        """
        found = [getattr(parameter, "grad_sample", None) for parameter in parameters]
        sizes = {one.shape[0] for one in found if isinstance(one, Tensor)}
        if len(sizes) > 1 or any(isinstance(one, list) for one in found):
            raise RuntimeError(
                f"per-example gradients of {sorted(sizes)} examples in one batch: every layer's input has to have the "
                "examples first, and each batch to pass backward once"
            )
        size = sizes.pop() if sizes else 0
        collected = []
        for parameter, one in zip(parameters, found, strict=True):
            if one is None and parameter.grad is not None:
                raise RuntimeError("a parameter has a gradient, but none by example: it is used outside of its module")
            collected.append(parameter.detach().new_zeros(size, *parameter.shape) if one is None else one)
        return collected


def refused_layers(*modules: nn.Module) -> list[str]:
    """Messages of Opacus's validator on layers without a gradient by example or with running statistics; may be empty.

    Args:
        modules: A participant's trainable modules.
    """
    whole = nn.ModuleList(modules)
    whole.training = True
    errors = [str(error) for error in _opacus("opacus.validators").ModuleValidator.validate(whole)]
    hooks = _opacus("opacus.grad_sample.grad_sample_module").GradSampleHooks
    return errors + [str(error) for error in hooks.validate(whole)]


def _opacus(module: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Warnings of Opacus's own imports, on which a user has no influence.
            return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"DP-SGD needs Opacus, which could not be imported ({error}): pip install 'hetfed-lightning[privacy]'",
            name="opacus",
        ) from error
