"""What trains a fleet: gradients and outputs of everyone at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from torch import Tensor

from hetfed_lightning.data.blocks import StackedBatch
from hetfed_lightning.fleets.network import Network
from hetfed_lightning.tasks import Task

EngineName = Literal["auto", "sequential", "vmap", "batched"]
"""``"auto"`` measures at the first batch which is fastest."""


class Engine(ABC):
    """Gradients and outputs of K participants that differ in their parameters alone.

    Args:
        network: Of the participants' architecture.
        task: Of all of them.
    """

    name: ClassVar[EngineName]

    folds_descent: ClassVar[bool] = False
    """Whether :meth:`descend` exists."""

    def __init__(self, network: Network, task: Task) -> None:
        self.network = network
        self.task = task

    @abstractmethod
    def gradients(
        self, parameters: Mapping[str, Tensor], gradients: Mapping[str, Tensor], batch: StackedBatch
    ) -> Tensor:
        """Write the gradients of everyone's loss.

        Args:
            parameters: Shape ``(K, *shape)`` each, by key.
            gradients: Of the same keys and shapes; overwritten.
            batch: One batch of each.

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
