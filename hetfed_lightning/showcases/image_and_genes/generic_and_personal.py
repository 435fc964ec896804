"""Participant with two models, a generic one that is shared and a personal one, whose outputs are added.

For few examples, and inputs of which some are common and some private. The generic model is trained to predict by
itself, not merely to complement the personal one: so the shared model is useful to participants without the private
inputs of the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from hetfed_lightning.batches import split_batch
from hetfed_lightning.participants.participant import Participant


class GenericAndPersonal(Participant):
    """Outputs ``backbone(common) + head(private)``, shape ``(B, C)``, with a backbone that predicts by itself as well.

    The loss is that of the generic outputs plus that of the sum, in which the generic outputs are constants: the head
    learns the remainder from its own examples, and none of it reaches the shared backbone. Distillation, which uses
    outputs alone, teaches both.

    Weight decay, where the optimizer has it, applies to matrices and not to biases: a bias holds the class frequencies,
    and decay to zero would move every decision.

    Args:
        backbone: Maps the common input to generic outputs ``(B, C)``.
        head: Maps the private input to personal outputs ``(B, C)``.
        reads: Name of the common input.
        own: Name of the private input.
        settings: Further arguments of :class:`Participant`; its ``transform`` returns inputs by name.

    Raises:
        KeyError: In use, if a batch lacks an input; names it.

    Reference:
        Chen and Chao (2022), On Bridging Generic and Personalized Federated Learning for Image Classification (FedRoD),
        eq. 6 and 7. Theirs is a personal head on the shared features, trained by the plain loss beside a generic head
        with a balanced one; ours reads inputs that the backbone lacks, and one task weights the classes of both, since
        both are judged by one metric.
    """

    def __init__(
        self, backbone: nn.Module, head: nn.Module, *, reads: str = "common", own: str = "private", **settings: Any
    ) -> None:
        super().__init__(backbone, head, **settings)
        self.reads = reads
        self.own = own

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Outputs, shape ``(B, C)``, for transformed inputs by name."""
        generic, personal = self.both(inputs)
        return generic + personal

    def features_of(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Generic outputs, shape ``(B, C)``, for transformed inputs by name."""
        features: Tensor = self.backbone(inputs[self.reads])
        return features

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
