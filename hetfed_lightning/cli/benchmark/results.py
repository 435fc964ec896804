"""Result of a cell as a JSON file, written last: a cell that has one is not run again."""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hetfed_lightning.checkpointing.atomic import write_atomically
from hetfed_lightning.cli.benchmark.suite import Cell

FILE = "result.json"


@dataclass(frozen=True)
class Figure:
    """Test figures of one participant by one metric.

    Attributes:
        participant: Name of the participant.
        metric: Name of the metric.
        own: Value on its own test set; NaN without one.
        everyone: Value on the global test set; NaN without one.
        higher_is_better: True if larger values are better.
        headline: True if it is the participant's headline metric.
    """

    participant: str
    metric: str
    own: float
    everyone: float
    higher_is_better: bool = True
    headline: bool = True


@dataclass(frozen=True)
class Result:
    """Figures and costs that a cell found.

    Attributes:
        data: Title of the data set.
        method: Title of the row.
        seed: Seed.
        fingerprint: Fingerprint of the cell.
        last: Figures after the last round.
        best: Figures with the weights of the round that was best on validation sets; empty without these.
        best_round: That round, from 1; 0 if unknown.
        curve: Mean validation figure by round, the global one where there is one.
        bytes_up: Bytes that all participants sent, in all rounds.
        bytes_down: Bytes that all participants received.
        seconds: Seconds of training, with validation.
        refused: Why the method cannot train on these data, in a sentence; empty if it did.
        versions: Versions of the package, torch and Python that ran it.
    """

    data: str
    method: str
    seed: int
    fingerprint: str
    last: list[Figure] = field(default_factory=list)
    best: list[Figure] = field(default_factory=list)
    best_round: int = 0
    curve: list[float] = field(default_factory=list)
    bytes_up: float = 0.0
    bytes_down: float = 0.0
    seconds: float = 0.0
    refused: str = ""
    versions: dict[str, str] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write the file into ``folder``, whole or not at all."""
        write_atomically(folder / FILE, json.dumps(_plain(asdict(self)), indent=1, allow_nan=False))

    @classmethod
    def read(cls, folder: Path) -> Result | None:
        """Result in a cell's folder; None if it has none that can be read."""
        try:
            content = json.loads((folder / FILE).read_text(encoding="utf-8"))
            for key in ("last", "best"):
                content[key] = [
                    Figure(**each | {scope: _number(each[scope]) for scope in ("own", "everyone")})
                    for each in content[key]
                ]
            content["curve"] = [_number(one) for one in content["curve"]]
            return cls(**content)
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None


def folder_of(output: Path, cell: Cell, fingerprint: str) -> Path:
    """Folder of a cell's files, named by what it is and its fingerprint."""
    words = re.sub(r"[^\w.=-]+", "_", f"{cell.data}-{cell.method}-{cell.seed}")
    return output / "cells" / f"{words[:100]}-{fingerprint[:12]}"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)  # JSON has neither.
    return value


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
