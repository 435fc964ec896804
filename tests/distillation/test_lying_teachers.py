"""Ensembles of teachers of whom some lie, and what a student learns from them."""

import pytest
import torch

from hetfed_lightning.distillation import (
    ClippedLogits,
    Ensemble,
    GeometricMedianProbabilities,
    MeanLogits,
    MeanProbabilities,
    MedianProbabilities,
    Teachers,
    TrimmedProbabilities,
)
from scripts.attacking.teachers import LIES, Lie, School, loud, loud_and_wrong, wrong
from tests.conftest import Tally

pytestmark = pytest.mark.promise("teachers")

COUNT, SAMPLES, CLASSES = 10, 2000, 10
ROBUST = [MedianProbabilities(), GeometricMedianProbabilities(), TrimmedProbabilities(0.3)]
SPOKEN: dict[str, tuple[Lie, ...]] = {
    "3 wrong": (wrong,) * 3,
    "3 wrong, 1 of them x1000": (wrong, wrong, loud_and_wrong),
    "1 right x1000": (loud,),
    "3 wrong, 1 of them x1000, 1 right x1000": (wrong, wrong, loud_and_wrong, loud),
}
"""A teacher that says NaN is left out before an ensemble sees it."""


def accuracy(ensemble: Ensemble, lies: tuple[Lie, ...], seed: int) -> float:
    """Of an ensemble of teachers, each of whom is right on nine examples of ten."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(CLASSES, (SAMPLES,), generator=generator)
    logits = torch.randn(COUNT, SAMPLES, CLASSES, generator=generator)
    logits += 3.5 * torch.nn.functional.one_hot(targets, CLASSES)
    for place, lie in enumerate(lies):
        logits[place] = lie(logits[place])
    teachers = Teachers(logits, "multiclass", tuple(map(str, range(COUNT))))
    return float((ensemble(teachers, 2.0).argmax(dim=-1) == targets).float().mean())


@pytest.mark.parametrize("lies", SPOKEN.values(), ids=SPOKEN)
@pytest.mark.parametrize("ensemble", ROBUST, ids=lambda one: type(one).__name__)
def test_an_ensemble_is_as_right_as_if_nobody_lied(ensemble: Ensemble, lies: tuple[Lie, ...], tally: Tally) -> None:
    lost = [accuracy(MeanProbabilities(), (), seed) - accuracy(ensemble, lies, seed) for seed in range(5)]
    tally(tried=5, held=sum(one < 0.02 for one in lost))
    assert max(lost) < 0.02, lost


@pytest.mark.parametrize("lies", [(loud,), (loud_and_wrong,)], ids=["right", "wrong"])
def test_clipped_logits_hear_nobody_louder_than_others(lies: tuple[Lie, ...]) -> None:
    clean = accuracy(MeanLogits(), (), 0)
    assert accuracy(ClippedLogits(), lies, 0) > clean - 0.02
    assert accuracy(MeanLogits(), lies, 0) < clean - 0.03


def test_a_student_of_ten_of_whom_four_are_not_honest(full: bool, tally: Tally) -> None:
    # Three are sure and wrong, one of them a thousand times as loud; a fourth says NaN.
    count, lost = 5 if full else 1, []
    for seed in range(count):
        school = School.of("iid", seed)
        clean = school.student_accuracy(MeanProbabilities(), ())
        lost.append(clean - school.student_accuracy(GeometricMedianProbabilities(), LIES["3 wrong (1 x1000), 1 NaN"]))
    tally(tried=count, held=sum(one < 0.03 for one in lost))
    assert sum(lost) / count < 0.02, lost
    assert max(lost) < 0.03, lost
