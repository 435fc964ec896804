"""Sources of a report: the record of a run, or those of a comparison with its table of outcomes."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from hetfed_lightning.cli.outcomes import ARMS, Arm, Outcome
from hetfed_lightning.logs.run_record import Record, RecordError
from hetfed_lightning.participants.student_name import STUDENT

OUTCOMES = "outcomes.csv"


@dataclass
class Subject:
    """One run, or one comparison.

    Attributes:
        name: Name for headings.
        main: Record shown in detail: the run's, or that of the federation's first seed.
        records: All records by kind of training.
        outcomes: Figures of every participant, seed, kind of training and metric.
        measured: Kind of set that they were measured on: ``"test"``, or ``"validation"`` without a test.
    """

    name: str
    main: Record
    records: dict[str, list[Record]] = field(default_factory=dict)
    outcomes: list[Outcome] = field(default_factory=list)
    measured: str = "test"

    @property
    def is_comparison(self) -> bool:
        """True if several kinds of training are compared."""
        return len({one.arm for one in self.outcomes}) > 1


def read_subject(folder: str | Path) -> Subject:
    """Subject of a folder: a run of ``hetfed fit``, or a comparison of ``hetfed compare``.

    Raises:
        RecordError: If it is neither, or a file in it is damaged.
    """
    path = Path(folder)
    if (path / OUTCOMES).is_file():
        return _comparison(path)
    record = Record.read(path)
    outcomes, measured = _outcomes_of(record)
    return Subject(record.name, record, {record.arm: [record]}, outcomes, measured)


def _comparison(path: Path) -> Subject:
    records: dict[str, list[Record]] = {}
    outcomes = _read_outcomes(path / OUTCOMES)
    for arm, seed in dict.fromkeys((one.arm, one.seed) for one in outcomes):
        records.setdefault(arm, []).append(Record.read(path / "runs" / f"{arm}_seed_{seed}"))
    if not records:
        raise RecordError(f"{path / OUTCOMES}: there is no outcome in it. Let `hetfed compare` come to its end.")
    main = next(iter(records.get("federation", next(iter(records.values())))))
    return Subject(path.resolve().name, main, records, outcomes)


def _read_outcomes(path: Path) -> list[Outcome]:
    found = []
    try:
        rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines(keepends=True), strict=True))
    except (ValueError, OSError, csv.Error) as error:
        raise RecordError(f"{path}: the table is damaged ({error}). Compare again.") from error
    for line, row in enumerate(rows, start=2):
        try:
            if row["arm"] not in ARMS:
                raise ValueError(f"arm {row['arm']!r}")
            higher, headline = row["higher_is_better"] == "True", row.get("headline", "True") == "True"
            own, everyone = float(row["own"]), float(row["everyone"])
            arm, seed = cast("Arm", row["arm"]), int(row["seed"])
            found.append(Outcome(arm, seed, row["participant"], row["metric"], own, everyone, higher, headline))
        except (KeyError, ValueError, TypeError) as error:
            raise RecordError(f"{path}, line {line}: the table is damaged ({error}). Compare again.") from error
    return found


def _outcomes_of(record: Record) -> tuple[list[Outcome], str]:
    """Figures of a single run, of its test or else of its last validation."""
    values, stage = (record.test, "test") if record.test else (record.last("val_"), "val")
    arm: Arm = record.arm if record.arm in ARMS else "federation"
    found = []
    for name, role in record.participants.items():
        headline, higher = str(role.get("headline", "")), bool(role.get("higher_is_better", True))
        bases = [key.rpartition("/")[0] for key in values if key.rpartition("/")[2] == name]
        metrics = [base.removeprefix(f"{stage}_").removeprefix("global_") for base in bases]
        for metric in dict.fromkeys([headline, *metrics]):
            if "loss" in metric:
                continue
            own = values.get(f"{stage}_{metric}/{name}", math.nan)
            everyone = values.get(f"{stage}_global_{metric}/{name}", math.nan)
            is_headline = metric == headline
            # The better direction is known for the headline alone; other tables mark no worst participant.
            found.append(
                Outcome(arm, record.seed, name, metric, own, everyone, higher if is_headline else True, is_headline)
            )
    return found, "test" if stage == "test" else "validation"


def members(subject: Subject) -> list[str]:
    """Participants of the outcomes, without the student."""
    return list(dict.fromkeys(one.participant for one in subject.outcomes if one.participant != STUDENT))
