"""Losses of public batches, which methods give, for the members of a fleet at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hetfed_lightning.fleets.contexts import Tensors, with_tensors
from hetfed_lightning.fleets.shaping import ShapedEngine
from hetfed_lightning.supervised import Supervised

if TYPE_CHECKING:
    from typing import Any

    from torch import Tensor


class PublicEngine(ShapedEngine):
    """Engine whose loss is one method's, of public examples; targets of its batches are their places in the public set.

    The only one of its shapes is the method's, and its function is given no losses of a task.
    """

    def _means(
        self, inputs: Any, target: Tensor, mask: Tensor | None, tensors: list[Tensors], round_index: int
    ) -> tuple[Tensor, Tensor]:
        del mask  # Public batches of one step are of one length.
        features, outputs = self.network.features_and_outputs(inputs)
        (shape,) = self.shapes
        modules = self.network.modules_of(shape.title)
        context = with_tensors(shape.contexts[0], tensors[0], round_index, modules)
        losses = shape.function(outputs.new_empty(0), Supervised(inputs, features, outputs, target), context)
        return losses.mean(), losses.mean()
