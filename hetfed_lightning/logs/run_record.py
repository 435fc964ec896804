"""Record of a run as one JSON file: participants, metrics of every round, and results.

Reports and plots are made of it without TensorBoard. It holds plain data and names no class of this package, so that
any program can read it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from hetfed_lightning.checkpointing.atomic import write_atomically

FILE = "record.json"
"""Name of the file in the run's folder."""

FORMAT = 1
"""Number of the format, raised when a reader of the old one would misread the new one."""

LATER = ("left_out", "undefined")
"""Attributes that older records lack."""

MOST = 2**63 - 1
"""Largest count that programs reading records can represent."""

MAX_LEFT_OUT = 1000
"""Largest number of entries about quarantined participants; a run that fails in every round would fill the file."""


class RecordError(ValueError):
    """Raised for a missing or unreadable record; names the file and the remedy."""


@dataclass
class Record:
    """Contents of a run's record. Tags are those of TensorBoard: ``val_accuracy/hospital_a``, ``federation/bytes_up``.

    Attributes:
        name: Name of the run in headings.
        version: Version of this package.
        config: Configuration of the run as YAML; empty for a run made in Python.
        arm: Kind of training in a comparison, such as ``"local_only"``; ``"federation"`` otherwise.
        seed: Seed of the run.
        rounds: Number of rounds asked for; 0 for an evaluation alone.
        finished: True if training came to its end.
        participants: Attributes of `hetfed_lightning.callbacks.participant_summary.Role` by name; the first 200.
        total: Number of all participants.
        label_counts: Training examples per class by name, for tasks with classes.
        history: ``{"round": 1, "values": {tag: value}}`` for every finished round, in a resumed run from its first
            round on.
        left_out: ``{"round": 1, "participant": name, "reason": why}`` of everyone quarantined; the first 1,000.
        test: Test results by tag, without undefined ones.
        undefined: Reason by tag, such as ``"val_auroc/hospital_b"``, for which a participant's data do not define a
            metric.
        confusions: Numbers of examples by true and predicted class, shape ``(C, C)``, by name.
        residuals: ``[true values, predicted values]`` of regressions, by name.
        where: Data of confusions and residuals.
        agreement: ``{"names": [...], "matrix": [[...]]}`` of the teachers in the last round that distilled, or empty.
    """

    name: str
    version: str
    config: str = ""
    arm: str = "federation"
    seed: int = 0
    rounds: int = 0
    finished: bool = False
    participants: dict[str, dict[str, Any]] = field(default_factory=dict)
    total: int = 0
    label_counts: dict[str, list[int]] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[dict[str, Any]] = field(default_factory=list)
    test: dict[str, float] = field(default_factory=dict)
    undefined: dict[str, str] = field(default_factory=dict)
    confusions: dict[str, list[list[int]]] = field(default_factory=dict)
    residuals: dict[str, list[list[float]]] = field(default_factory=dict)
    where: str = ""
    agreement: dict[str, Any] = field(default_factory=dict)

    def leave_out(self, round_index: int, reasons: Mapping[str, str]) -> None:
        """Record the participants quarantined in a round.

        Args:
            round_index: Index of the round, from 0.
            reasons: Reason by participant.
        """
        entries = [
            {"round": round_index + 1, "participant": name, "reason": reason} for name, reason in reasons.items()
        ]
        self.left_out += entries[: max(0, MAX_LEFT_OUT - len(self.left_out))]

    def close_round(self, round_index: int, values: Mapping[str, float]) -> None:
        """Record the metrics of a round, without NaN.

        Args:
            round_index: Index of the round, from 0.
            values: Metrics by tag.
        """
        known = {key: value for key, value in values.items() if not math.isnan(value)}
        self.history.append({"round": round_index + 1, "values": known})

    def series(self, metric: str) -> dict[str, list[tuple[float, float]]]:
        """Pairs (round, value) of a metric such as ``"val_accuracy"``, by participant, without NaN."""
        return {name: found for name in self.participants if (found := self.points(f"{metric}/{name}"))}

    def points(self, tag: str) -> list[tuple[float, float]]:
        """Pairs (round, value) of one tag, without missing values and NaN."""
        pairs = [(float(one["round"]), one["values"].get(tag, math.nan)) for one in self.history]
        return [pair for pair in pairs if not math.isnan(pair[1])]

    def last(self, prefix: str) -> dict[str, float]:
        """Latest value of every participant's tag that begins with ``prefix``, by tag."""
        found: dict[str, float] = {}
        for one in self.history:
            found |= {key: value for key, value in one["values"].items() if key.startswith(prefix)}
        return found

    def write(self, folder: Path) -> Path:
        """Path of the file written into ``folder``; the old file stays until the new one is complete."""
        path = folder / FILE
        content = {"format": FORMAT} | {key: _plain(value) for key, value in asdict(self).items()}
        write_atomically(path, json.dumps(content, allow_nan=False, separators=(",", ":")))
        return path

    @classmethod
    def read(cls, folder: str | Path) -> Record:
        """Record in a run's folder, or in the file itself.

        Raises:
            RecordError: If there is none, or it is damaged or of a later format.
        """
        path = Path(folder)
        path = path / FILE if path.is_dir() else path
        if not path.is_file():
            raise RecordError(
                f"{path}: there is no record of a run. Name the folder that `hetfed fit` wrote its logs to, or the "
                "--output of `hetfed compare`; runs of earlier versions left none."
            )
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            json.dumps(content, ensure_ascii=False).encode()  # JSON's escapes may spell halves of characters.
        except RecursionError as error:
            raise RecordError(f"{path}: the record is damaged (it is nested too deep). Make the run again.") from error
        except (ValueError, OSError) as error:
            raise RecordError(f"{path}: the record is damaged ({error}). Make the run again.") from error
        return cls(**_checked(content, path))


def _checked(content: Any, path: Path) -> dict[str, Any]:
    """A record's attributes, of the kinds that they are to have."""
    form = content.get("format") if isinstance(content, Mapping) else None
    if not isinstance(form, int):
        raise RecordError(f"{path}: the record is damaged (no number under 'format'). Make the run again.")
    if form > FORMAT:
        raise RecordError(f"{path}: the record has form {form}, and this version reads {FORMAT}: upgrade the package.")
    example = Record("", "")
    found = {}
    for one in fields(Record):
        if one.name not in content and one.name in LATER:
            continue
        if one.name not in content:
            raise RecordError(f"{path}: the record is damaged (nothing under {one.name!r}). Make the run again.")
        value, wanted = content[one.name], type(getattr(example, one.name))
        if not isinstance(value, wanted):
            raise RecordError(
                f"{path}: the record is damaged (expected {wanted.__name__} under {one.name!r}, got "
                f"{type(value).__name__}). Make the run again."
            )
        found[one.name] = value
    try:
        found["history"] = [
            {"round": _count("'history'", one["round"]), "values": _numbers(one["values"])} for one in found["history"]
        ]
        for name in ("seed", "rounds", "total"):
            _count(repr(name), found[name], least=-1)  # Rounds without end are -1.
        found["left_out"] = [_left_out(one) for one in found.get("left_out", [])]
        found["test"] = _numbers(found["test"])
        found["undefined"] = {str(key): str(why) for key, why in found.get("undefined", {}).items()}
        found["participants"] = {name: _role(name, one) for name, one in found["participants"].items()}
        found["label_counts"] = {
            name: _row(f"'label_counts' of {name!r}", x) for name, x in found["label_counts"].items()
        }
        found["confusions"] = {name: _square(f"'confusions' of {name!r}", x) for name, x in found["confusions"].items()}
        found["residuals"] = {name: _pair(f"'residuals' of {name!r}", x) for name, x in found["residuals"].items()}
        if found["agreement"]:
            names = _texts("'agreement'", found["agreement"]["names"])
            matrix = _square("'agreement'", found["agreement"]["matrix"], len(names))
            found["agreement"] = {"names": names, "matrix": matrix}
    except (TypeError, KeyError, ValueError, AttributeError, OverflowError) as error:
        raise RecordError(f"{path}: the record is damaged ({_said(error)}). Make the run again.") from error
    return found


def _role(name: str, role: Mapping[str, Any]) -> dict[str, Any]:
    for key in ("weights", "shared_bytes", "examples", "local_epochs", "joins_at"):
        if not isinstance(role.get(key, 0), int):
            raise TypeError(f"'participants' of {name!r}: expected a whole number under {key!r}, got {role[key]!r}")
        _count(f"'participants' of {name!r}: {key}", role.get(key, 0))
    _texts(f"'participants' of {name!r}: shared_with", role.get("shared_with", []))
    return dict(role)


def _count(where: str, value: Any, *, least: int = 0) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MOST:
        raise TypeError(f"{where}: expected a whole number from {least} to {MOST}, got {value!r:.60}")
    return value


def _texts(where: str, values: Any) -> list[str]:
    if not isinstance(values, list) or not all(isinstance(one, str) for one in values):
        raise TypeError(f"{where}: expected a list of names, got {values!r:.60}")
    return values


def _left_out(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "round": _count("'left_out'", entry["round"]),
        "participant": str(entry["participant"]),
        "reason": str(entry["reason"]),
    }


def _row(where: str, values: Any) -> list[Any]:
    if not isinstance(values, list) or not all(map(_is_number, values)):
        raise ValueError(f"{where}: expected a list of numbers")
    return [math.nan if value is None else value for value in values]


def _is_number(value: Any) -> bool:
    """True for a number that a figure can show, and for null, which stands for one that was not finite."""
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300)


def _square(where: str, rows: Any, size: int | None = None) -> list[list[Any]]:
    if not isinstance(rows, list) or not rows or len(rows) != (len(rows) if size is None else size):
        raise ValueError(f"{where}: expected a square matrix")
    found = [_row(where, row) for row in rows]
    if any(len(row) != len(rows) for row in found):
        raise ValueError(f"{where}: expected a square matrix")
    return found


def _pair(where: str, pair: Any) -> list[list[Any]]:
    found = [_row(where, part) for part in pair] if isinstance(pair, list) else []
    if len(found) != 2 or len(found[0]) != len(found[1]):
        raise ValueError(f"{where}: expected two lists of one length")
    return found


def _plain(value: Any) -> Any:
    """Numbers that JSON does not know become null, and tuples lists."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(inside) for key, inside in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(inside) for inside in value]
    return value


def _said(error: Exception) -> str:
    return str(error) if type(error) in {ValueError, TypeError} else repr(error)


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {str(key): math.nan if value is None else float(value) for key, value in values.items()}
