"""Transforms of inputs and targets before a network: fitted ones, invertible ones, and one per named input."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn


@runtime_checkable
class Fittable(Protocol):
    """Transform with a state that is learned from its participant's own training data.

    An ``nn.Module`` with these two members is fitted before training begins, unless it is fitted already. It keeps its
    state in buffers, so that the participant's checkpoints hold it; buffers of transforms are never shared.
    Participants with DP-SGD refuse it, since what it learns has no noise.
    """

    def fit(self, values: Any) -> None:
        """Learn from all raw training values of the participant; called once, before the first training.

        Args:
            values: N examples along the first dimension, shape ``(N, ...)``, or several such tensors by name.

        Raises:
            ValueError: If nothing can be learned from them; the caller adds the participant's name.
        """

    @property
    def is_fitted(self) -> bool:
        """True if it has been fitted, here or before the checkpoint was saved."""


class InvertibleTransform(nn.Module, ABC):
    """Transform of targets with an inverse.

    As ``Participant(target_transform=...)`` it is applied to the targets of every batch; predictions and metrics come
    back through :meth:`inverse`. A subclass keeps ``inverse(forward(values)) == values`` but for rounding.
    """

    @abstractmethod
    def forward(self, values: Tensor) -> Tensor:
        """Targets of the network, from targets in the unit of the data; the same shape, ``(B,)`` or ``(B, D)``."""

    @abstractmethod
    def inverse(self, values: Tensor) -> Tensor:
        """Values in the unit of the data, from outputs of the network; the same shape, ``(B,)`` or ``(B, D)``."""


class TransformByName(nn.Module):
    """Transforms of inputs by name: inputs without one pass unchanged, those without an input are idle.

    Args:
        transforms: Modules by the name of the input.
    """

    def __init__(self, transforms: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.transforms = nn.ModuleDict(transforms)

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        """Inputs by name, each through its transform.

        Args:
            inputs: Tensors by name, shape ``(B, ...)`` each.

        Raises:
            TypeError: If the inputs are no mapping.
        """
        if not isinstance(inputs, Mapping):
            raise TypeError(
                f"expected inputs by name, since the transforms are for {', '.join(self.transforms)}; got "
                f"{type(inputs).__name__}"
            )
        return {
            name: self.transforms[name](values) if name in self.transforms else values
            for name, values in inputs.items()
        }

    def fit(self, inputs: Mapping[str, Any]) -> None:
        """Fit each transform that can be fitted, and is not yet, to the input of its name.

        Args:
            inputs: All training inputs by name, shape ``(N, ...)`` each.
        """
        for name, transform in self.transforms.items():
            if isinstance(transform, Fittable) and not transform.is_fitted and name in inputs:
                transform.fit(inputs[name])

    @property
    def is_fitted(self) -> bool:
        """True if no transform is left to be fitted."""
        return all(one.is_fitted for one in self.transforms.values() if isinstance(one, Fittable))
