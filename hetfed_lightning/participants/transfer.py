"""Settings of how a newcomer takes over what was learned: held still first, then tuned slowly, or taught."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer


@dataclass(frozen=True)
class Transfer:
    """What a participant does with what it receives as it joins.

    Attributes:
        frozen_rounds: Rounds from its first one on in which what it shares stays as it was received, so that a new
            head does not spoil it. A lesson comes before that and teaches all of it.
        learning_rate_ratio: Learning rate of what it shares over that of the rest, in (0, 1].
        distillation_epochs: Passes over the public set, before its first local step, in which it learns from the
            ensemble of those who were there before; for a participant whose architecture is new. 0 for none.
        temperature: At which it learns where a trained federation is joined afterwards, above 0; in a run it is that of
            its ``EnsembleDistillation``.

    Raises:
        ValueError: If a setting is out of its range.

    Reference:
        Yosinski et al. (2014), How transferable are features in deep neural networks?, section 3 (frozen and
        fine-tuned layers); Howard and Ruder (2018), Universal Language Model Fine-tuning, section 3.2 (lower rates
        for what was transferred).
    """

    frozen_rounds: int = 0
    learning_rate_ratio: float = 1.0
    distillation_epochs: int = 0
    temperature: float = 2.0

    def __post_init__(self) -> None:
        """Refuse what is out of range."""
        for name, count in (("frozen_rounds", self.frozen_rounds), ("distillation_epochs", self.distillation_epochs)):
            if isinstance(count, bool) or not isinstance(count, int) or count < 0:
                raise ValueError(f"transfer.{name}: expected an integer of at least 0, got {count!r}.")
        if not 0 < self.learning_rate_ratio <= 1:
            raise ValueError(
                f"transfer.learning_rate_ratio: expected a number in (0, 1], got {self.learning_rate_ratio}."
            )
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"transfer.temperature: expected a finite number above 0, got {self.temperature}.")


def slow_down(optimizer: Optimizer, parameters: Collection[Tensor], ratio: float) -> None:
    """Give some parameters groups of their own in an optimizer, with a learning rate of their own.

    Args:
        optimizer: Fresh; each of its groups is divided. One that has no others stays as it is.
        parameters: Those that are slowed down.
        ratio: Their learning rate over that of the rest.
    """
    shared = {id(parameter) for parameter in parameters}
    if all(id(parameter) in shared for group in optimizer.param_groups for parameter in group["params"]):
        return
    for whole in list(optimizer.param_groups):
        slow = [parameter for parameter in whole["params"] if id(parameter) in shared]
        rest = [parameter for parameter in whole["params"] if id(parameter) not in shared]
        rate = whole["lr"] * ratio
        if slow and rest:
            settings = {key: value for key, value in whole.items() if key != "params"}
            whole["params"] = rest
            optimizer.add_param_group(settings | {"params": slow, "lr": rate})
        elif slow:
            whole["lr"] = rate
