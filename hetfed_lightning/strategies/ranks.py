"""The ranks that train a federation, as the rest of the package sees them, with the answers of a single process.

This file is the seam: callbacks ask here and call no collective themselves, so that every rank takes the same
decisions. A single process hosts every participant and waits for no other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from hetfed_lightning.local_training.local_optimization import Reduction
    from hetfed_lightning.logs.metric_store import Ledger, Reduced
    from hetfed_lightning.participants.participant import Stage

V = TypeVar("V")


class Ranks:
    """One process that hosts all participants.

    Attributes:
        reduction: Function that sums gradients between backward pass and step; None if no batch is split.
        stream: Addition to the names (round, participant, batch) of a local step's random stream, different for each
            part of a split batch; empty for the first part.
    """

    reduction: Reduction | None = None
    stream: tuple[int, ...] = ()

    # Participants of this rank

    def hosts(self, name: str) -> bool:
        """True if a participant (or the student) takes its steps here."""
        del name
        return True

    def measures(self, name: str) -> bool:
        """True if a participant is evaluated, and run as a teacher, here; true on one rank for each."""
        del name
        return True

    def is_timed(self, name: str) -> bool:
        """True if a participant's local steps are to be timed."""
        del name
        return False

    def note_seconds(self, name: str, seconds: float) -> None:
        """Record the duration of a local step.

        Args:
            name: Participant that has stepped.
            seconds: Seconds of the step.
        """

    @contextmanager
    def timing(self, names: Sequence[str], device: torch.device) -> Iterator[None]:
        """Context that records the duration of a local step for the timed ones of ``names``.

        If several step together, each is given an equal part.

        Args:
            names: Participants that step.
            device: Device that is waited for in the end.
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
        """This rank's part of a batch's indices, shape ``(B',)`` of ``(B,)``; may be empty."""
        return indices

    def weight(self, name: str, batch_idx: int) -> float:
        """Fraction in [0, 1] of a participant's batch on this rank, which weighs its mean in that of the whole batch.

        Args:
            name: The participant.
            batch_idx: Index of the batch in the round.
        """
        del name, batch_idx
        return 1.0

    # Values of other ranks

    def synchronise(self, names: Sequence[str]) -> None:
        """Share participants' states and step counts with all ranks."""

    def agreed(self, names: Sequence[str]) -> list[str]:
        """Names given by at least one rank, in the federation's order."""
        return list(names)

    def gathered(self, values: Mapping[str, V], order: Sequence[str]) -> dict[str, V]:
        """Values by name, from all ranks; names without a value are left out.

        Args:
            values: Values of this rank; a name has a value on one rank only.
            order: Names, in the order of the result.
        """
        return {name: values[name] for name in order if name in values}

    def reduced(self, ledger: Ledger, stage: Stage) -> dict[str, Reduced]:
        """Reduced notes of all ranks, by key; the ledger is empty afterwards.

        Args:
            ledger: Ledger of this rank.
            stage: Stage of the notes.
        """
        del stage
        return ledger.reduce()

    # Moments of a run

    def prepare(self) -> None:
        """Check, before training, for things that ranks cannot do together."""

    def begin(self) -> None:
        """Prepare the first round, after a checkpoint has been read."""

    def end_round(self) -> None:
        """Move participants to other ranks if need be, after a round and its validation."""

    def stops(self, signum: int | None) -> int | None:
        """Signal for which all ranks stop here, or None; called at each place where the run may stop."""
        return signum

    def complete(self, checkpoint: dict[str, Any]) -> None:
        """Add other ranks' parts to a checkpoint."""

    def resumed(self, saved: Mapping[str, Any]) -> Mapping[str, Any]:
        """This rank's part of a round in progress, from a checkpoint."""
        return saved
