"""Descriptions of teachers for the server: kind and width of their outputs, data sizes, lessons they ask for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hetfed_lightning.distillation import Teachers
from hetfed_lightning.methods.messages import Message

OUTPUTS, SAMPLES, CLASS_COUNTS, LESSONS = "outputs/", "samples", "class_counts", "lessons"
"""Keys: the beginning of one that ends with the kind of outputs, whose shape is theirs; counts."""


def teacher_description(
    kind: str, width: int, samples: int, class_counts: Tensor | None = None, lessons: int = 0
) -> dict[str, Tensor]:
    """Description of a participant that reads the public set, tensors by key.

    Args:
        kind: Kind of its outputs, such as ``"multiclass"``.
        width: Number C of its outputs.
        samples: Number of training examples.
        class_counts: Training examples by class, shape ``(C,)``; None to tell nothing of them.
        lessons: Passes over the public set that it asks for when it joins.
    """
    found = {OUTPUTS + kind: torch.empty(width, device="meta"), SAMPLES: torch.tensor(samples)}
    if class_counts is not None:
        found[CLASS_COUNTS] = class_counts
    if lessons:
        found[LESSONS] = torch.tensor(lessons)
    return found


def outputs_of(description: Message) -> tuple[str, int] | None:
    """Kind and width of a participant's outputs; None if it reads nothing of the public set."""
    found = [(key.removeprefix(OUTPUTS), len(one)) for key, one in description.items() if key.startswith(OUTPUTS)]
    return found[0] if found else None


def lessons_of(description: Message) -> int:
    """Passes over the public set that a participant asks for when it joins."""
    return int(description[LESSONS]) if LESSONS in description else 0


@dataclass(frozen=True)
class TeacherKnowledge:
    """Data sizes and scores of teachers, by name, by which ensembles weight them.

    Attributes:
        samples: Number of training examples.
        class_counts: Training examples by class, shape ``(C,)``.
        scores: Validation scores in [0, 1].
    """

    samples: Mapping[str, int] = field(default_factory=dict)
    class_counts: Mapping[str, Tensor] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, about: Mapping[str, Message], scores: Mapping[str, float] | None = None) -> TeacherKnowledge:
        """Knowledge from descriptions.

        Args:
            about: Descriptions by name.
            scores: Validation scores by name; None before there are any.
        """
        samples = {name: int(one[SAMPLES]) for name, one in about.items() if SAMPLES in one}
        counts = {name: one[CLASS_COUNTS] for name, one in about.items() if CLASS_COUNTS in one}
        return cls(samples, counts, scores or {})

    def teachers(self, answers: Mapping[str, Tensor], kind: str, *, are_messages: bool) -> Teachers:
        """Outputs of K teachers with their data sizes and validation scores, the input of ensembles.

        Args:
            answers: Outputs on the public set by teacher, shape ``(P, C)`` each.
            kind: Kind of outputs, such as ``"multiclass"``.
            are_messages: True for what an ensemble has asked for in the place of outputs.
        """
        logits = torch.stack(list(answers.values()))
        device = logits.device
        known = bool(self.class_counts) and self.class_counts.keys() >= set(answers)
        counts = [self.class_counts[name].to(device) for name in answers] if known else None
        # Before the first validation all count the same.
        unscored = 0.0 if self.scores else 1.0
        return Teachers(
            logits=logits,
            kind=kind,
            names=tuple(answers),
            samples=torch.tensor([float(self.samples.get(name, 1)) for name in answers], device=device),
            class_counts=None if counts is None else torch.stack(counts),
            scores=torch.tensor([self.scores.get(name, unscored) for name in answers], device=device),
            are_messages=are_messages,
        )
