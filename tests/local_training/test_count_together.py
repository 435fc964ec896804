"""Steps that a fleet takes for its members are counted as each would by itself."""

from typing import Any

import torch

from hetfed_lightning.local_training.local_optimization import LocalOptimization, Schedule, count_together
from tests.federations import tiny_participant


def member(rate: float, *, frequency: int = 0) -> LocalOptimization:
    """Optimization by SGD at a rate; its schedule halves it every so many steps, never if 0."""

    def optimizer(parameters: Any) -> Any:
        return torch.optim.SGD(parameters, lr=rate)

    found = LocalOptimization.of(tiny_participant(optimizer=optimizer))
    if frequency:
        scheduler = torch.optim.lr_scheduler.StepLR(found.optimizers[0], step_size=1, gamma=0.5)
        found.schedules = [Schedule(scheduler, "step", frequency)]
    found.optimizers[0].step()  # A schedule that moves before any step warns.
    return found


def test_steps_and_rates_are_summed_and_schedules_moved() -> None:
    plain, scheduled = member(0.5), member(0.25, frequency=2)
    # The second member's rate: .25, .25, then .125 after its second step.
    assert [count_together([plain, scheduled]) for _ in range(3)] == [False, True, False]
    assert (plain.landed, plain.rates, plain.progress) == (3, 1.5, 3)
    assert (scheduled.landed, scheduled.rates, scheduled.progress) == (3, 0.625, 3)


def test_nobody_steps_nothing() -> None:
    assert count_together([]) is False
