"""Rows of a new file, dealt to the participants that are to predict them: ``hetfed predict --input new.csv``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hetfed_lightning.cli.errors import ConfigError
from hetfed_lightning.data import FederatedDataModule
from hetfed_lightning.data.name_checks import did_you_mean
from hetfed_lightning.data.new_rows import NewRows
from hetfed_lightning.data.schema import DataSchema
from hetfed_lightning.data.sources.encodings import Encodings
from hetfed_lightning.data.sources.new_rows import require_once
from hetfed_lightning.federation.federation import Federation
from hetfed_lightning.participants.participant import STUDENT
from hetfed_lightning.paths import with_home

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["read_new_rows", "schema_of"]


def schema_of(federation: Federation, name: str) -> DataSchema:
    """Schema of a participant; empty without one. The student has what all participants have alike.

    Args:
        federation: The federation, its weights loaded.
        name: Name of a participant, or ``"student"``.
    """
    asked = federation.members().values() if name == STUDENT else [federation[name]]
    known = [one.schema or DataSchema() for one in asked]

    def common(values: Sequence[Any], otherwise: Any) -> Any:
        return values[0] if len(set(values)) == 1 else otherwise

    columns = common([one.columns for one in known], ())
    return DataSchema(
        columns,
        common([one.classes for one in known], ()),
        common([one.fillings for one in known], ()) if columns else (),
        common([one.target for one in known], ""),
        next((one.encodings for one in known), Encodings()),
        all(one.keeps_gaps for one in known),
    )


def read_new_rows(
    path: str,
    data: FederatedDataModule,
    federation: Federation,
    predictor: str | None,
    id_column: str | None,
) -> tuple[NewRows, NDArray[Any] | None]:
    """Rows of a file by who predicts them, and the name of each row.

    Args:
        path: CSV or parquet file.
        data: Data source of the run, which knows how its files are written.
        federation: The federation.
        predictor: Who predicts all rows; None for the participant that each row names, or the only one.
        id_column: Column that names the rows; None without.

    Returns:
        The rows, and their names, shape ``(N,)``, or None.

    Raises:
        ConfigError: If it is unclear who predicts a row, or a row names nobody; the message names file and column.
        DataError: If the file cannot be read, or has no column ``id_column``.
    """
    file = with_home(path)
    frame = data.read_new(file, [] if id_column is None else [id_column])
    ids = None
    if id_column is not None:
        require_once(frame, [id_column], str(file))
        ids = frame[id_column].to_numpy(dtype=object)
    dealt = _dealt(frame, file, getattr(data, "participant_column", None), list(federation.members()), predictor)
    return NewRows(frame, dealt, str(file), partial(schema_of, federation), data.eval_batch_size), ids


def _dealt(
    frame: DataFrame, file: Path, column: str | None, members: Sequence[str], predictor: str | None
) -> dict[str, NDArray[np.int64]]:
    """Positions of the rows of each participant."""
    everything = np.arange(len(frame))
    if predictor is not None:
        return {predictor: everything}
    if column is not None and column in list(frame.columns):
        require_once(frame, [column], str(file))
        names = [
            "" if gap else str(name).strip() for name, gap in zip(frame[column], frame[column].isna(), strict=True)
        ]
        for row, name in enumerate(names, start=1):
            if name not in members:
                raise ConfigError(
                    f"{file}: column {column!r} names {name!r} in row {row}, and there is no such participant"
                    f"{did_you_mean(name, members)} To have one participant predict all rows, give --participant NAME."
                )
        owners = np.array(names, dtype=object)
        return {name: everything[owners == name] for name in dict.fromkeys(names)}
    if len(members) == 1:
        return {members[0]: everything}
    lacks = "" if column is None else f" (the file has no column {column!r}, which would name each row's)"
    raise ConfigError(
        f"--input {file}: who is to predict? Give --participant NAME, one of {', '.join(members)}{lacks}."
    )
