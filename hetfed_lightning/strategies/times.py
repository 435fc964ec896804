"""Cost of a round of each participant: estimated from sizes at first, measured in its first round."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hetfed_lightning.federation_view import FederationView


def expected_costs(federation: FederationView) -> dict[str, float]:
    """Parameters times training examples times local epochs of each participant; 0 for the student.

    A convolution does more with a parameter than a linear layer does. Measured times correct that.
    """
    datamodule: Any = getattr(federation.trainer, "datamodule", None)
    train = datamodule.data.train if hasattr(datamodule, "data") else {}
    members = federation.members()
    costs = {}
    for name, participant in federation.everyone().items():
        size = sum(parameter.numel() for parameter in participant.parameters())
        examples = len(train[name]) if name in train else 1
        costs[name] = float(size * examples * participant.local_epochs) if name in members else 0.0
    return costs


class StepTimes:
    """Durations of local steps in each participant's first round, in seconds.

    Their median counts: the first step allocates memory, and another process may delay any.
    """

    def __init__(self) -> None:
        self.has_news = False
        self._steps: dict[str, list[float]] = defaultdict(list)
        self._seconds: dict[str, float] = {}

    def knows(self, name: str) -> bool:
        """True if a whole round of a participant has been measured."""
        return name in self._seconds

    def note(self, name: str, seconds: float) -> None:
        """Record the duration of a local step.

        Args:
            name: Participant that has stepped.
            seconds: Seconds of the step.
        """
        self._steps[name].append(seconds)

    def round_of(self, name: str) -> float | None:
        """Seconds of a participant's round, as far as it was measured here; None without a measurement."""
        if name in self._seconds:
            return self._seconds[name]
        steps = self._steps.get(name)
        if not steps:
            return None
        return median(steps) * len(steps)

    def settle(self, name: str, seconds: float | None) -> None:
        """Take over a measurement of a participant's host.

        Args:
            name: The participant.
            seconds: Seconds of its round; None without a measurement.
        """
        if seconds is not None and name not in self._seconds:
            self._seconds[name] = seconds
            self.has_news = True
            self._steps.pop(name, None)

    def costs(self, expected: Mapping[str, float]) -> dict[str, float]:
        """Seconds of a round of each participant; unmeasured ones in proportion to their expected cost.

        Args:
            expected: Expected costs, in any one unit.
        """
        self.has_news = False
        known = sum(expected[name] for name in self._seconds)
        scale = sum(self._seconds.values()) / known if known else 1.0
        return {name: self._seconds.get(name, cost * scale) for name, cost in expected.items()}
