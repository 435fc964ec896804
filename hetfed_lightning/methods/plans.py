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
    """Part of a plan, with exactly one of ``epochs`` and ``steps``, or one that goes along with the local steps.

    ``Part(on="both")``, with neither ``epochs`` nor ``steps``, adds a public batch to each local step on own data,
    however long the participant's settings or the plan of another method make the round.

    Attributes:
        epochs: Passes, at least 0: over the public set with ``on="public"``, over the participant's own data otherwise.
        steps: Batches, at least 0.
        on: Data of a step: a batch of the participant's ``"own"``; one of the ``"public"`` set, whose loss is the
            method's ``example_loss(on="public")`` and nothing else; or one of ``"both"``, whose losses are added.
        batch_size: Public examples in a batch, at least 1; the last batch of a pass may be smaller.
        last_epochs: For a part that goes along: number of the last passes over own data that it goes along with, at
            least 1; None for all.
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
    batch_size: int = 64
    last_epochs: int | None = None

    def __post_init__(self) -> None:
        """Refuse invalid lengths and data.

        Raises:
            ValueError: If not exactly one length is given, or a setting is out of its range.
        """
        if self.on not in {"own", "public", "both"}:
            raise ValueError(f"Part(on=...): expected 'own', 'public' or 'both', got {self.on!r}.")
        if (self.epochs is None) == (self.steps is None) and not self.goes_along:
            raise ValueError(f"Part: expected one of epochs and steps, got epochs={self.epochs}, steps={self.steps}.")
        for name, count, least in (
            ("epochs", self.epochs, 0),
            ("steps", self.steps, 0),
            ("batch_size", self.batch_size, 1),
            ("last_epochs", self.last_epochs, 1),
        ):
            if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < least):
                raise ValueError(f"Part({name}=...): expected an integer of at least {least}, got {count!r}.")
        if self.last_epochs is not None and not self.goes_along:
            raise ValueError(
                "Part(last_epochs=...) is of a part that goes along with the local steps: give on='both', and neither "
                "epochs nor steps."
            )
        patterns = (self.trains,) if isinstance(self.trains, str) else tuple(self.trains)
        if not patterns:
            raise ValueError("Part(trains=...): expected at least one pattern of keys, got none.")
        object.__setattr__(self, "trains", patterns)  # Hashable, and no text taken for a list of letters.
        if self.goes_along and not (self.trains_everything and self.optimizer is None):
            raise ValueError(
                "Part(on='both') without epochs and steps adds to steps that others plan: leave out trains and "
                "optimizer, or give a length."
            )

    @property
    def goes_along(self) -> bool:
        """True if the part has no length of its own and adds public batches to the local steps on own data."""
        return self.on == "both" and self.epochs is None and self.steps is None

    @property
    def trains_everything(self) -> bool:
        """True if no parameter is left out."""
        return self.patterns == EVERYTHING

    @property
    def patterns(self) -> tuple[str, ...]:
        """Patterns of ``trains``, as a tuple."""
        return tuple(self.trains)

    def batches(self, batches_per_epoch: int, num_public: int = 0) -> int:
        """Number of batches of the part.

        Args:
            batches_per_epoch: Batches of a pass over the participant's own data.
            num_public: Examples of the public set, P.
        """
        per_pass = self.public_batches(num_public) if self.on == "public" else batches_per_epoch
        return (self.steps or 0) + (self.epochs or 0) * per_pass

    def public_batches(self, num_public: int) -> int:
        """Number of batches of a pass over the public set of ``num_public`` examples."""
        return -(-num_public // self.batch_size)

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
        first_pass: Passes over the public set that the plan's earlier parts on it alone have begun.
    """

    part: Part
    index: int
    start: int
    stop: int
    first_pass: int = 0

    def place(self, batch_idx: int, num_public: int) -> tuple[int, int]:
        """Index of the pass over the public set, and of the batch in it.

        A part on public data alone begins a new pass with its first step. With ``on="both"`` the place follows from
        the step's place in the round.

        Args:
            batch_idx: Index of the step in the round.
            num_public: Examples of the public set, P.
        """
        if self.part.on == "both":
            return divmod(batch_idx, self.part.public_batches(num_public))
        done, position = divmod(batch_idx - self.start, self.part.public_batches(num_public))
        return self.first_pass + done, position


def spans(parts: Sequence[Part], batches_per_epoch: int, most: int, num_public: int = 0) -> tuple[Span, ...]:
    """Parts of a plan with their places, one after another; parts without a batch are left out.

    Args:
        parts: Parts of one plan.
        batches_per_epoch: Batches of a pass over the participant's own data.
        most: Most batches of the round; the rest is cut off.
        num_public: Examples of the public set, P.
    """
    found, start, passes = [], 0, 0
    for index, part in enumerate(parts):
        stop = min(most, start + part.batches(batches_per_epoch, num_public))
        if stop > start:
            found.append(Span(part, index, start, stop, passes))
            if part.on == "public":
                passes += -(-(stop - start) // part.public_batches(num_public))
        start = stop
    return tuple(found)
