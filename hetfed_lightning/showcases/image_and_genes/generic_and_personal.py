"""A participant whose answer is the sum of two: a generic one that all share and a personal one that nobody else has.

For few examples, and inputs of which some are everyone's and some one's own. The generic model is trained to answer by
itself, not merely to suit the personal one; so what travels is a model that is of use to everybody, whatever private
inputs its contributors have.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from hetfed_lightning.batches import split_batch
from hetfed_lightning.participants.participant import Participant


class GenericAndPersonal(Participant):
    """Outputs ``backbone(common) + head(private)``, where the backbone alone has to answer as well.

    The loss is that of the generic outputs plus that of the sum, in which the generic outputs count as constants: the
    head learns what is left, by its own examples, and nothing of that reaches the shared backbone. Distillation, which
    sees outputs alone, teaches both.

    Weight decay, where the optimizer has it, applies to matrices and not to biases: a bias says how frequent the
    classes are, and pulling it to zero would move every decision.

    Args:
        backbone: Maps the common input to generic outputs ``(B, C)``.
        head: Maps the private input to personal outputs ``(B, C)``.
        reads: Name of the common input.
        own: Name of the private input.
        settings: As :class:`Participant` takes them; ``transform`` brings forth inputs by name.

    Raises:
        KeyError: In use, if a batch lacks an input, by its name.

    Reference:
        Chen and Chao (2022), On Bridging Generic and Personalized Federated Learning for Image Classification
        (FedRoD), eq. 6 and 7. Theirs is a personal head on the shared features, trained by the plain loss beside a
        generic head with a balanced one; ours reads inputs that the backbone does not have, and the task says how
        classes are weighed, for both the same: here both answers are judged by one figure.
    """

    def __init__(
        self, backbone: nn.Module, head: nn.Module, *, reads: str = "common", own: str = "private", **settings: Any
    ) -> None:
        super().__init__(backbone, head, **settings)
        self.reads = reads
        self.own = own

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Outputs ``(B, C)`` for inputs by name that have passed through ``transform``."""
        generic, personal = self.both(inputs)
        return generic + personal

    def both(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Generic and personal outputs, each ``(B, C)``."""
        if missing := [name for name in (self.reads, self.own) if name not in inputs]:
            raise KeyError(f"{self.label} reads {', '.join(missing)}, and the batch has {', '.join(inputs)}.")
        return self.backbone(inputs[self.reads]), self.head(inputs[self.own])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Loss of the generic outputs plus that of the sum; the latter is logged."""
        del batch_idx
        inputs, target = split_batch(batch)
        generic, personal = self.both(inputs)
        whole = self.task.loss(generic.detach() + personal, target)
        self.log("train_loss", whole, batch_size=len(target))
        return self.task.loss(generic, target) + whole

    def optimizer_parameters(self) -> list[dict[str, Any]]:
        """Parameters in two groups: matrices, and what weight decay leaves alone."""
        parameters = self.trainable_parameters()
        groups: list[dict[str, Any]] = [
            {"params": [one for one in parameters if one.ndim > 1]},
            {"params": [one for one in parameters if one.ndim <= 1], "weight_decay": 0.0},
        ]
        return [group for group in groups if group["params"]]
