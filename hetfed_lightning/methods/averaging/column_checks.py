"""Columns that a shared network would take for one another, refused before anything is averaged.

A network knows columns by their place. Where all of a backbone is averaged between participants, they have to read the
same columns in the same order; who reads others keeps the first layer to itself, or brings them into common inputs by a
transform of its own, of which nothing is said here.
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
    """Names of the columns that a participant's network takes, in order; none where that is not known.

    A transform may make anything of them; Standardise leaves them where they are.
    """
    in_place = participant.transform is None or isinstance(participant.transform, Standardise)
    return participant.schema.columns if in_place and participant.schema is not None else ()


def averages_backbone(offered: Iterable[str], parameters: Iterable[str]) -> bool:
    """Whether all of a backbone is among what is averaged.

    Args:
        offered: Keys of what a participant would average.
        parameters: Keys of its parameters.
    """
    own = {key for key in parameters if key.startswith(BACKBONE)}
    return bool(own) and own <= set(offered)


def check_columns(participants: Mapping[str, Participant], offered: Mapping[str, Iterable[str]]) -> None:
    """Refuse participants that average a whole backbone over other columns, or over the same in another order.

    Args:
        participants: Those who average, by name.
        offered: Keys of what each would average.

    Raises:
        ValueError: Naming two participants, the first place in which they differ and both columns.
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
