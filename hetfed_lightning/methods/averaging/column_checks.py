"""Checks that participants of one shared network read the same table columns in the same order.

A network identifies columns by position. Participants that average a whole backbone have to read the same columns in
the same order. A participant with other columns keeps the first layer personal, or maps its columns to common inputs by
a transform of its own, which is not checked here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from hetfed_lightning.layers import Standardise

if TYPE_CHECKING:
    from hetfed_lightning.participants.participant import Participant

__all__ = ["averages_backbone", "check_columns", "columns_read"]

BACKBONE = "backbone."


def columns_read(participant: Participant) -> tuple[str, ...]:
    """Names of the columns that a participant's network reads, in order; empty if they are not known.

    They are not known behind a transform, except for Standardise, which keeps the order.
    """
    in_place = participant.transform is None or isinstance(participant.transform, Standardise)
    return participant.schema.columns if in_place and participant.schema is not None else ()


def averages_backbone(offered: Iterable[str], parameters: Iterable[str]) -> bool:
    """True if all parameters of a backbone are averaged.

    Args:
        offered: Keys that a participant averages.
        parameters: Keys of its parameters.
    """
    own = {key for key in parameters if key.startswith(BACKBONE)}
    return bool(own) and own <= set(offered)


def check_columns(participants: Mapping[str, Participant], offered: Mapping[str, Iterable[str]]) -> None:
    """Refuse participants that average a whole backbone over different columns, or over equal ones in another order.

    Args:
        participants: Averaging participants by name.
        offered: Averaged keys of each, by name.

    Raises:
        ValueError: If two differ; names both, the first differing place and both columns.
    """
    first: dict[int, tuple[str, tuple[str, ...]]] = {}
    for name, participant in participants.items():
        columns = columns_read(participant)
        if not columns or not averages_backbone(offered[name], dict(participant.named_parameters())):
            continue
        other, theirs = first.setdefault(len(columns), (name, columns))
        if columns != theirs:
            place = next(i for i, (one, two) in enumerate(zip(columns, theirs, strict=True)) if one != two)
            raise ValueError(
                f"Participants {other!r} and {name!r} average all of their backbones, but column {place + 1} is "
                f"{theirs[place]!r} in the data of {other!r} and {columns[place]!r} in that of {name!r}. List the same "
                "features in the same order, or take the first layer out of `shared`."
            )
