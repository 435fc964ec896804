"""Trainings that are compared: what each changes in a configuration, in the public set, or in what teachers send."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from hetfed_lightning import EnsembleDistillation
from hetfed_lightning.data import Examples, FederatedData
from hetfed_lightning.distillation import Ensemble, Teachers

DENSITY = "hetfed_lightning.distillation.DensityRatioPosterior"
PRIORS = "hetfed_lightning.distillation.ClassPriorWeighted"
MEDIAN = "hetfed_lightning.distillation.MedianProbabilities"
SHIFT = {"class_path": "hetfed_lightning.layers.RandomShift", "init_args": {"max_pixels": 2}}
FALLING = {
    "class_path": "hetfed_lightning.LinearSchedule",
    "init_args": {"start": 1.0, "end": 0.1, "rounds": 14},
}

Lie = Callable[[Tensor, Tensor], Tensor]
"""Function of a message, shape ``(P, C)``, and the true classes of the public set, shape ``(P,)``."""


@dataclass(frozen=True)
class Arm:
    """A training.

    Attributes:
        distillation: Arguments of ``EnsembleDistillation`` that it changes; None leaves it out.
        averages: False to leave averages out as well.
        participants: Arguments of every participant that it changes.
        data: Arguments of the data module that it changes.
        domain: Function that changes the public images, shape ``(P, 1, H, W)``.
        lie: What the first participant sends in place of its message.
        knows: True if targets are the true classes of the public set.
    """

    distillation: Mapping[str, Any] | None = dataclasses.field(default_factory=dict)
    averages: bool = True
    participants: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    data: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    domain: Callable[[Tensor], Tensor] | None = None
    lie: Lie | None = None
    knows: bool = False


def inverted(images: Tensor) -> Tensor:
    """Black for white, shape ``(P, 1, H, W)``."""
    return images.max() - images


def noise(images: Tensor) -> Tensor:
    """Uniform noise of the images' range, shape ``(P, 1, H, W)``."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(images.shape, generator=generator) * images.max()


def one_class_everywhere(message: Tensor, classes: Tensor) -> Tensor:
    """Sure of the first class of every image, shape ``(P, C)``."""
    del classes
    return functional.one_hot(torch.zeros(len(message), dtype=torch.long), message.shape[1]).to(message) * 60 - 30


def one_class_for_another(message: Tensor, classes: Tensor) -> Tensor:
    """Sure of the first class where the second is right, and honest elsewhere, shape ``(P, C)``."""
    return torch.where((classes == 1)[:, None], one_class_everywhere(message, classes), message)


def nothing(message: Tensor, classes: Tensor) -> Tensor:
    """Nothing known of any class, shape ``(P, C)``: what is left of targets if the first participant were not there."""
    del classes
    return torch.full_like(message, -30.0)


PLAIN = {"own_prior": 0.0}
WITHOUT = PLAIN | {"min_steps": None}
ARMS: Mapping[str, Arm] = {
    "alone": Arm(None, averages=False, participants=PLAIN),
    "averaging": Arm(None, participants=WITHOUT),
    "class priors, falling weight": Arm(
        {"ensemble": PRIORS, "weight": FALLING, "public_transform": None}, participants=WITHOUT
    ),
    "class priors, plain images": Arm({"ensemble": PRIORS, "public_transform": None}, participants=PLAIN),
    "class priors": Arm({"ensemble": PRIORS}),
    "as configured": Arm(),
    "no transform": Arm({"public_transform": None}),
    "falling weight": Arm({"weight": FALLING}),
    "no own prior": Arm(participants=PLAIN),
    **{f"own prior {share:g}": Arm(participants={"own_prior": share}) for share in (0.25, 1.0, 1.5)},
    "student alone": Arm({"students": "student"}),
    "no least number of steps": Arm(participants={"min_steps": None}),
    "true classes": Arm(knows=True),
    **{f"{size} public images": Arm(data={"public_size": size}) for size in (50, 100, 600)},
    "inverted public images": Arm(domain=inverted),
    "noise for public images": Arm(domain=noise),
    "the first says nothing": Arm(lie=nothing),
    "a liar for one class": Arm(lie=one_class_everywhere),
    "a liar for one class, median": Arm({"ensemble": MEDIAN}, lie=one_class_everywhere),
    "a liar where it counts": Arm(lie=one_class_for_another),
    "a liar where it counts, median": Arm({"ensemble": MEDIAN}, lie=one_class_for_another),
    "median": Arm({"ensemble": MEDIAN}),
}


def settle(arm: Arm, config: Any) -> None:
    """Change a configuration as an arm says.

    Args:
        arm: The training.
        config: Configuration of ``hetfed compare``.
    """
    for one in config.trainer.callbacks:
        if one.class_path.endswith("EnsembleDistillation"):
            for key, value in (arm.distillation or {}).items():
                one.init_args[key] = value
    for participant in config.model.participants.values():
        for key, value in arm.participants.items():
            participant.init_args[key] = value
    for key, value in arm.data.items():
        config.data.init_args[key] = value


def with_public(arm: Arm, data: FederatedData) -> FederatedData:
    """Data whose public images are those of the arm."""
    if arm.domain is None:
        return data
    public = data.public
    if not isinstance(public, Examples) or not isinstance(public.inputs, Tensor):
        raise TypeError("Expected public images in memory.")
    return dataclasses.replace(data, public=Examples(arm.domain(public.inputs), public.targets))


class Lying(EnsembleDistillation):
    """Distillation in which the first participant lies."""

    lie: Lie
    classes: Tensor
    liar: str

    def send(self, participant: Any, *args: Any) -> Any:
        """What it sends, or a lie."""
        found = super().send(participant, *args)
        if participant.name != self.liar:
            return found
        return {key: self.lie(one, self.classes.to(one.device)) for key, one in found.items()}


def watched(method: EnsembleDistillation, arm: Arm, classes: Tensor, names: Sequence[str]) -> list[float]:
    """Shares of public images whose target is their class, which a method adds to, round by round.

    Args:
        method: Changed as the arm says.
        arm: The training.
        classes: True classes of the public set, shape ``(P,)``.
        names: The participants.
    """
    found: list[float] = []
    kind: type[Ensemble] = type(method.ensemble)

    def combine(self: Any, teachers: Teachers, temperature: float) -> Tensor:
        targets: Tensor = kind.__call__(self, teachers, temperature)
        if arm.knows:
            targets = functional.one_hot(classes, targets.shape[1]).to(targets)
        found.append(float((targets.argmax(dim=1) == classes).float().mean()))
        return targets

    method.ensemble.__class__ = type(kind.__name__, (kind,), {"__call__": combine})
    if arm.lie is not None:
        method.__class__ = type("Lying", (Lying,), {"lie": staticmethod(arm.lie), "classes": classes, "liar": names[0]})
    return found
