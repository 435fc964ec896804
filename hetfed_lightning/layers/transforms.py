"""What stands before a network: transforms of inputs by name, and those of targets, which can be undone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn


@runtime_checkable
class Fittable(Protocol):
    """A transform that learns from its participant's own training data before training begins."""

    def fit(self, values: Any) -> None:
        """Learn from raw values, all of them at once: N examples along the first dimension."""

    @property
    def is_fitted(self) -> bool:
        """Whether it has been fitted, here or before the checkpoint that it came from."""


class InvertibleTransform(nn.Module, ABC):
    """A transform of targets whose outputs have a way back."""

    @abstractmethod
    def forward(self, values: Tensor) -> Tensor:
        """What the network is trained to put out."""

    @abstractmethod
    def inverse(self, values: Tensor) -> Tensor:
        """What the network puts out, in the unit of the data."""


class TransformByName(nn.Module):
    """Transforms of inputs that come by name; inputs without one, and names that a batch lacks, are left alone.

    Args:
        transforms: By the name of the input.

    Raises:
        TypeError: If the inputs are no mapping.
    """

    def __init__(self, transforms: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.transforms = nn.ModuleDict(transforms)

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        """The inputs by name, those that have a transform transformed."""
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
        """Fit those that can be fitted to their inputs."""
        for name, transform in self.transforms.items():
            if isinstance(transform, Fittable) and not transform.is_fitted and name in inputs:
                transform.fit(inputs[name])

    @property
    def is_fitted(self) -> bool:
        """Whether nothing is left to be fitted."""
        return all(one.is_fitted for one in self.transforms.values() if isinstance(one, Fittable))
