"""Public inputs changed at random as a participant learns from them, under a seed that no other draw sees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hetfed_lightning.seeding import seed_all, streams_kept

if TYPE_CHECKING:
    from hetfed_lightning.federation_view import FederationView

PublicTransform = Callable[[Any], Any]
"""Function of a public batch ``(B, ...)``, such as a module, that returns one of the same shape and dtype."""


def augmented(
    federation: FederationView, transform: PublicTransform, batches: Sequence[Any], seeds: Sequence[int]
) -> list[Tensor]:
    """Inputs after a ``public_transform``, batch by batch, of the same shapes and dtypes, without a gradient.

    Torch, ``random`` and NumPy are seeded for each batch and have their states of before afterwards. The transform is
    given copies, and computes in the inputs' precision, without autocast.

    Args:
        federation: The federation, in a fit.
        transform: The transform; a module is moved to the federation's device.
        batches: Inputs of the backbone, each of B public examples, tensors of floating-point numbers ``(B, ...)``.
        seeds: Seed of the draws for each batch, in [0, 2**63).

    Raises:
        ValueError: If the inputs are something else, or what comes back has another shape or dtype.
    """
    if isinstance(transform, nn.Module):
        transform.to(federation.device)
    found = []
    with (
        streams_kept(federation.device),
        torch.no_grad(),
        federation.trainer.precision_plugin.forward_context(),
        torch.autocast(federation.device.type, enabled=False),
    ):
        for inputs, seed in zip(batches, seeds, strict=True):
            seed_all(seed, federation.device)
            found.append(_applied(transform, inputs))
    return found


def _applied(transform: PublicTransform, inputs: Any) -> Tensor:
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
        raise ValueError(
            f"public_transform={name_of(transform)}: expected public inputs that are one tensor of floating-point "
            f"numbers, got {found_in(inputs)}. Leave public_transform out, or have the participant's transform "
            "return one."
        )
    outputs = transform(inputs.clone(memory_format=torch.contiguous_format))
    if isinstance(outputs, Tensor) and (outputs.shape, outputs.dtype) == (inputs.shape, inputs.dtype):
        return outputs
    raise ValueError(
        f"public_transform={name_of(transform)}: expected {found_in(inputs)}, as it was given, got "
        f"{found_in(outputs)}. Have it return a tensor of the shape and dtype of its input."
    )


def in_order(given: nn.Module | Sequence[nn.Module] | Callable[[Any], Any] | None) -> PublicTransform | None:
    """A transform as one function; None for none.

    Args:
        given: A module, a function, or modules that are applied one after another.

    Raises:
        TypeError: If it is none of them.
    """
    if isinstance(given, Sequence) and not isinstance(given, str) and all(isinstance(one, nn.Module) for one in given):
        return nn.Sequential(*given)
    if given is None or (callable(given) and not isinstance(given, type)):
        return given
    raise TypeError(
        f"public_transform: expected a module, a function of a batch, or modules in a list, got {given!r}. Give it as "
        "an instance, such as RandomShift(2)."
    )


def name_of(transform: PublicTransform) -> str:
    """Name of a transform in messages: of a module its settings, of a function its name."""
    return " ".join(str(transform).split()) if isinstance(transform, nn.Module) else _name(transform)


def found_in(value: Any) -> str:
    """Kind of a value in messages: of a tensor dtype and shape."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} of shape {tuple(value.shape)}"
    return f"a {type(value).__name__}"


def _name(transform: PublicTransform) -> str:
    return str(getattr(transform, "__name__", type(transform).__name__))
