"""What the rest of the package asks of the processes that train a federation: who is here, and what have the others.

This file is the seam, and its answers are those of one process, which hosts everybody and waits for nobody. Callbacks
ask here and call no collective themselves, so that every rank takes the same decisions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from hetfed_lightning.ledger import Ledger, Reduced
    from hetfed_lightning.optimization import Reduction
    from hetfed_lightning.participant import Stage

V = TypeVar("V")


class Ranks:
    """One process: everybody is here.

    Attributes:
        reduction: What to do with gradients between backward and step; None where no batch is split.
        stream: What names a local step's random stream beside round, participant and batch: nothing, but for the parts
            of a batch after the first.
    """

    reduction: Reduction | None = None
    stream: tuple[int, ...] = ()

    # Who is here

    def hosts(self, name: str) -> bool:
        """Whether a participant (or the student) takes its steps here."""
        del name
        return True

    def measures(self, name: str) -> bool:
        """Whether a participant is evaluated, and asked as a teacher, here. One rank does for each."""
        del name
        return True

    def is_timed(self, name: str) -> bool:
        """Whether its local steps are to be timed."""
        del name
        return False

    def note_seconds(self, name: str, seconds: float) -> None:
        """Remember how long a local step took."""

    @contextmanager
    def timing(self, names: Sequence[str], device: torch.device) -> Iterator[None]:
        """Note how long a local step takes of those who are timed, an equal part of it if several take it together.

        Args:
            names: Who steps.
            device: What it waits for in the end.
        """
        timed = [name for name in names if self.is_timed(name)]
        began = perf_counter()
        yield
        if timed and device.type == "cuda":
            torch.cuda.synchronize(device)
        for name in timed:
            self.note_seconds(name, (perf_counter() - began) / len(names))

    # Parts of a batch

    def share(self, indices: Tensor) -> Tensor:
        """The part of a batch's indices that is this rank's; may be empty."""
        return indices

    def weight(self, name: str, batch_idx: int) -> float:
        """This rank's part of a participant's batch, in [0, 1]: what the mean over its examples weighs in the whole."""
        del name, batch_idx
        return 1.0

    # What the others have

    def synchronise(self, names: Sequence[str]) -> None:
        """Give everybody's state, and what was counted of it, to all ranks."""

    def agreed(self, names: Sequence[str]) -> list[str]:
        """Names that any rank gives, in order."""
        return list(names)

    def gathered(self, values: Mapping[str, V], order: Sequence[str]) -> dict[str, V]:
        """Values by name that one rank each has, in ``order``; names without a value are left out."""
        return {name: values[name] for name in order if name in values}

    def reduced(self, ledger: Ledger, stage: Stage) -> dict[str, Reduced]:
        """All ranks' notes, reduced; the ledger is empty afterwards."""
        del stage
        return ledger.reduce()

    # Moments of a run

    def prepare(self) -> None:
        """Before training: refuse what ranks cannot do together."""

    def begin(self) -> None:
        """Before the first round, when a checkpoint has been read."""

    def end_round(self) -> None:
        """After a round and its validation: who hosts whom may change."""

    def stops(self, signum: int | None) -> int | None:
        """Come to a place where the run may stop; the signal for which all ranks stop here, or None."""
        return signum

    def complete(self, checkpoint: dict[str, Any]) -> None:
        """Put into a checkpoint what other ranks have of it."""

    def resumed(self, saved: Mapping[str, Any]) -> Mapping[str, Any]:
        """The part of a round in progress, as a checkpoint has it, that belongs here."""
        return saved
