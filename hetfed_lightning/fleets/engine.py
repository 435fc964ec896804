"""What trains a fleet: gradients and outputs of everyone at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Protocol, Self

from torch import Tensor

from hetfed_lightning.data.blocks import StackedBatch
from hetfed_lightning.fleets.network import Network

EngineName = Literal["auto", "sequential", "vmap", "batched"]
"""``"auto"`` measures at the first batch which is fastest."""


class ExampleLosses(Protocol):
    """A loss that is a sum over examples; a :class:`~hetfed_lightning.tasks.Task` is one, soft targets are another."""

    def example_losses(self, outputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Losses times weights, shape ``(B,)``, and the weights, shape ``(B,)``.

        Args:
            outputs: Shape ``(B, C)``.
            target: Of B examples.
        """


class Engine(ABC):
    """Gradients and outputs of K participants that differ in their parameters alone.

    Args:
        network: Of the participants' architecture.
        task: What they are to make small, all of them.
    """

    name: ClassVar[EngineName]

    folds_descent: ClassVar[bool] = False
    """Whether :meth:`descend` exists."""

    def __init__(self, network: Network, task: ExampleLosses) -> None:
        self.network = network
        self.task = task
        self._other: Self | None = None

    def towards(self, task: ExampleLosses) -> Self:
        """The same engine with another loss; the last one is kept, since compiling it anew takes long."""
        if self._other is None or self._other.task != task:
            self._other = self._with(task)
        return self._other

    @abstractmethod
    def _with(self, task: ExampleLosses) -> Self:
        """A new engine of this kind and network."""

    @abstractmethod
    def gradients(
        self,
        parameters: Mapping[str, Tensor],
        gradients: Mapping[str, Tensor],
        batch: StackedBatch,
        *,
        add: bool = False,
    ) -> Tensor:
        """Write the gradients of everyone's loss.

        Args:
            parameters: Shape ``(K, *shape)`` each, by key.
            gradients: Of the same keys and shapes; overwritten, or added to.
            batch: One batch of each.
            add: Whether to add to what ``gradients`` hold.

        Returns:
            The losses, shape ``(K,)``.
        """

    @abstractmethod
    def outputs(self, parameters: Mapping[str, Tensor], inputs: Any, *, common: bool = False) -> Tensor:
        """Outputs of everyone, without gradients.

        Args:
            parameters: Shape ``(K, *shape)`` each, by key.
            inputs: Shape ``(K, B, ...)``; ``(B, ...)`` if ``common``.
            common: Whether everyone sees the same inputs.

        Returns:
            Shape ``(K, B, C)``.
        """

    def descend(self, parameters: Mapping[str, Tensor], rates: Tensor, batch: StackedBatch) -> Tensor:
        """Step everyone's parameters along the gradients, which are never written down.

        Args:
            parameters: Shape ``(K, *shape)`` each, by key; changed in place.
            rates: Learning rates, shape ``(K,)``.
            batch: One batch of each.

        Returns:
            The losses before the step, shape ``(K,)``.

        Raises:
            NotImplementedError: If the engine cannot, as :attr:`folds_descent` tells.
        """
        raise NotImplementedError
