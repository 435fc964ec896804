"""FedDF: averages by architecture, each then taught by the ensemble of all models on a public set (Lin et al. 2020)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from hetfed_lightning.methods.common_start import SAMPLES
from hetfed_lightning.methods.messages import Combined, Exchange, Message, PerParticipant, When, Work
from hetfed_lightning.methods.method import About, Method
from hetfed_lightning.methods.plans import Moment, Part
from hetfed_lightning.methods.public_answers import answer_layout, refuse_unlike_answers
from hetfed_lightning.methods.search_space import choices, log_range, search_space

if TYPE_CHECKING:
    from hetfed_lightning.federation_view import Cohorts
    from hetfed_lightning.methods.context import Context
    from hetfed_lightning.methods.participant_data import ParticipantData
    from hetfed_lightning.methods.server_memory import ServerMemory
    from hetfed_lightning.participants.participant import Participant

WEIGHTS, LOGITS = "weights", "logits"
LAYOUT = "weights "


class FedDF(Method):
    """Averages of participants of one architecture, each distilled from the mean logits of all participants.

    What travels: shared weights and logits on the public set; down the average of one's architecture, weighted by
    examples, and the mean logits of all who trained. The paper's server distils; here participants do, since a server
    sees neither networks nor public examples: as the next round that they train in begins, and all of them after the
    last round. They begin from the same average, with a new Adam, and see the public examples in one order, so that all
    of an architecture have one student. Figures after a round are those of averages, after the last those of students.
    An architecture of one participant has its own model for an average.

    Args:
        steps: Steps of a distillation, at least 1. The paper takes up to 10,000, fewer if a validation set of the
            server says so.
        lr: Learning rate of Adam, above 0, which falls to 0 along half a cosine wave; .001 in the paper.
        batch_size: Public examples in a batch, at least 1; 128 in the paper.

    Raises:
        ValueError: If a setting is out of its range; before training, if there is no public set, a task is not
            multiclass, outputs differ, or a participant shares nothing.

    Reference:
        Lin, Kong, Stich, Jaggi (2020), Ensemble Distillation for Robust Model Fusion in Federated Learning, NeurIPS,
        Algorithms 1 and 3: Kullback-Leibler divergence to the softmax of mean logits, of temperature 1. Clients that
        were averaged are the teachers.
    """

    paper_shares = ("*",)
    search_space = search_space(steps=choices(30, 100, 300), lr=log_range(0.0001, 0.01))
    exchanges = (Exchange("start", "joined"), Exchange("end"))
    needs_steps = True
    public_alone = True
    shares_order = True

    def __init__(self, steps: int = 100, lr: float = 0.001, *, batch_size: int = 64) -> None:
        for name, count in (("steps", steps), ("batch_size", batch_size)):
            if count < 1:
                raise ValueError(f"{name}: expected at least 1, got {count}.")
        if not (math.isfinite(lr) and lr > 0):
            raise ValueError(f"lr: expected a finite number above 0, got {lr}.")
        self.steps, self.lr, self.batch_size = steps, lr, batch_size

    # Before training

    def describe(self, participant: Participant, data: ParticipantData) -> Message:
        """Layouts of the shared weights and of the logits, and the number of examples.

        Args:
            participant: Participant to describe.
            data: Its training examples and the public set.

        Raises:
            ValueError: If there is no public set, its task is not multiclass, or it shares nothing.
        """
        if participant.task.kind != "multiclass":
            raise ValueError(
                f"{participant.label}: {self.title} combines logits of classes, and its task is "
                f"{participant.task.kind}: take EnsembleDistillation."
            )
        weights = _shared(participant)
        if not weights:
            raise ValueError(
                f"{participant.label}: {self.title} averages shared weights, and it shares none: change "
                "Participant(shared=...), or leave the method out."
            )
        layout = {LAYOUT + key: torch.empty_like(one, device="meta") for key, one in weights.items()}
        return {**answer_layout(participant, data, self.title), **layout, SAMPLES: torch.tensor(data.num_samples)}

    def groups(self, about: About) -> Mapping[str, Sequence[str]]:
        """One group of all.

        Args:
            about: Descriptions of all participants, by name.

        Raises:
            ValueError: If their outputs differ in number.
        """
        refuse_unlike_answers(about, self.title)
        return {"everyone": list(about)}

    # The round

    def plan(self, participant: Participant, moment: Moment, round_index: int) -> Sequence[Part]:
        """The distillation and then the participant's own work, from round 1 on; a distillation after the last round.

        Args:
            participant: Participant whose work is planned.
            moment: ``"local"`` or ``"last"``.
            round_index: Index of the round, from 0.
        """
        optimizer: Callable[[list[Any]], torch.optim.Optimizer] = partial(CosineAdam, lr=self.lr, steps=self.steps)
        student = Part(steps=self.steps, on="public", batch_size=self.batch_size, optimizer=optimizer)
        if moment == "last":
            return [student]
        if moment != "local" or round_index == 0:
            return ()
        budget = participant.step_budget
        return [student, Part(epochs=participant.local_epochs) if budget is None else Part(steps=budget)]

    def senders(self, when: When, round_index: int, about: About, cohorts: Cohorts) -> Sequence[str]:
        """The first of each architecture that is there as the run begins; those who train, at a round's end.

        Args:
            when: ``"start"`` or ``"end"`` of the round.
            round_index: Index of the round, from 0.
            about: Descriptions of all known participants, by name.
            cohorts: Cohort of each round.
        """
        asked = super().senders(when, round_index, about, cohorts)
        if when == "end":
            return asked
        first: dict[str, str] = {}
        for name in asked if round_index == 0 else ():
            first.setdefault(_architecture(about[name]), name)
        return list(first.values())

    def send(self, participant: Participant, data: ParticipantData, work: Work, context: Context) -> Message:
        """Shared weights one after another, shape ``(W,)``, and logits on the public set, shape ``(P, C)``.

        Args:
            participant: The sender.
            data: The public set.
            work: Unused.
            context: Unused.
        """
        del work, context
        return {
            WEIGHTS: torch.cat([one.flatten() for one in _shared(participant).values()]),
            LOGITS: data.public_outputs,
        }

    def combine(
        self,
        sent: Mapping[str, Message],
        asked: Sequence[str],
        about: About,
        server: ServerMemory,
        round_index: int,
    ) -> Combined:
        """For each member the average of its architecture, and the mean logits of all senders.

        Args:
            sent: Weights and logits by sender.
            asked: Unused.
            about: Descriptions of all: architectures and numbers of examples.
            server: The last average of each architecture.
            round_index: Unused.
        """
        del asked, round_index
        of_architecture: dict[str, list[str]] = {}
        for name in sent:
            of_architecture.setdefault(_architecture(about[name]), []).append(name)
        for architecture, members in of_architecture.items():
            counts = [float(about[name][SAMPLES]) for name in members]
            parts = [sent[name][WEIGHTS] * (one / sum(counts)) for name, one in zip(members, counts, strict=True)]
            server.tensors[architecture] = torch.stack(parts).sum(dim=0)
        logits = torch.stack([one[LOGITS] for one in sent.values()]).mean(dim=0)
        return Combined(
            PerParticipant(
                {
                    name: {WEIGHTS: server.tensors[architecture], LOGITS: logits}
                    for name, one in about.items()
                    if (architecture := _architecture(one)) in server.tensors
                }
            )
        )

    @torch.no_grad()
    def receive(self, participant: Participant, data: ParticipantData, state: Message, context: Context) -> None:
        """Take over the average.

        Args:
            participant: The receiver.
            data: Unused.
            state: Weights one after another, and logits.
            context: Unused.
        """
        del data, context
        own = _shared(participant)
        parts = state[WEIGHTS].split([one.numel() for one in own.values()])
        participant.load_state_of({key: part.view_as(one) for (key, one), part in zip(own.items(), parts, strict=True)})

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
        """Kullback-Leibler divergence from the ensemble's probabilities on public examples, shape ``(B,)``.

        Args:
            own: Unused.
            inputs: Unused.
            features: Unused.
            outputs: Logits of B examples, shape ``(B, C)``.
            target: Their places in the public set, shape ``(B,)``.
            on: Unused.
            context: Mean logits received.
        """
        del own, inputs, features, on
        teacher = functional.log_softmax(context.received[LOGITS][target], dim=1)
        student = functional.log_softmax(outputs, dim=1)
        found: Tensor = functional.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=1)
        return found


class CosineAdam(torch.optim.Adam):
    """Adam whose learning rate falls to 0 along half a cosine wave.

    Args:
        params: Parameters.
        lr: Learning rate of the first step.
        steps: Number of steps until it would be 0, at least 1.
    """

    def __init__(self, params: Any, lr: float, steps: int) -> None:
        super().__init__(params, lr=lr)
        self.first, self.steps, self.done = lr, steps, 0

    def step(self, closure: Any = None) -> Any:
        """Adam's step at the learning rate of the moment.

        Args:
            closure: As Adam takes it.
        """
        for group in self.param_groups:
            group["lr"] = self.first * (1 + math.cos(math.pi * min(1.0, self.done / self.steps))) / 2
        self.done += 1
        return super().step(closure)


def _shared(participant: Participant) -> dict[str, Tensor]:
    """Shared weights by key; whole numbers, such as counts of batches, stay at home."""
    found = participant.view_of(participant.averaged_keys())
    return {key: one for key, one in found.items() if one.is_floating_point()}


def _architecture(description: Message) -> str:
    """Layout of shared weights as text."""
    layout = {key: one for key, one in description.items() if key.startswith(LAYOUT)}
    return "; ".join(f"{key.removeprefix(LAYOUT)} {tuple(one.shape)} {one.dtype}" for key, one in layout.items())
