"""FedRoD: a generic head with a balanced loss, and a personal one on its features (Chen and Chao 2022)."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from hetfed_lightning.methods.class_means import check_multiclass
from hetfed_lightning.methods.common_start import SharedWeights
from hetfed_lightning.methods.search_space import choices, search_space

if TYPE_CHECKING:
    from hetfed_lightning.methods.context import Context
    from hetfed_lightning.methods.messages import Message
    from hetfed_lightning.methods.participant_data import ParticipantData
    from hetfed_lightning.participants.participant import Participant

PERSONAL, PRIOR = "personal", "prior"
"""Names of the modules: the personal head, and the participant's class shares."""


class FedRoD(SharedWeights):
    """Averaging of backbone and generic head, trained by a balanced loss, beside a personal head that is not shared.

    The generic outputs z are trained by ``CE(z + gamma log n_c, y)``, with n_c the participant's examples of class c.
    The personal head h is trained by ``CE(z + h(f), y)``, in which z and the features f are constants. The participant
    predicts ``z + h(f)``; the generic outputs are measured beside, as ``accuracy.generic``.

    What travels is what participants share, weighted by examples: ``Participant(shared=("*",))`` has the generic head
    travel as in the paper, the default keeps it at home.

    Args:
        gamma: Power of the class counts in the balanced softmax, at least 0; 1 in the paper.

    Raises:
        ValueError: If gamma is out of its range; before training, if a task is not multiclass, a participant shares
            nothing, or no two share weights of one layout.

    Reference:
        Chen and Chao (2022), On Bridging Generic and Personalized Federated Learning for Image Classification, ICLR,
        eq. 4 to 7 with the linear personalised head. :class:`~hetfed_lightning.GenericAndPersonal` is for personal
        inputs.
    """

    paper_shares = ("*",)
    search_space = search_space(gamma=choices(0.5, 1.0, 2.0))

    def __init__(self, gamma: float = 1.0) -> None:
        if not 0 <= gamma < float("inf"):
            raise ValueError(f"gamma: expected a finite number of at least 0, got {gamma}.")
        self.gamma = gamma

    def modules(self, participant: Participant) -> Mapping[str, nn.Module]:
        """A personal head of the architecture of the participant's own.

        Args:
            participant: Participant that gets it.
        """
        head = deepcopy(participant.head)
        for parameter in head.parameters():
            nn.init.zeros_(parameter)  # The personal outputs begin as no change of the generic ones.
        return {PERSONAL: head}

    def describe(self, participant: Participant, data: ParticipantData) -> Message:
        """Layout of the shared weights, and the number of examples.

        Args:
            participant: Participant to describe.
            data: Its training examples, for their number.

        Raises:
            ValueError: If its task is not multiclass.
        """
        check_multiclass(participant, self.title)
        return super().describe(participant, data)

    @torch.no_grad()
    def receive(self, participant: Participant, data: ParticipantData, state: Message, context: Context) -> None:
        """Count the classes once, as the first weights come.

        Args:
            participant: Unused.
            data: Its training examples.
            state: Shared weights, for their dtype.
            context: Its memory, which keeps the logarithms of the shares.
        """
        del participant
        if (counts := data.class_counts) is not None and PRIOR not in context.memory:
            like = next(iter(state.values()))
            context.memory[PRIOR] = (counts / counts.sum()).clamp(min=1e-12).log().to(like)

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
        """Balanced loss of the generic outputs and loss of the sum with the personal ones, shape ``(B,)``.

        Args:
            own: Losses of the task, which is left aside.
            inputs: Unused.
            features: Features of B examples, shape ``(B, D)``.
            outputs: Generic outputs, shape ``(B, C)``.
            target: Classes, shape ``(B,)``.
            on: Unused.
            context: The personal head, and the class shares in its memory.
        """
        del own, inputs, on
        personal = context.modules[PERSONAL](features.detach())
        prior = self.gamma * context.memory[PRIOR].to(outputs)
        balanced = functional.cross_entropy(outputs + prior, target, reduction="none")
        return balanced + functional.cross_entropy(outputs.detach() + personal, target, reduction="none")

    def answers(self, inputs: Any, features: Tensor, outputs: Tensor, context: Context) -> dict[str, Tensor]:
        """Sum of generic and personal outputs as the prediction, and the generic ones, shape ``(B, C)``.

        Args:
            inputs: Unused.
            features: Features of B examples, shape ``(B, D)``.
            outputs: Generic outputs, shape ``(B, C)``.
            context: The personal head.
        """
        del inputs
        return {"prediction": outputs + context.modules[PERSONAL](features), "generic": outputs}
