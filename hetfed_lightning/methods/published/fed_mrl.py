"""FedMRL: features of a small common network and of the own one, fused and read at two widths (Yi et al. 2024)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from hetfed_lightning.methods.common_model import COMMON
from hetfed_lightning.methods.common_network import CommonNetwork, common_features, common_parts
from hetfed_lightning.methods.method import PREDICTION
from hetfed_lightning.methods.search_space import log_range, search_space

if TYPE_CHECKING:
    from hetfed_lightning.methods.context import Context
    from hetfed_lightning.participants.participant import Participant

PROJECTION = "projection"


class FedMRL(CommonNetwork):
    """Participants of any architecture with a small common network, whose features are fused with their own.

    A linear projection of the participant's own maps the features of both networks, side by side, to the width of its
    own. The common head reads the first of these features, as many as it takes, and the participant's head all of them;
    it is trained on both losses. What travels is the common network; the projection stays. Predictions are those of the
    participant's head, and those of the common head are measured beside them. The network without the method, as an
    export holds it, has a head for fused features: keep the checkpoint.

    Args:
        backbone: Common backbone, of features ``(B, D)``, D at most the width of each participant's; None for copies of
            the participants' own networks.
        head: Common head for these features.
        common_weight: Weight of the common head's loss, at least 0; 1 in the paper.

    Raises:
        ValueError: If an argument is out of its range; before training, if no two participants have common networks of
            one layout, or common features are wider than a participant's own.

    Reference:
        Yi, Yu, Wang, Liu, Li, Wang, Li (2024), Federated Model Heterogeneous Matryoshka Representation Learning,
        NeurIPS, eq. 5 to 12; both of its weights are 1.
    """

    needs_head = True
    search_space = search_space(common_weight=log_range(0.1, 10.0))

    def __init__(
        self, backbone: nn.Module | None = None, head: nn.Module | None = None, *, common_weight: float = 1.0
    ) -> None:
        if not (math.isfinite(common_weight) and common_weight >= 0):
            raise ValueError(f"common_weight: expected a finite number of at least 0, got {common_weight}.")
        super().__init__(backbone, head)
        self.common_weight = common_weight

    def modules(self, participant: Participant) -> Mapping[str, nn.Module]:
        """The common network, and the participant's projection.

        Args:
            participant: Participant that gets them.

        Raises:
            ValueError: If the common features are wider than its own.
        """
        made = super().modules(participant)
        common, own = self.widths(participant, made)
        if common > own:
            raise ValueError(
                f"{participant.label}: FedMRL's common head reads the first {common} of its {own} features: give the "
                "common backbone at most as many."
            )
        return {**made, PROJECTION: nn.Linear(common + own, own)}

    def example_loss(
        self,
        own: Tensor,
        inputs: Any,
        features: Tensor,
        outputs: Tensor,
        target: Tensor,
        on: Literal["own", "public"],
        context: Context,
    ) -> Tensor:
        """Loss of the own head and of the common one on fused features, shape ``(B,)``.

        Args:
            own: Losses of the own head on its own features, which are left aside.
            inputs: Inputs of B examples.
            features: Features of the participant's backbone, shape ``(B, D)``.
            outputs: Unused.
            target: Targets of the B examples.
            on: Unused.
            context: The networks, and the task.
        """
        del own, outputs, on
        found = []
        for answers in _answers(inputs, features, context):
            losses, weights = context.task.example_losses(answers, target)
            found.append(losses * (len(losses) / weights.sum()))
        return found[0] + self.common_weight * found[1]

    def answers(self, inputs: Any, features: Tensor, outputs: Tensor, context: Context) -> dict[str, Tensor]:
        """Outputs of the own head on fused features, and of the common one.

        Args:
            inputs: Inputs of B examples.
            features: Features of the participant's backbone.
            outputs: Outputs of the participant's network, for their shape.
            context: The networks.
        """
        own, common = _answers(inputs, features, context)
        return {PREDICTION: own.view_as(outputs), COMMON: common.view_as(outputs)}


def _answers(inputs: Any, features: Tensor, context: Context) -> tuple[Tensor, Tensor]:
    """Outputs of the own head and of the common one."""
    if context.head is None:
        raise RuntimeError("FedMRL needs the participant's head.")
    small = common_features(context, inputs)
    fused = context.modules[PROJECTION](torch.cat([small, features.flatten(1)], dim=1))
    common: Tensor = common_parts(context)[1](fused[:, : small.shape[1]])
    return context.head(fused), common
