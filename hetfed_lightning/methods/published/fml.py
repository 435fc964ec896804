"""FML: a small common model and each participant's own teach each other at home (Shen et al. 2020)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor, nn
from torch.nn import functional

from hetfed_lightning.methods.common_model import COMMON, CommonModel
from hetfed_lightning.methods.search_space import choices, search_space
from hetfed_lightning.participants.participant import Participant

if TYPE_CHECKING:
    from hetfed_lightning.methods.context import Context
    from hetfed_lightning.methods.messages import Message
    from hetfed_lightning.methods.participant_data import ParticipantData


class FML(CommonModel):
    """Mutual learning between each participant's network and a common model, which alone travels and is averaged.

    The participant's network learns from ``alpha CE + (1 - alpha) KL(common || own)``, the common model from
    ``beta CE + (1 - beta) KL(own || common)``, on the participant's examples; each is constant in the other's loss. Own
    networks may be of any architecture. Figures of the common model stand beside, as ``accuracy.common``.

    Args:
        common: Model that maps inputs of the backbones to outputs ``(B, C)``. None for copies of the participants' own
            networks, which then have to be of one architecture.
        alpha: Weight of the targets in the own loss, in [0, 1].
        beta: Weight of the targets in the common model's loss, in [0, 1]. With 1 for both, as some published code has
            it, nobody learns from the other; .5 here.

    Raises:
        ValueError: If a weight is out of its range; before training, if a task is not multiclass, or no two
            participants have common models of one layout.

    Reference:
        Shen et al. (2020), Federated Mutual Learning, arXiv 2006.16765, eq. 5 and 6. KL sums over classes; published
        code that divides by their number too has other weights.
    """

    search_space = search_space(alpha=choices(0.1, 0.5, 0.9), beta=choices(0.1, 0.5, 0.9))

    def __init__(self, common: nn.Module | None = None, *, alpha: float = 0.5, beta: float = 0.5) -> None:
        for name, value in (("alpha", alpha), ("beta", beta)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name}: expected a number in [0, 1], got {value}.")
        super().__init__(common)
        self.alpha, self.beta = alpha, beta

    def describe(self, participant: Participant, data: ParticipantData) -> Message:
        """Layout of the common model, and the number of examples.

        Args:
            participant: Participant to describe.
            data: Its training examples, for their number.

        Raises:
            ValueError: If its task is not multiclass.
        """
        if participant.task.kind != "multiclass":
            raise ValueError(
                f"{participant.label}: FML compares probabilities of classes, and its task is {participant.task.kind}: "
                "take EnsembleDistillation or BackboneAveraging."
            )
        return super().describe(participant, data)

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
        """Loss of both models, shape ``(B,)``.

        Args:
            own: Losses of the participant's network, shape ``(B,)``.
            inputs: Inputs of B examples.
            features: Unused.
            outputs: Outputs of the participant's network, shape ``(B, C)``.
            target: Classes of the B examples.
            on: Unused.
            context: The common model, and the task.
        """
        del features, on
        common: Tensor = context.modules[COMMON](inputs)
        losses, weights = context.task.example_losses(common, target)
        theirs = losses * (len(losses) / weights.sum())
        return (
            self.alpha * own
            + (1 - self.alpha) * divergence(common.detach(), outputs)
            + self.beta * theirs
            + (1 - self.beta) * divergence(outputs.detach(), common)
        )


def divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """Kullback-Leibler divergence of the student's probabilities from the teacher's, shape ``(B,)``.

    Args:
        teacher: Logits, shape ``(B, C)``.
        student: Logits, shape ``(B, C)``.
    """
    found: Tensor = functional.kl_div(student.log_softmax(1), teacher.log_softmax(1), reduction="none", log_target=True)
    return found.sum(dim=1)
