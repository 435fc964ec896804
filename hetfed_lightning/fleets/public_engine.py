"""Losses of public batches, which methods give, for the members of a fleet at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from hetfed_lightning.fleets.contexts import Tensors, with_tensors
from hetfed_lightning.fleets.shaping import ShapedEngine
from hetfed_lightning.supervised import Supervised

if TYPE_CHECKING:
    from torch import Tensor

    from hetfed_lightning.data.blocks import StackedBatch
    from hetfed_lightning.fleets.contexts import AlikeMembers
    from hetfed_lightning.fleets.shaping import LossShape


@dataclass(frozen=True, eq=False)
class _OfOutputs:
    """A method's losses as any engine takes them, for members who have received the same and remember nothing."""

    shape: LossShape
    members: AlikeMembers

    def example_losses(self, outputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Losses and ones, shape ``(B,)`` each."""
        held: dict[str, Any] = dict(self.members.tensors[0])
        context = replace(self.shape.contexts[0], **held, round_index=self.members.round_index, modules={})
        nothing = outputs.new_empty(0)
        losses = self.shape.function(nothing, Supervised(None, nothing, outputs, target), context)
        return losses, torch.ones_like(losses)


class PublicEngine(ShapedEngine):
    """Engine whose loss is one method's, of public examples; targets of its batches are their places in the public set.

    The only one of its shapes is the method's, and its function is given no losses of a task. Losses of outputs alone
    are left to the engine that was chosen for local steps, which may be quicker.
    """

    _of_outputs: _OfOutputs | None = None

    def open_round(self, shapes: Sequence[LossShape]) -> None:
        """Take over the contexts of a round; compiled steps are kept while the methods are the same."""
        super().open_round(shapes)
        (shape,), compiled = shapes, self._compile_settings is not None
        common = len(self.members) == 1 and all(
            dim is None for part in self.members[0].dims[0].values() for dim in part.values()
        )
        self._of_outputs = _OfOutputs(shape, self.members[0]) if shape.of_outputs and common and not compiled else None

    def gradients(
        self,
        parameters: Mapping[str, Tensor],
        gradients: Mapping[str, Tensor],
        batch: StackedBatch,
        *,
        add: bool = False,
    ) -> Tensor:
        """The method's losses of every participant, shape ``(K,)``; writes their gradients.

        Args:
            parameters: Shape ``(K, *shape)`` each, by key.
            gradients: Tensors of the same keys and shapes; overwritten, or added to.
            batch: One public batch of each participant.
            add: True to add to the values in ``gradients``.
        """
        if self._of_outputs is None:
            return super().gradients(parameters, gradients, batch, add=add)
        return self.engine.towards(self._of_outputs).gradients(parameters, gradients, batch, add=add)

    def _means(
        self, inputs: Any, target: Tensor, mask: Tensor | None, tensors: list[Tensors], round_index: int
    ) -> tuple[Tensor, Tensor]:
        del mask  # Public batches of one step are of one length.
        features, outputs = self.network.features_and_outputs(inputs)
        (shape,) = self.shapes
        context = with_tensors(shape.contexts[0], tensors[0], round_index, shape.title, self.network)
        losses = shape.function(outputs.new_empty(0), Supervised(inputs, features, outputs, target), context)
        return losses.mean(), losses.mean()
