"""Natural partitions: participants by a column of the data, such as hospitals, sensors or writers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from hetfed_lightning.data.errors import DataError
from hetfed_lightning.data.name_checks import refuse_twin_names
from hetfed_lightning.data.partitions.class_members import members_of
from hetfed_lightning.data.partitions.partition import Indices, Partition

__all__ = ["Natural", "natural_partition"]


class Natural(Partition):
    """Partition with one participant per distinct label.

    For a column that numbers hospitals, writers or sensors; the smallest label goes to the first participant. Nothing
    is random. For a column of names, see :func:`natural_partition`.

    Raises:
        DataError: On use, if the labels are not whole numbers, or name more or fewer participants than K.
    """

    def deal(self, labels: Tensor, num_participants: int, generator: np.random.Generator) -> list[Indices]:
        """Positions of each participant's samples, in any order.

        Args:
            labels: Number of the participant of each sample, shape ``(N,)``.
            num_participants: K.
            generator: Unused.

        Raises:
            DataError: If the labels name more or fewer participants than K.
        """
        del generator
        members = members_of(labels)
        if len(members) != num_participants:
            raise DataError(f"the column names {len(members)} participants, got num_participants={num_participants}")
        return members


def natural_partition(groups: Sequence[str]) -> dict[str, Tensor]:
    """Positions of each named participant's samples, by name.

    Args:
        groups: The participant of each sample, N names, as a column of a table.

    Returns:
        Sorted int64 positions under each name, names in alphabetical order (so that shuffling the samples changes no
        participant's place); together every position from 0 to N - 1 once.

    Raises:
        DataError: If there is no sample, a name is missing, or two names differ in case or outer spaces only.
    """
    if len(groups) == 0:
        raise DataError("expected the participant of at least one sample, got none")
    positions: dict[str, list[int]] = {}
    nameless = []
    for index, name in enumerate(groups):
        if isinstance(name, str) and name.strip():
            positions.setdefault(name, []).append(index)
        else:
            nameless.append(index)
    if nameless:
        raise DataError(
            f"{len(nameless)} sample(s) have no participant's name, the first at index {nameless[0]} "
            f"({groups[nameless[0]]!r}): name it or drop them"
        )
    refuse_twin_names(sorted(positions), "participant", "the participants' column")
    return {name: torch.from_numpy(np.array(positions[name], dtype=np.int64)) for name in sorted(positions)}
