"""Parts of a participant's work in a round: length, data, and trained parameters of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from torch.optim import Optimizer

from hetfed_lightning.participants.key_patterns import selected

Moment: TypeAlias = Literal["local", "received", "joined", "last"]
"""Moment at which parts are worked on: ``"local"`` for the round's local steps; ``"received"`` after a result arrived;
``"joined"`` in a newcomer's first round, after it has received the current results; ``"last"`` after the last
round's exchange."""

LATER: tuple[Moment, ...] = ("received", "joined", "last")
"""Moments other than that of the local steps."""

EVERYTHING = ("*",)


class PlanError(ValueError):
    """Raised for a plan that cannot be followed; names the participant, the round and the method."""


@dataclass(frozen=True)
class Part:
    """Part of a plan, with exactly one of ``epochs`` and ``steps``.

    Attributes:
        epochs: Passes over the data, at least 0.
        steps: Batches, at least 0.
        on: Data of the steps: the participant's ``"own"``, the ``"public"`` set, or ``"both"``.
        trains: Trained parameters, as ``Participant(shared=...)`` takes keys: names, prefixes up to a dot, fnmatch
            patterns; ``"!PATTERN"`` excludes. All others keep their values and optimizer states.
        optimizer: Makes an optimizer of the trained parameters, anew in every round; None for the participant's own.
            Its steps move no learning-rate scheduler.
    """

    epochs: int | None = None
    steps: int | None = None
    on: Literal["own", "public", "both"] = "own"
    trains: Sequence[str] = EVERYTHING
    optimizer: Callable[[list[Any]], Optimizer] | None = None

    def __post_init__(self) -> None:
        """Refuse invalid lengths and data.

        Raises:
            ValueError: If not exactly one length is given, or a setting is out of its range.
        """
        if (self.epochs is None) == (self.steps is None):
            raise ValueError(f"Part: expected one of epochs and steps, got epochs={self.epochs}, steps={self.steps}.")
        for name, count in (("epochs", self.epochs), ("steps", self.steps)):
            if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 0):
                raise ValueError(f"Part({name}=...): expected an integer of at least 0, got {count!r}.")
        if self.on not in {"own", "public", "both"}:
            raise ValueError(f"Part(on=...): expected 'own', 'public' or 'both', got {self.on!r}.")
        patterns = (self.trains,) if isinstance(self.trains, str) else tuple(self.trains)
        if not patterns:
            raise ValueError("Part(trains=...): expected at least one pattern of keys, got none.")
        object.__setattr__(self, "trains", patterns)  # Hashable, and no text taken for a list of letters.

    @property
    def trains_everything(self) -> bool:
        """True if no parameter is left out."""
        return self.patterns == EVERYTHING

    @property
    def patterns(self) -> tuple[str, ...]:
        """Patterns of ``trains``, as a tuple."""
        return tuple(self.trains)

    def batches(self, batches_per_epoch: int) -> int:
        """Number of batches of the part, for ``batches_per_epoch`` batches in one pass."""
        return (self.steps or 0) + (self.epochs or 0) * batches_per_epoch

    def keys(self, keys: Sequence[str]) -> list[str]:
        """Keys of the parameters that the part trains, in their order.

        Args:
            keys: Keys of all parameters.

        Raises:
            ValueError: If a pattern matches nothing.
        """
        return selected(keys, self.patterns)


@dataclass(frozen=True)
class Span:
    """Part with its place in a round.

    Attributes:
        part: The part.
        index: Index of the part in the plan, from 0.
        start: Index of its first batch in the round.
        stop: Index of the batch after its last one.
    """

    part: Part
    index: int
    start: int
    stop: int


def spans(parts: Sequence[Part], batches_per_epoch: int, most: int) -> tuple[Span, ...]:
    """Parts of a plan with their places, one after another; parts without a batch are left out.

    Args:
        parts: Parts of one plan.
        batches_per_epoch: Batches of a pass over the data.
        most: Most batches of the round; the rest is cut off.
    """
    found, start = [], 0
    for index, part in enumerate(parts):
        stop = min(most, start + part.batches(batches_per_epoch))
        if stop > start:
            found.append(Span(part, index, start, stop))
        start = stop
    return tuple(found)
