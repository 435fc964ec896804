"""Settings of a newcomer's transfer: frozen first, trained at a lower rate, or taught by distillation."""

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
    """Handling of the weights that a participant receives as it joins.

    Attributes:
        frozen_rounds: Rounds from its first one on in which its shared parameters stay as received, at least 0, so that
            a new head does not spoil them. A lesson comes before that and trains all of them.
        learning_rate_ratio: Learning rate of the shared parameters over that of the others, in (0, 1].
        distillation_epochs: Passes over the public set before its first local step, at least 0, in which it learns from
            the ensemble of the earlier participants; for a participant of a new architecture.
        temperature: Temperature of that distillation, above 0, when a trained federation is joined afterwards; inside a
            run the temperature of its ``EnsembleDistillation`` holds.

    Raises:
        ValueError: If a setting is out of its range.

    Reference:
        Yosinski et al. (2014), How transferable are features in deep neural networks?, section 3 (frozen and fine-tuned
        layers); Howard and Ruder (2018), Universal Language Model Fine-tuning, section 3.2 (lower rates for what was
        transferred).
    """

    frozen_rounds: int = 0
    learning_rate_ratio: float = 1.0
    distillation_epochs: int = 0
    temperature: float = 2.0

    def __post_init__(self) -> None:
        """Refuse settings out of their range."""
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
    """Move parameters into groups of their own in an optimizer, with a lower learning rate.

    Args:
        optimizer: New optimizer; each of its groups is divided. A group without other parameters stays as it is.
        parameters: Parameters to slow down, of any shapes.
        ratio: Their learning rate over that of the others, in (0, 1].
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
