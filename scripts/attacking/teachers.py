"""Ten teachers trained alone on real digits, some of whom lie, and one student that learns from what they say."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from hetfed_lightning import EnsembleDistillation, Federation, Participant
from hetfed_lightning.distillation import Ensemble
from hetfed_lightning.showcases import DigitsDataModule
from scripts.attacking.digits import NAMES, accuracy, digits, network, quiet_trainer

ROUNDS = 30
PUBLIC = 300
SURE = 20.0
LOUD = 1000.0

Lie = Callable[[Tensor], Tensor]


def wrong(logits: Tensor) -> Tensor:
    """Sure of the class after the one that it holds for right."""
    chosen = (logits.argmax(dim=-1) + 1) % logits.shape[-1]
    return SURE * nn.functional.one_hot(chosen, logits.shape[-1]).to(logits)


def loud(logits: Tensor) -> Tensor:
    """What it holds for right, a thousand times."""
    return LOUD * logits


def loud_and_wrong(logits: Tensor) -> Tensor:
    """Sure of the wrong class, a thousand times."""
    return LOUD * wrong(logits)


def not_a_number(logits: Tensor) -> Tensor:
    """NaN throughout."""
    return logits * math.nan


LIES: dict[str, tuple[Lie, ...]] = {
    "nobody": (),
    "1 sure and wrong": (wrong,),
    "2 sure and wrong": (wrong,) * 2,
    "3 sure and wrong": (wrong,) * 3,
    "1 wrong x1000": (loud_and_wrong,),
    "1 right x1000": (loud,),
    "1 NaN": (not_a_number,),
    "3 wrong (1 x1000), 1 NaN": (wrong, wrong, loud_and_wrong, not_a_number),
    "3 wrong (1 x1000), 1 right x1000, 1 NaN": (wrong, wrong, loud_and_wrong, loud, not_a_number),
}
"""What the first teachers do; the others are honest."""


class Liar(Participant):
    """Learns as others do and says something else when it is asked."""

    lie: Lie

    def forward(self, inputs: Any) -> Tensor:
        """A lie, unless it is learning."""
        logits = super().forward(inputs)
        return logits if self.training else self.lie(logits)


@dataclass(frozen=True)
class School:
    """Trained teachers, and the digits that a student is taught by and examined on.

    Attributes:
        data: The digits.
        states: What each teacher has learned.
        seed: Of everything.
    """

    data: DigitsDataModule
    states: tuple[dict[str, Tensor], ...]
    seed: int

    @classmethod
    def of(cls, partition: str, seed: int) -> School:
        """Train ten teachers, each alone on its own digits."""
        data = digits(partition, seed, public=PUBLIC)
        federation = Federation(
            {name: network(seed + 1 + place) for place, name in enumerate(NAMES)}, seed=seed, engine="batched"
        )
        quiet_trainer(ROUNDS).fit(federation, datamodule=data)
        keys = federation[NAMES[0]].shared_keys()
        return cls(data, tuple(federation[name].state_of(keys) for name in NAMES), seed)

    def student_accuracy(self, ensemble: Ensemble, lies: tuple[Lie, ...]) -> float:
        """Accuracy on everyone's test digits of a student that learned from the teachers' ensemble alone.

        Args:
            ensemble: How teachers are combined.
            lies: What the first of the ten teachers do; they take one more step each before they are asked.
        """
        members: dict[str, Participant] = {}
        for place, name in enumerate(NAMES):
            members[name] = member = network(self.seed, Liar if place < len(lies) else Participant)
            member.load_state_of(self.states[place])
            if isinstance(member, Liar):
                member.lie = lies[place]
        federation = Federation(members, network(self.seed), seed=self.seed, engine="sequential")
        teaching = EnsembleDistillation(ensemble, temperature=2.0, epochs=40, batch_size=50)
        quiet_trainer(1, teaching, limit_train_batches=1).fit(federation, datamodule=self.data)
        return accuracy(federation["student"], self.data)
