"""Which attacks meet which rules, and the figure of each meeting."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from hetfed_lightning.aggregation import (
    AggregationFunction,
    GeometricMedian,
    MultiKrum,
    State,
    TrimmedMean,
    coordinate_median,
    weighted_mean,
)
from hetfed_lightning.distillation import (
    ClassPriorWeighted,
    ClippedLogits,
    Ensemble,
    GeometricMedianProbabilities,
    MeanLogits,
    MeanProbabilities,
    MedianProbabilities,
    TrimmedProbabilities,
)
from scripts.attacking import attacks
from scripts.attacking.digits import NAMES, accuracy_under
from scripts.attacking.hospitals import Hospitals
from scripts.attacking.teachers import LIES, School

NOBODY, ABSENT = "nobody", "stay away"

ATTACKS: Mapping[str, attacks.Attack] = {
    NOBODY: attacks.own_work,
    ABSENT: attacks.free_riding,
    "sign flip": attacks.sign_flip,
    "x100": attacks.scaling,
    "Gaussian": attacks.gaussian,
    "ALIE": attacks.a_little,
    "ALIE z=1.5": attacks.a_little_more,
    "label flip": attacks.flipping_labels,
    "free rider": attacks.free_riding,
    "NaN": attacks.not_a_number,
}
"""Columns. Who stays away sends what it was given, and a rule that knows who it is leaves it out."""

RULES = ("mean", "mean, clipped", "median", "trimmed mean", "Krum", "Multi-Krum", "geometric median")
OF_HOSPITALS = ("mean", "mean, clipped", "median", "geometric median")
"""Of four, the trimmed mean is the median, and Krum needs five to stand one."""

MAX_NORM = {"digits-iid": 1.0, "digits-skewed": 1.0, "hospitals": 0.2}
"""About the median norm of an honest update, on seed 100."""

ENSEMBLES: Mapping[str, Callable[[], Ensemble]] = {
    "mean of logits": MeanLogits,
    "clipped logits": ClippedLogits,
    "mean of probabilities": MeanProbabilities,
    "by class counts": ClassPriorWeighted,
    "trimmed probabilities": lambda: TrimmedProbabilities(0.3),
    "median of probabilities": MedianProbabilities,
    "geometric median of probabilities": GeometricMedianProbabilities,
}

DATA = ("digits-iid", "digits-skewed", "hospitals", "teachers-iid", "teachers-skewed")


class Cell(NamedTuple):
    """One training.

    Attributes:
        data: One of ``DATA``.
        attack: One of ``ATTACKS``, or of the teachers' ``LIES``.
        rule: One of ``RULES``, or of the ``ENSEMBLES``.
        faulty: Number of attackers.
        seed: Of everything.
    """

    data: str
    attack: str
    rule: str
    faulty: int
    seed: int


def cells(seeds: Iterable[int], data: Sequence[str] | None = None) -> Iterator[Cell]:
    """All trainings of the table."""
    for seed in seeds:
        for one in data or DATA:
            if one.startswith("teachers"):
                yield from (Cell(one, lies, rule, len(LIES[lies]), seed) for rule in ENSEMBLES for lies in LIES)
                continue
            for faulty in (1,) if one == "hospitals" else (1, 2, 3):
                yield Cell(one, ABSENT, "mean", faulty, seed)
            for rule in OF_HOSPITALS if one == "hospitals" else RULES:
                yield Cell(one, NOBODY, rule, 0, seed)
                for faulty in (1,) if one == "hospitals" else (1, 2, 3):
                    yield from (
                        Cell(one, attack, rule, faulty, seed) for attack in ATTACKS if attack not in (NOBODY, ABSENT)
                    )


class Place:
    """Where trainings happen; keeps what several of them need."""

    def __init__(self) -> None:
        self._hospitals: Hospitals | None = None
        self._school: tuple[tuple[str, int], School] | None = None

    def figure(self, cell: Cell) -> float:
        """The figure of one training; NaN where the attack ended the run."""
        kind, _, partition = cell.data.partition("-")
        if kind == "teachers":
            return self._school_of(partition, cell.seed).student_accuracy(ENSEMBLES[cell.rule](), LIES[cell.attack])
        rule, settings = rule_of(cell)
        attack = ATTACKS[cell.attack]
        try:
            if kind == "digits":
                return accuracy_under(attack, rule, partition, cell.seed, cell.faulty, **settings)
            self._hospitals = self._hospitals or Hospitals()
            return self._hospitals.accuracy_under(attack, rule, cell.seed, cell.faulty, **settings)
        except RuntimeError:  # What all share ran away, and nobody was left to go on with.
            return math.nan

    def _school_of(self, partition: str, seed: int) -> School:
        if self._school is None or self._school[0] != (partition, seed):
            self._school = ((partition, seed), School.of(partition, seed))
        return self._school[1]


def rule_of(cell: Cell) -> tuple[AggregationFunction, dict[str, Any]]:
    """The rule of a cell, set for as many attackers as there are (for 2 where there is none), and settings."""
    if cell.attack == ABSENT:
        first = cell.seed % 4 if cell.data == "hospitals" else 0
        return _without(range(first, first + cell.faulty)), {}
    share = (cell.faulty or 2) / len(NAMES)
    rules: dict[str, AggregationFunction] = {
        "median": coordinate_median,
        "trimmed mean": TrimmedMean(share),
        "Krum": MultiKrum(share, keep=1),
        "Multi-Krum": MultiKrum(share),
        "geometric median": GeometricMedian(),
    }
    clipped = {"max_update_norm": MAX_NORM[cell.data]} if cell.rule == "mean, clipped" else {}
    return rules.get(cell.rule, weighted_mean), clipped


def _without(places: range) -> AggregationFunction:
    def mean(states: Sequence[State], weights: Tensor) -> dict[str, Tensor]:
        kept = [k for k in range(len(states)) if k not in places]
        return weighted_mean([states[k] for k in kept], weights[kept])

    return mean
