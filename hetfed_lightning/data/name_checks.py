"""Names of participants, classes, columns and keys, as people type them."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from hetfed_lightning.data.errors import DataError

__all__ = [
    "checked_classes",
    "did_you_mean",
    "folded",
    "name_problem",
    "of_member",
    "refuse_spellings",
    "refuse_twin_names",
]


T = TypeVar("T")

LONGEST = 100
"""Most characters of a participant's name, which names files and folders."""

RESERVED: Mapping[str, str] = {
    "federation": "figures of all are logged under it",
    "global": "everyone's data is called so",
    **dict.fromkeys(("jain", "mean", "std", "worst"), "tables and figures of all are called so"),
}
"""Names that no participant may have, with the reason."""

SHOWN = 5
"""Most pairs of spellings in a message."""

_NUMBER = re.compile(r"_\d+$")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_\-]*")
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_\-]+")


def of_member(settings: Mapping[str, T], name: str) -> T | None:
    """Setting of a participant: the one under its name, or else under that of its group.

    Args:
        settings: Settings by name; ``"clinic"`` stands for ``"clinic_00"``, ``"clinic_01"`` and so on.
        name: Name of the participant.

    Returns:
        The setting; None where there is none.
    """
    return settings[name] if name in settings else settings.get(_NUMBER.sub("", name))


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """Hint at the closest of the known names, for the end of a message.

    Args:
        name: The name that was not found.
        choices: The known names.

    Returns:
        ``"; did you mean 'age'?"``, or the names there are (ten at most) where none is close.
    """
    names = [str(choice) for choice in choices]
    by_folded = {folded(choice): choice for choice in reversed(names)}
    close = difflib.get_close_matches(folded(name), by_folded, n=1)
    if close:
        return f"; did you mean {by_folded[close[0]]!r}?"
    return f"; there is {', '.join(map(repr, names[:10])) or 'none'}{', ...' if len(names) > 10 else ''}"


def name_problem(name: str) -> str | None:
    """Reason against a name of a participant, with another proposed; None if the name may be used.

    Participants' names are used for files, folders, charts and keys of checkpoints, on any machine.

    Args:
        name: Name of the participant.
    """
    if not isinstance(name, str):
        return f"expected a name as text, got {name!r}"
    where = "in the configuration and where its data are named: a file, a folder, a column's value or a key of `path`"
    if name.casefold() in RESERVED:
        return f"{name!r} is reserved, since {RESERVED[name.casefold()]}: call it {name + '_site'!r}, {where}"
    if not _NAME.fullmatch(name):
        return f"expected a name of letters, digits, '_' and '-', got {name!r:.120}: call it {_plain(name)!r}, {where}"
    if len(name) > LONGEST:
        return f"expected a name of at most {LONGEST} characters, got {len(name)} ({name[:20]}...): shorten it, {where}"
    return None


def _plain(name: str) -> str:
    """A name of the letters and digits that are left of one without accents."""
    letters = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    plain = _NOT_IN_NAMES.sub("_", letters).strip("-_")[: LONGEST - 10] or "site_1"
    return f"{plain}_site" if plain.casefold() in RESERVED else plain


def refuse_twin_names(names: Iterable[str], what: str, where: str) -> None:
    """Refuse names that differ in nothing, or in case or outer spaces only.

    Two such names are nearly always one participant misspelled, and case-blind file systems cannot hold both.

    Args:
        names: The names, each meant to be unique.
        what: Kind of thing that they name, for the message, as ``"participant"``.
        where: Place in which they were found, for the message.

    Raises:
        DataError: If two names are alike.
    """
    seen: dict[str, str] = {}
    for name in names:
        twin = seen.get(folded(name))
        if twin is not None:
            raise DataError(
                f"{where}: two {what} names are the same, or differ in case or outer spaces only, {twin!r} "
                f"and {name!r}: rename one, or spell both alike if they are one {what}"
            )
        seen[folded(name)] = name


def refuse_spellings(found: Mapping[str, Iterable[str]], what: str) -> None:
    """Refuse names that several places spell differently in case or outer blanks alone.

    Args:
        found: Names by place, each meant to be one thing everywhere.
        what: Kind of thing that they name, for the message, as ``"class"``.

    Raises:
        DataError: Giving both spellings and both places.
    """
    seen: dict[str, tuple[str, str]] = {}
    twins: dict[str, str] = {}
    for where, names in found.items():
        for name in names:
            spelled, first = seen.setdefault(folded(name), (name, where))
            if spelled != name:
                twins.setdefault(folded(name), f"{spelled!r:.80} of {first} and {name!r:.80} of {where}")
    if twins:
        raise DataError(
            f"{what} {'; '.join(list(twins.values())[:SHOWN])} differ in case or outer blanks only: spell them alike, "
            f"everywhere, if they are one {what}"
        )


def checked_classes(classes: Sequence[str]) -> list[str]:
    """Names of all classes, in order.

    Args:
        classes: The names.

    Raises:
        DataError: If there is none, or two names are alike.
    """
    if isinstance(classes, str) or not classes:
        raise DataError(f"classes: expected the names of all classes, in order, got {classes!r}")
    refuse_twin_names(classes, "class", "classes")
    return list(classes)


def folded(name: str) -> str:
    """Name without outer blanks and differences in case or Unicode form, by which misspellings are equal."""
    return unicodedata.normalize("NFKC", name).strip().casefold()
