"""Column means and schemas of tables, and their comparison with those of trained participants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hetfed_lightning.data.errors import DataError
from hetfed_lightning.data.schema import DataSchema

__all__ = ["learned_classes", "learned_columns", "means_of", "refuse_mixed_columns", "refuse_other_meaning"]


def means_of(inputs: Tensor, columns: Sequence[str], participant: str) -> tuple[float, ...]:
    """Mean of each column over the rows that have a value, in float64.

    Args:
        inputs: A participant's training rows, shape ``(N, columns)``, NaN where a value is missing.
        columns: Names of the columns.
        participant: Name of the participant, for messages.

    Raises:
        DataError: If a column has no value at all.
    """
    exact = inputs.to(torch.float64)
    known = ~torch.isnan(exact)
    empty = [repr(name) for name, column in zip(columns, known.T, strict=True) if not bool(column.any())]
    if empty:
        raise DataError(
            f"participant {participant!r}: column {', '.join(empty)} has no value to take the mean of in its "
            f"{len(inputs)} training rows: leave it out of the features, of all (features: [...]) or of this "
            f"participant (features: {{{participant}: [...], ...}})"
        )
    means = exact.nan_to_num(nan=0.0).sum(0) / known.sum(0)
    return tuple(means.tolist())


def refuse_mixed_columns(schemas: Mapping[str, DataSchema], what: str) -> None:
    """Refuse to join examples whose columns differ, or stand in another order.

    Args:
        schemas: Schemas of the participants whose examples are to be joined, by name.
        what: Name of the setting that joins them, such as ``"public_size"``.

    Raises:
        DataError: Naming two of them and their columns.
    """
    known = {name: schema.columns for name, schema in schemas.items() if schema.columns}
    for name, columns in known.items():
        first = next(iter(known))
        if columns != known[first]:
            raise DataError(
                f"{what}: joins examples of everyone, but {first!r} reads {', '.join(known[first])} and {name!r} reads "
                f"{', '.join(columns)}: list the same features in the same order for both, or leave it out."
            )


def learned_columns(learned: Mapping[str, DataSchema]) -> list[str] | None:
    """Columns of trained participants, in order; None if no participant has any, or they differ."""
    found = {schema.columns for schema in learned.values() if schema.columns}
    return list(found.pop()) if len(found) == 1 else None


def learned_classes(learned: Mapping[str, DataSchema]) -> list[str] | None:
    """Class names of trained participants, in order; None if no participant has any, or they differ."""
    found = {schema.classes for schema in learned.values() if schema.classes}
    return list(found.pop()) if len(found) == 1 else None


def refuse_other_meaning(participant: str, learned: DataSchema, found: DataSchema) -> None:
    """Refuse data whose columns or classes are not those that a participant was trained on, in the same order.

    Args:
        participant: Name of the participant.
        learned: Schema that it was trained with.
        found: Schema of the data.

    Raises:
        DataError: Naming the participant and both lists.
    """
    for what, before, now in (
        ("features", learned.columns, found.columns),
        ("classes", learned.classes, found.classes),
    ):
        if before and before != now:
            raise DataError(
                f"participant {participant!r} was trained on the {what} {', '.join(before)}, in this order, and its "
                f"data is read as {', '.join(now) or 'numbers'}: set {what} as they were, or begin without what was "
                "learned"
            )
