"""Base class of aggregation rules with settings; a rule without settings is a function.

An ABC and not a callable Protocol, since a YAML names a rule by its `class_path`, and jsonargparse takes a callable
Protocol that returns tensors for a factory of tensors.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor

from hetfed_lightning.aggregation.state import State


class AggregationRule(ABC):
    """Aggregation rule with settings, which are given at construction; it is then called like `weighted_mean`.

    A subclass overrides ``__call__``. It must survive pickling and be deterministic, since several ranks call it with
    equal arguments, and it must not depend on the order of the participants. Checkpoints do not save what it remembers.
    """

    @abstractmethod
    def __call__(self, states: Sequence[State], weights: Tensor) -> dict[str, Tensor]:
        """Aggregate of the states, one state; called in each round for every group of equal keys and shapes.

        An override calls `check_states` first, so that nothing is broadcast, and computes in
        `hetfed_lightning.aggregation.state.accumulation_dtype`.

        Args:
            states: One state per participant, K in all, with equal keys, shapes and dtypes; left as they are. They are
                the participants' own tensors, so a rule that remembers them keeps copies.
            weights: Shape ``(K,)``; finite, not negative, not all zero.

        Returns:
            A state of the same keys, shapes, dtypes and device, sharing no memory with any input. Integer and bool
            tensors take the maximum over participants.

        Raises:
            ValueError: If two states disagree or the weights do not fit (see `check_states`), or there are too few of
                them to compare.
        """

    def least_participants(self) -> int:
        """Smallest number of participants K that the rule accepts as training begins, at least 1; 1 by default."""
        return 1
