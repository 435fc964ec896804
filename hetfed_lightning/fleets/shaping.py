"""Losses by example that methods shape, for the members of a fleet at once."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from hetfed_lightning.fleets.contexts import AlikeMembers, Tensors, alike, with_network, with_tensors
from hetfed_lightning.fleets.engine import Engine, EngineName, ExampleLosses
from hetfed_lightning.supervised import Supervised

if TYPE_CHECKING:
    from hetfed_lightning.data.blocks import StackedBatch
    from hetfed_lightning.fleets.network import Network
    from hetfed_lightning.methods.context import Context


@dataclass(frozen=True, eq=False)
class LossShape:
    """A method's loss by example, with its contexts of a fleet's members in one round.

    Attributes:
        function: Losses by example of one member, shape ``(B,)``, from those before, its batch and its context.
        contexts: Context of each member, in the order of the rows.
        title: Title of the method, which finds its modules.
        of_outputs: True if the losses depend on outputs, targets and what was received alone.
    """

    function: Callable[[Tensor, Supervised, Context], Tensor]
    contexts: Sequence[Context]
    title: str = ""
    of_outputs: bool = False

    def pick(self, places: Sequence[int]) -> LossShape:
        """The same for the members in some rows."""
        return replace(self, contexts=[self.contexts[place] for place in places])


def shaped_alone(shapes: Sequence[LossShape], losses: Tensor, seen: Supervised, place: int, network: Network) -> Tensor:
    """Losses by example of the member in one row as all methods shape them, shape ``(B,)``.

    Args:
        shapes: The methods in their order.
        losses: The task's, shape ``(B,)``.
        seen: The member's batch.
        place: Its row.
        network: Network under its parameters, with the methods' modules.
    """
    for shape in shapes:
        context = with_network(shape.contexts[place], shape.title, network)
        losses = shape.function(losses, seen, context)
    return losses


class ShapedEngine(Engine):
    """Engine of local steps whose losses methods shape: gradients by ``vmap``, outputs by another engine.

    Args:
        engine: Engine that was chosen for the members.
        shapes: Losses of the methods, in their order; at least one.
        device: Device of the members.
        compile_settings: Arguments of ``torch.compile`` for the step of all; None to run it as it is.
    """

    name: EngineName = "vmap"  # type: ignore[misc]  # as its base class declares it

    def __init__(
        self,
        engine: Engine,
        shapes: Sequence[LossShape],
        device: torch.device,
        compile_settings: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(engine.network, engine.task)
        self.engine, self._device, self._compile_settings = engine, device, compile_settings
        self._steps: dict[Hashable, Any] = {}
        self.shapes: list[LossShape] = []
        self.members: list[AlikeMembers] = []
        self.open_round(shapes)

    def open_round(self, shapes: Sequence[LossShape]) -> None:
        """Take over the contexts of a round; compiled steps are kept while the methods are the same."""
        if [one.function for one in shapes] != [one.function for one in self.shapes]:
            self._steps = {}
        self.shapes = list(shapes)
        self.members = alike([one.contexts for one in shapes], self._device)

    def _with(self, task: ExampleLosses) -> Self:
        return type(self)(self.engine.towards(task), self.shapes, self._device, self._compile_settings)

    def outputs(self, parameters: Mapping[str, Tensor], inputs: Any, *, common: bool = False) -> Tensor:
        """As the engine that was chosen, which no method shapes."""
        return self.engine.outputs(parameters, inputs, common=common)

    def gradients(
        self,
        parameters: Mapping[str, Tensor],
        gradients: Mapping[str, Tensor],
        batch: StackedBatch,
        *,
        add: bool = False,
    ) -> Tensor:
        """The task's losses of every participant, shape ``(K,)``; writes the gradients of the shaped ones.

        Args:
            parameters: Shape ``(K, *shape)`` each, by key.
            gradients: Tensors of the same keys and shapes; overwritten, or added to.
            batch: One batch of each participant.
            add: True to add to the values in ``gradients``.
        """
        batch, losses = batch.filled(), torch.empty(0)
        for own in self.members:
            found = own.below(batch.count)
            if found is None:
                continue
            rows, tensors = found
            part = batch.pick([place for place in own.places if place < batch.count])
            weights = {key: one[rows] for key, one in parameters.items()}
            with sdpa_kernel(SDPBackend.MATH):  # The only kernel of attention that has a batching rule.
                step = self._step(own, masked=part.mask is not None)
                made, (_, some) = step(weights, part.inputs, part.targets, part.mask, tensors, own.round_index)
            losses = some.new_zeros(batch.count) if not len(losses) else losses
            losses[rows] = some
            for key, one in gradients.items():
                one[rows] = one[rows] + made[key] if add else made[key]
        return losses

    def _step(self, own: AlikeMembers, *, masked: bool) -> Any:
        """Function to gradients and losses of members whose contexts are alike."""
        key = (masked, repr(own.dims))
        if key not in self._steps:
            step = vmap(
                grad_and_value(self._loss, has_aux=True),
                in_dims=(0, 0, 0, 0 if masked else None, own.dims, None),
            )
            if self._compile_settings is not None:
                step = torch.compile(step, **self._compile_settings)
            self._steps[key] = step
        return self._steps[key]

    def _loss(
        self,
        parameters: dict[str, Tensor],
        inputs: Any,
        target: Tensor,
        mask: Tensor | None,
        tensors: list[Tensors],
        round_index: int,
    ) -> tuple[Tensor, Tensor]:
        """Mean of one member's shaped losses and of its task's, scalars."""
        return self.network.under(parameters, partial(self._means, inputs, target, mask, tensors, round_index))

    def _means(
        self, inputs: Any, target: Tensor, mask: Tensor | None, tensors: list[Tensors], round_index: int
    ) -> tuple[Tensor, Tensor]:
        features, outputs = self.network.features_and_outputs(inputs)
        losses, weights = self.task.example_losses(outputs, target)
        share = torch.full_like(losses, 1 / len(losses)) if mask is None else mask / mask.sum()
        own = losses / (weights * share).sum()  # Their mean over the examples is the task's loss.
        seen, shaped = Supervised(inputs, features, outputs, target), own
        for shape, held in zip(self.shapes, tensors, strict=True):
            context = with_tensors(shape.contexts[0], held, round_index, shape.title, self.network)
            shaped = shape.function(shaped, seen, context)
        return _mean(shaped, share, mask), _mean(own, share, mask)


def _mean(losses: Tensor, share: Tensor, mask: Tensor | None) -> Tensor:
    return (losses * share).sum() if mask is None else torch.where(mask, losses * share, losses.new_zeros(())).sum()
