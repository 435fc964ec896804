"""Columns of several tables, matched by name: the common ones in one order, and a log of the others.

A position means nothing: the third column of one file may be the first of another. Where features are not listed, all
participants read the columns that all files have, in the order of the first file.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

from hetfed_lightning.data.errors import DataError
from hetfed_lightning.data.name_checks import did_you_mean, folded, refuse_spellings
from hetfed_lightning.data.sources.columns import Rows, as_numbers, looks_like_number
from hetfed_lightning.data.sources.frames import NAMELESS

__all__ = ["agreed_columns", "tell_extra_columns"]

log = logging.getLogger(__name__)

SHOWN = 20
"""Most columns in a line of the log."""

_OF_ROWS = frozenset({"id", "uid", "uuid", "guid", "rowname", "rownames", "rowid", "rownumber", "rownum"})
"""Names of columns that number or name the rows, without the marks between their words."""
_ENDS_IN_ID = re.compile(r".*(?:[ ._-][iI][dD]|[a-z0-9](?:Id|ID))")


def agreed_columns(
    everyones: Sequence[Rows],
    participant_column: str | None = None,
    *,
    meant: Sequence[str] = (),
    aside: Sequence[str] = (),
) -> list[str]:
    """Input columns of all participants together, in the order of the first.

    Left out, with a line in the log: columns without a name and without a value, as a separator at the end of a line
    makes them; columns that number or name rows; columns that half of the files or more do not have.

    Args:
        everyones: Each participant's rows.
        participant_column: Column of the participants' names, if there is one.
        meant: Columns that do not name rows, whatever they hold.
        aside: Columns that are no features.

    Raises:
        DataError: If a column has values and no name; if two files spell a name differently in case or blanks alone; if
            a file lacks a column that more than half of them have.
    """
    reserved = {everyones[0].target, participant_column, *aside}
    present = {}
    for rows in everyones:
        names = [str(name) for name in rows.frame.columns if name not in reserved]
        present[rows.participant] = [name for name in names if not _is_empty_end(rows, name)]
        _refuse_nameless(rows, present[rows.participant])
    if len({rows.path for rows in everyones}) > 1:
        ambiguous = {folded(name) for own in present.values() for name in own if _spelled_twice(name, own)}
        refuse_spellings(
            {str(rows.path): [name for name in present[rows.participant] if folded(name) not in ambiguous]
             for rows in everyones},
            "column",
        )  # fmt: skip
    of_rows: list[str] = []
    extra: list[str] = []
    agreed: list[str] = []
    for name in dict.fromkeys(name for own in present.values() for name in own):
        having = [rows for rows in everyones if name in present[rows.participant]]
        lacking = [rows for rows in everyones if name not in present[rows.participant]]
        if name not in meant and _numbers_rows(name, having):
            of_rows.append(name)
        elif 2 * len(lacking) >= len(everyones):
            extra.append(f"{name!r} ({', '.join(dict.fromkeys(str(rows.path) for rows in having[:3]))})")
        elif lacking:
            raise DataError(
                f"{lacking[0].path}: has no column {name!r}, which {len(having)} of {len(everyones)} files have"
                f"{did_you_mean(name, [str(one) for one in lacking[0].frame.columns])} Add it, or list the columns "
                "that all have, features: [...]; who is to read columns of its own gets them by name, features: "
                f"{{{lacking[0].participant}: [...]}}"
            )
        else:
            agreed.append(name)
    if of_rows:
        log.warning(
            "Left out of the features, since they name rows and say nothing of them: %s. To use one, list it under "
            "features.", _listed([repr(name) for name in of_rows]),
        )  # fmt: skip
    if extra:
        log.warning(
            "Ignored, since not all files have them: %s. To use one, list each participant's features.", _listed(extra)
        )
    return agreed


def tell_extra_columns(rows: Rows, features: Sequence[str], participant_column: str | None) -> None:
    """Log the columns of a file that are not among the listed features.

    Args:
        rows: The participant's rows.
        features: Names of the listed features.
        participant_column: Column of the participants' names, if there is one.
    """
    used = {*features, rows.target, participant_column}
    ignored = [repr(name) for name in map(str, rows.frame.columns) if name not in used]
    if ignored:
        log.info("%s: not among the features, and ignored: %s.", rows.path, _listed(ignored))


def _is_empty_end(rows: Rows, name: str) -> bool:
    return name.startswith(NAMELESS) and bool(rows.frame[name].isna().all())


def _refuse_nameless(rows: Rows, names: Sequence[str]) -> None:
    nameless = [name for name in names if name.startswith(NAMELESS)]
    if nameless:
        raise DataError(
            f"{rows.path}: a column has no name ({nameless[0]!r}), which is often a row number saved by "
            "accident: name it, drop it or list the features"
        )


def _spelled_twice(name: str, names: Sequence[str]) -> bool:
    """True if one file has the name in two spellings, which then are two columns."""
    return sum(folded(one) == folded(name) for one in names) > 1


def _numbers_rows(name: str, having: Sequence[Rows]) -> bool:
    """True if a column numbers or names the rows: by its own name, or by texts of which no two rows share one."""
    if re.sub(r"[ ._-]", "", name).casefold() in _OF_ROWS:
        return True
    is_text = as_numbers(having[0].frame[name]) is None
    if not is_text and _ENDS_IN_ID.fullmatch(name) is None:
        return False
    columns = [rows.frame[name] for rows in having]
    if not any(len(column) > 1 for column in columns) or not all(column.is_unique for column in columns):
        return False
    # A column with a single number with a decimal comma names no rows; the cell is a misprint.
    return not is_text or not any(looks_like_number(cell) for column in columns for cell in column.dropna())


def _listed(items: Sequence[str]) -> str:
    return ", ".join(items[:SHOWN]) + (f" and {len(items) - SHOWN} more" if len(items) > SHOWN else "")
