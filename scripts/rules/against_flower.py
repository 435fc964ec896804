"""Random states aggregated by our rules and by Flower's, and how far the results are apart."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hetfed_lightning.aggregation import AggregationFunction, MultiKrum, State, TrimmedMean, coordinate_median

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".bench-venv" / "flower-rules"
FLOWER = "flwr==1.42.0"
PARTICIPANTS = (5, 16)
"""From so many, and up to one fewer than so many."""


@dataclass(frozen=True)
class Case:
    """States of K participants, and the settings of the rules.

    Attributes:
        weight: Shape ``(K, ., .)``.
        bias: Shape ``(K, .)``.
        dropped: At each side of the trimmed mean.
        faulty: Krum's f, of which K is at least ``2 f + 3``.
        keep: How many Multi-Krum averages.
    """

    weight: NDArray[np.float64]
    bias: NDArray[np.float64]
    dropped: int
    faulty: int
    keep: int

    def ours(self) -> dict[str, State]:
        """What our rules make of it, by the rule's name."""
        count = len(self.weight)
        states = [
            {"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)}
            for weight, bias in zip(self.weight, self.bias, strict=True)
        ]
        rules: dict[str, AggregationFunction] = {
            "median": coordinate_median,
            "trimmed mean": TrimmedMean(self.dropped / count),
            "Krum": MultiKrum(self.faulty / count, keep=1),
            "Multi-Krum": MultiKrum(self.faulty / count, keep=self.keep),
        }
        return {name: rule(states, torch.ones(count)) for name, rule in rules.items()}


def random_case(seed: int) -> Case:
    """Normal states of between 5 and 15 participants, a tenth of them far away."""
    draw = np.random.default_rng(seed)
    count = int(draw.integers(*PARTICIPANTS))
    faulty = int(draw.integers(0, (count - 3) // 2 + 1))
    rows, columns = draw.integers(1, 9, size=2)
    far = np.where(draw.random(count) < 0.1, 100.0, 1.0)
    return Case(
        far[:, None, None] * draw.normal(size=(count, rows, columns)),
        far[:, None] * draw.normal(size=(count, rows)),
        dropped=int(draw.integers(0, (count - 1) // 2 + 1)),
        faulty=faulty,
        keep=int(draw.integers(1, count - faulty + 1)),
    )


def flower_python() -> Path:
    """The Python of an environment with Flower, made if it is not there (half a minute, from a package index)."""
    python = FOLDER / "bin" / "python"
    if not python.exists():
        _run(sys.executable, "-m", "venv", str(FOLDER))
        _run(str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", FLOWER)
    return python


def differences(cases: list[Case], python: Path) -> dict[str, float]:
    """Largest absolute difference between our results and Flower's over all cases, by rule."""
    with tempfile.TemporaryDirectory() as scratch:
        given, found = Path(scratch) / "given.npz", Path(scratch) / "found.npz"
        arrays: dict[str, Any] = {"settings": np.array([[one.dropped, one.faulty, one.keep] for one in cases])}
        for index, case in enumerate(cases):
            arrays |= {f"{index}/weight": case.weight, f"{index}/bias": case.bias}
        np.savez(given, **arrays)
        _run(str(python), str(Path(__file__).with_name("flower_worker.py")), str(given), str(found))
        theirs = dict(np.load(found))
    worst: dict[str, float] = {}
    for index, case in enumerate(cases):
        for rule, state in case.ours().items():
            apart = max(float(np.abs(t.numpy() - theirs[f"{index}/{rule}/{key}"]).max()) for key, t in state.items())
            worst[rule] = max(apart, worst.get(rule, 0.0))
    return worst


def _run(*command: str) -> None:
    subprocess.run(command, check=True)  # noqa: S603 - our own file, or pip, in an environment of ours
