"""Class labels of tables, matched by name: one vocabulary for all participants, agreed before anything is trained.

A vocabulary holds names alone. It is taken of all rows, test rows too, since a class needs its number before a row of
it is read; no figure depends on the frequency of a class.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from hetfed_lightning.data.errors import DataError
from hetfed_lightning.data.name_checks import checked_classes, did_you_mean, refuse_spellings
from hetfed_lightning.data.sources.columns import Rows, as_numbers, finite_targets

__all__ = ["agreed_classes", "read_labels", "shifted", "tell_missing_classes"]

log = logging.getLogger(__name__)

LARGEST = 2**31 - 1
"""Largest number that is taken for a class."""

SHOWN = 10
"""Most participants, and classes of each, in a line of the log."""


def agreed_classes(everyones: Sequence[Rows], classes: Sequence[str] | None = None) -> list[str] | None:
    """Names of the classes of all participants, in order; None where labels are numbers and stay so.

    Args:
        everyones: Each participant's rows.
        classes: The vocabulary, in order; None for the names that are there, sorted.

    Raises:
        DataError: If a label is not in ``classes``; if two names differ in case or outer blanks alone, in whichever
            files; if some participants' labels are text and others' numbers; if labels are negative, fractional or
            count from 1 at one participant and from 0 at another.
    """
    found = {str(rows): _label_names(rows, classes) for rows in everyones}
    if classes is not None:
        named = checked_classes(classes)
        for where, names in found.items():
            for name in names:
                if name not in named:
                    raise DataError(
                        f"classes: {where} has a class {name!r} in target column {everyones[0].target!r} that is not "
                        f"named{did_you_mean(name, named)}"
                    )
        return named
    numbers = [rows for rows in everyones if as_numbers(rows.targets) is not None]
    text = [rows for rows in everyones if as_numbers(rows.targets) is None]
    if numbers and text:
        raise DataError(
            f"target column {text[0].target!r} holds text in {text[0]}, but numbers in {numbers[0]}: encode both "
            "alike, or name all classes as they are written, classes: ['no', 'yes', '1']"
        )
    if text:
        refuse_spellings(found, "class")
        return sorted({name for names in found.values() for name in names})
    labels = {where: {int(name) for name in names} for where, names in found.items()}
    if (pair := shifted(labels)) is not None:
        first, other = pair
        count = len(labels[first])
        raise DataError(
            f"labels are 1 to {count} in {first}, but 0 to {count - 1} in {other}: if these are the same {count} "
            f"classes, number them alike; if they are {count + 1}, name all of them, classes: "
            f"{[str(label) for label in range(count + 1)]}"
        )
    return None


def read_labels(rows: Rows, classes: Sequence[str] | None) -> Tensor:
    """Class labels of one participant's rows: positions in ``classes``, or the numbers in the column if that is None.

    Args:
        rows: The participant's rows.
        classes: The vocabulary, in order, or None.

    Returns:
        Shape ``(N,)``, int64.

    Raises:
        DataError: If a number is negative, fractional or infinite.
    """
    numbers = as_numbers(rows.targets)
    if classes is None:
        return torch.from_numpy(_whole_numbers(rows).astype(np.int64))
    positions = {name: position for position, name in enumerate(classes)}
    if numbers is None:
        return torch.tensor([positions[str(label)] for label in rows.targets], dtype=torch.int64)
    spelled = _spelled(rows, classes)
    return torch.tensor([positions[spelled[label]] for label in numbers.tolist()], dtype=torch.int64)


def shifted(labels: Mapping[str, Iterable[int]]) -> tuple[str, str] | None:
    """Names of two participants, the first counting the classes from 1, the other from 0; None if there are none.

    It takes one with exactly the labels 1 to C, another with exactly 0 to C - 1, and none with both 0 and C.

    Args:
        labels: Distinct labels of each participant, by name.
    """
    sets = {where: set(found) for where, found in labels.items()}
    for first, found in sets.items():
        count = len(found)
        if count < 2 or found != set(range(1, count + 1)):
            continue
        other = next((where for where, one in sets.items() if one == set(range(count))), None)
        if other is not None and not any({0, count} <= one for one in sets.values()):
            return first, other
    return None


def tell_missing_classes(labels: Mapping[str, Tensor], classes: Sequence[str] | None) -> None:
    """Log the participants that have no example of some classes, and these classes.

    Args:
        labels: Labels of each participant, by name, shape ``(N,)``.
        classes: The vocabulary; None takes the labels of all participants together.
    """
    own = {name: set(found.unique().tolist()) for name, found in labels.items()}
    everyones = set(range(len(classes))) if classes is not None else set().union(*own.values())
    lacking = {name: sorted(everyones - found) for name, found in own.items() if everyones - found}
    if lacking:
        said = [
            f"{name!r} none of {_listed([repr(classes[one]) if classes is not None else str(one) for one in absent])}"
            for name, absent in lacking.items()
        ]
        log.warning(
            "Classes that a participant's data lack, of %d: %s. All number their classes alike.",
            len(everyones), _listed(said, "; "),
        )  # fmt: skip
    if classes is None and everyones and min(everyones) == 1:
        log.warning(
            "The labels begin at 1, so class 0 is nobody's: to count classes from the first one, name them as they are "
            "written, classes: ['1', '2', ...]."
        )


def _listed(items: Sequence[str], between: str = ", ") -> str:
    return between.join(items[:SHOWN]) + (f"{between}and {len(items) - SHOWN} more" if len(items) > SHOWN else "")


def _label_names(rows: Rows, classes: Sequence[str] | None) -> list[str]:
    """Names of the classes that are there, each once."""
    if as_numbers(rows.targets) is None:
        return list(dict.fromkeys(str(label) for label in rows.targets))
    return sorted(set(_spelled(rows, classes).values()))


def _spelled(rows: Rows, classes: Sequence[str] | None) -> dict[float, str]:
    """The name of each number: as a whole number, or True and False where the column holds those and classes do."""
    values = sorted(set(_whole_numbers(rows).tolist()))
    truths = {0.0: "False", 1.0: "True"}
    if classes is not None and set(classes) & set(truths.values()) and _holds_truths(rows):
        return {value: truths[value] for value in values}
    return {value: str(int(value)) for value in values}


def _holds_truths(rows: Rows) -> bool:
    return all(isinstance(value, bool | np.bool_) for value in rows.targets)


def _whole_numbers(rows: Rows) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    numbers = finite_targets(rows)
    wrong = (numbers < 0) | (numbers != np.floor(numbers)) | (numbers > LARGEST)
    if wrong.any():
        place = int(wrong.argmax())
        raise DataError(
            f"{rows}: expected class labels in column {rows.target!r} that are whole numbers of 0 or more, "
            f"got {numbers[place]:g}: encode them, or set kind='value' for a regression (row "
            f"{int(rows.frame.index[place]) + 1})"
        )
    return numbers
