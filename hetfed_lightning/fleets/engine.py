"""Engines, which train a fleet: gradients and outputs of all participants at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Protocol, Self

from torch import Tensor

from hetfed_lightning.data.blocks import StackedBatch
from hetfed_lightning.fleets.network import Network

EngineName = Literal["auto", "sequential", "vmap", "batched"]
"""Names of engines; ``"auto"`` takes the fastest of those measured on the first batch."""


class ExampleLosses(Protocol):
    """A loss that is a sum over examples, such as a :class:`~hetfed_lightning.tasks.Task` or one of soft targets."""

    def example_losses(self, outputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Losses times weights, shape ``(B,)``, and the weights, shape ``(B,)``.

        Args:
            outputs: Outputs of the network, shape ``(B, C)``.
            target: Targets of the B examples, shape ``(B, ...)``.
        """


class Engine(ABC):
    """Gradients and outputs of K participants that differ in their parameters alone.

    Args:
        network: Network of the participants' architecture.
        task: Loss of every participant.
    """

    name: ClassVar[EngineName]

    folds_descent: ClassVar[bool] = False
    """True if the engine has :meth:`descend`."""

    def __init__(self, network: Network, task: ExampleLosses) -> None:
        self.network = network
        self.task = task
        self._other: Self | None = None

    def towards(self, task: ExampleLosses) -> Self:
        """This engine with another loss; the last one is kept, since compiling it anew takes long."""
        if self._other is None or self._other.task != task:
            self._other = self._with(task)
        return self._other

    @abstractmethod
    def _with(self, task: ExampleLosses) -> Self:
        """A new engine of this kind and network, with another loss."""

    @abstractmethod
    def gradients(
        self,
        parameters: Mapping[str, Tensor],
        gradients: Mapping[str, Tensor],
        batch: StackedBatch,
        *,
        add: bool = False,
    ) -> Tensor:
        """Losses of every participant, shape ``(K,)``; writes their gradients.

        Args:
            parameters: Shape ``(K, *shape)`` each, by key.
            gradients: Tensors of the same keys and shapes; overwritten, or added to.
            batch: One batch of each participant.
            add: True to add to the values in ``gradients``.

        Returns:
            The losses, shape ``(K,)``.
        """

    @abstractmethod
    def outputs(self, parameters: Mapping[str, Tensor], inputs: Any, *, common: bool = False) -> Tensor:
        """Outputs of every participant, without gradients.

        Args:
            parameters: Shape ``(K, *shape)`` each, by key.
            inputs: Shape ``(K, B, ...)``; ``(B, ...)`` if ``common``.
            common: True if all participants see the same inputs.

        Returns:
            The outputs, shape ``(K, B, C)``.
        """

    def descend(self, parameters: Mapping[str, Tensor], rates: Tensor, batch: StackedBatch) -> Tensor:
        """Losses before the step, shape ``(K,)``; steps the parameters along gradients that are never written down.

        Args:
            parameters: Shape ``(K, *shape)`` each, by key; changed in place.
            rates: Learning rates, shape ``(K,)``.
            batch: One batch of each participant.

        Returns:
            The losses before the step, shape ``(K,)``.

        Raises:
            NotImplementedError: If :attr:`folds_descent` is false.
        """
        raise NotImplementedError
