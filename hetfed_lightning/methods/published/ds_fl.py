"""DS-FL: participants distil a sharpened mean of everyone's probabilities on a public set (Itahara et al. 2020)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from hetfed_lightning.methods.messages import Combined, Message, Work
from hetfed_lightning.methods.method import About, Method
from hetfed_lightning.methods.plans import Moment, Part
from hetfed_lightning.methods.public_answers import answer_layout, refuse_unlike_answers
from hetfed_lightning.methods.search_space import choices, search_space

if TYPE_CHECKING:
    from hetfed_lightning.methods.context import Context
    from hetfed_lightning.methods.participant_data import ParticipantData
    from hetfed_lightning.methods.server_memory import ServerMemory
    from hetfed_lightning.participants.participant import Participant

PROBABILITIES = "probabilities"


class DSFL(Method):
    """Distillation of aggregated probabilities at a round's end, by cross-entropy, into those who took part.

    What travels: probabilities on the public set up, targets of the same shape down. Local training is the
    participant's own.

    Args:
        reduction: ``"era"``: softmax of the mean probabilities divided by the temperature, the paper's entropy
            reduction; ``"power"``: mean probabilities to the power ``1 / temperature``, normalised, which is sharper
            whatever they are (ERA makes .9996 of a certain class among ten at .1); ``"mean"``: the mean, the paper's
            SA.
        temperature: Of the reduction, above 0; .1 in the paper.
        epochs: Passes over the public set, at least 1.
        batch_size: Public examples in a batch, at least 1.

    Raises:
        ValueError: If a setting is out of its range; before training, if there is no public set, a task is not
            multiclass, or outputs differ.

    Reference:
        Itahara, Nishio, Koda, Morikura, Yamamoto (2020), Distillation-Based Semi-Supervised Federated Learning for
        Communication-Efficient Collaborative Training with Non-IID Private Data, IEEE TMC, eq. 11 to 13.
    """

    search_space = search_space(temperature=choices(0.1, 0.5, 1.0), epochs=choices(1, 2, 4))

    def __init__(
        self,
        reduction: Literal["era", "power", "mean"] = "era",
        temperature: float = 0.1,
        *,
        epochs: int = 1,
        batch_size: int = 64,
    ) -> None:
        if reduction not in {"era", "power", "mean"}:
            raise ValueError(f"reduction: expected 'era', 'power' or 'mean', got {reduction!r}.")
        if not (math.isfinite(temperature) and temperature > 0):
            raise ValueError(f"temperature: expected a finite number above 0, got {temperature}.")
        for name, count in (("epochs", epochs), ("batch_size", batch_size)):
            if count < 1:
                raise ValueError(f"{name}: expected at least 1, got {count}.")
        self.reduction, self.temperature = reduction, temperature
        self.epochs, self.batch_size = epochs, batch_size

    def describe(self, participant: Participant, data: ParticipantData) -> Message:
        """Layout of the probabilities on the public set, shape ``(P, C)``.

        Args:
            participant: Participant to describe.
            data: The public set.

        Raises:
            ValueError: If there is none, the participant reads nothing of it, or its task is not multiclass.
        """
        if participant.task.kind != "multiclass":
            raise ValueError(
                f"{participant.label}: {self.title} combines probabilities of classes, and its task is "
                f"{participant.task.kind}: take EnsembleDistillation."
            )
        return answer_layout(participant, data, self.title)

    def groups(self, about: About) -> Mapping[str, Sequence[str]]:
        """One group of all.

        Args:
            about: Descriptions of all participants, by name.

        Raises:
            ValueError: If their outputs differ in number.
        """
        refuse_unlike_answers(about, self.title)
        return super().groups(about)

    def plan(self, participant: Participant, moment: Moment, round_index: int) -> Sequence[Part]:
        """Passes over the public set once the targets have come.

        Args:
            participant: Unused.
            moment: ``"received"`` alone.
            round_index: Unused.
        """
        del participant, round_index
        return [Part(epochs=self.epochs, on="public", batch_size=self.batch_size)] if moment == "received" else ()

    def send(self, participant: Participant, data: ParticipantData, work: Work, context: Context) -> Message:
        """Probabilities on the public set, shape ``(P, C)``.

        Args:
            participant: Unused.
            data: The public set.
            work: Unused.
            context: Unused.
        """
        del participant, work, context
        return {PROBABILITIES: data.public_outputs.softmax(dim=1)}

    def combine(
        self,
        sent: Mapping[str, Message],
        asked: Sequence[str],
        about: About,
        server: ServerMemory,
        round_index: int,
    ) -> Combined:
        """Targets, shape ``(P, C)``, and the mean of their entropies in nats.

        Args:
            sent: Probabilities by sender.
            asked: Unused.
            about: Unused.
            server: Unused.
            round_index: Unused.
        """
        del asked, about, server, round_index
        mean = torch.stack([one[PROBABILITIES] for one in sent.values()]).mean(dim=0)
        if self.reduction == "era":
            mean = functional.softmax(mean / self.temperature, dim=1)
        elif self.reduction == "power":
            # By logarithms, since a small number to the tenth power is none.
            mean = functional.softmax(mean.clamp(min=torch.finfo(mean.dtype).tiny).log() / self.temperature, dim=1)
        return Combined({PROBABILITIES: mean}, {"entropy": float(torch.special.entr(mean).sum(dim=1).mean())})

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
        """Cross-entropy to the targets on public examples, shape ``(B,)``; the own loss of own ones.

        Args:
            own: Losses of the task, shape ``(B,)``; None for public examples.
            inputs: Unused.
            features: Unused.
            outputs: Logits of B examples, shape ``(B, C)``.
            target: Of public examples their places in the public set, shape ``(B,)``.
            on: Which examples these are.
            context: Targets received.
        """
        del inputs, features
        if on == "own":
            return own
        found: Tensor = -(context.received[PROBABILITIES][target] * functional.log_softmax(outputs, dim=1)).sum(dim=1)
        return found
