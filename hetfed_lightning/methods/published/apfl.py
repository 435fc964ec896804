"""APFL: each participant's model is a mixture of its own and of the common one (Deng et al. 2020)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import deepcopy
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from hetfed_lightning.methods.common_model import COMMON, CommonModel
from hetfed_lightning.methods.search_space import choices, search_space

if TYPE_CHECKING:
    from hetfed_lightning.methods.context import Context
    from hetfed_lightning.methods.messages import Message
    from hetfed_lightning.methods.participant_data import ParticipantData
    from hetfed_lightning.participants.participant import Participant

OWN = "own"
"""Name of the module with the model v."""
SHARE = "share"
"""Name of the module with the weight alpha."""


class APFL(CommonModel):
    """Federated averaging of a common model w, beside mixtures ``alpha v + (1 - alpha) w`` that learn through v alone.

    v and w are modules of the participant's, trained by its optimizer on the same batches: w by its own loss, v and
    alpha by the loss of the mixture, in which w is constant. What travels is w, weighted by examples. The
    participant's network is the mixture, which predicts and is exported; it is written anew as a result arrives, so
    between two exchanges it is that of the last one. Figures of w stand beside, as ``accuracy.common``.

    Args:
        alpha: Weight of v in the mixture at the start, in [0, 1]; 0 is federated averaging, 1 local training.
        adaptive: True to learn alpha, each participant its own, kept in [0, 1]. The paper does it once a round with a
            plain gradient step; here every step of the participant's optimizer moves it as any other parameter. False
            to leave it as it is, as in the paper's analysis and first experiments.

    Raises:
        ValueError: If alpha is out of its range; before training, if no two participants have networks of one layout.

    Reference:
        Deng, Kamani, Mahdavi (2020), Adaptive Personalized Federated Learning, arXiv 2003.13461, Algorithm 1 and
        eq. 10.
    """

    search_space = search_space(alpha=choices(0.1, 0.25, 0.5, 0.75, 0.9))

    def __init__(self, alpha: float = 0.5, *, adaptive: bool = True) -> None:
        if not (math.isfinite(alpha) and 0 <= alpha <= 1):
            raise ValueError(f"alpha: expected a number in [0, 1], got {alpha}.")
        super().__init__()
        self.alpha, self.adaptive = alpha, adaptive

    @property
    def remedy(self) -> str:
        """Sentence on what to change if participants have nothing in common."""
        return "Give them networks of one architecture, heads included."

    def modules(self, participant: Participant) -> Mapping[str, nn.Module]:
        """The common model w, the own model v, and its weight.

        Args:
            participant: Participant that gets them.
        """
        (common,) = super().modules(participant).values()
        return {COMMON: common, OWN: deepcopy(common), SHARE: Share(self.alpha, adaptive=self.adaptive)}

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
        """Loss of the mixture and of the common model, shape ``(B,)``.

        Args:
            own: Losses of the mixture of the last exchange, of no weight.
            inputs: Inputs of B examples.
            features: Unused.
            outputs: Unused.
            target: Targets of the B examples.
            on: Unused.
            context: The models and the weight, and the task.
        """
        del features, outputs, on
        mixed = functional_call(context.modules[OWN], mixture(context.modules), (inputs,))
        found = 0 * own  # A gradient of zero: the network itself follows what is mixed.
        for answers in (mixed, context.modules[COMMON](inputs)):
            losses, weights = context.task.example_losses(answers, target)
            found = found + losses * (len(losses) / weights.sum())
        return found

    @torch.no_grad()
    def receive(self, participant: Participant, data: ParticipantData, state: Message, context: Context) -> None:
        """Take over the common model, and write the mixture into the participant's network.

        Args:
            participant: Participant whose network it is.
            data: Unused.
            state: Parameters of the common model by key.
            context: The models and the weight.
        """
        super().receive(participant, data, state, context)
        for weight in context.modules[SHARE].parameters():
            weight.clamp_(0, 1)
        saved, own = participant.state_dict(), context.modules[OWN]
        buffers = {key: one for key, one in own.named_buffers() if key in saved}
        participant.load_state_of({**buffers, **mixture(context.modules)})


class Share(nn.Module):
    """Weight alpha of the own model, a scalar in [0, 1] whose gradient is that of the identity.

    Args:
        alpha: Its value.
        adaptive: True to train it.
    """

    def __init__(self, alpha: float, *, adaptive: bool) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.tensor(alpha), requires_grad=adaptive)

    def forward(self) -> Tensor:
        """The weight, a scalar."""
        return self.alpha + (self.alpha.clamp(0, 1) - self.alpha).detach()


def mixture(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Parameters ``alpha v + (1 - alpha) w`` by key, with w constant.

    Args:
        modules: The models and the weight.
    """
    alpha: Tensor = modules[SHARE]()
    common = dict(modules[COMMON].named_parameters())
    return {key: alpha * one + (1 - alpha) * common[key].detach() for key, one in modules[OWN].named_parameters()}
