from typing import Any

import pytest
import torch
from lightning.pytorch.cli import ReduceLROnPlateau
from torch import Tensor
from torch.optim import SGD
from torch.optim.lr_scheduler import StepLR

from hetfed_lightning import Federation, Participant
from hetfed_lightning.local_training.local_optimization import LocalOptimization, Schedule, match_by_name
from tests.federations import fit, sgd, state_of, tiny_data, tiny_participant


def configured(returned: Any, *, automatic: bool = True) -> LocalOptimization:
    """What a participant whose ``configure_optimizers`` returns something is stepped by."""

    class Configured(Participant):
        def configure_optimizers(self) -> Any:
            return returned(self)

    member = Configured(torch.nn.Linear(2, 2))
    member.automatic_optimization = automatic
    return LocalOptimization.of(member)


def optimizer(member: Participant) -> SGD:
    return SGD(member.parameters(), lr=0.1)


def with_schedule(member: Participant, **settings: Any) -> Any:
    own = optimizer(member)
    return {"optimizer": own, "lr_scheduler": {"scheduler": StepLR(own, 1, 0.5)} | settings}


@pytest.mark.parametrize(
    ("returned", "optimizers", "intervals"),
    [
        (lambda member: None, 0, []),
        (optimizer, 1, []),
        (lambda member: [optimizer(member)], 1, []),
        (lambda member: ([optimizer(member)], []), 1, []),
        (with_schedule, 1, ["epoch"]),
        (lambda member: with_schedule(member, interval="step"), 1, ["step"]),
        (lambda member: ([own := optimizer(member)], [StepLR(own, 1)]), 1, ["epoch"]),
        (lambda member: ([own := optimizer(member)], [{"scheduler": StepLR(own, 1), "interval": "step"}]), 1, ["step"]),
        (lambda member: {"optimizer": optimizer(member)}, 1, []),
    ],
)
def test_every_form_that_lightning_takes(returned: Any, optimizers: int, intervals: list[str]) -> None:
    local = configured(returned)
    assert len(local.optimizers) == optimizers
    assert [schedule.interval for schedule in local.schedules] == intervals


@pytest.mark.parametrize(
    "returned",
    [
        lambda member: (optimizer(member), optimizer(member)),
        lambda member: [optimizer(member), optimizer(member)],
        lambda member: ([optimizer(member), optimizer(member)], []),
        lambda member: (with_schedule(member), with_schedule(member)),
    ],
)
def test_several_are_for_stepping_by_hand(returned: Any) -> None:
    assert len(configured(returned, automatic=False).optimizers) == 2
    with pytest.raises(ValueError, match=r"returned 2 optimizers; set self.automatic_optimization = False"):
        configured(returned)


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (lambda member: "sgd", "configure_optimizers returned str; expected an optimizer"),
        (lambda member: {"lr_scheduler": None}, "returned a dictionary without an 'optimizer'"),
        (
            lambda member: {
                "optimizer": (own := optimizer(member)),
                "lr_scheduler": torch.optim.lr_scheduler.ReduceLROnPlateau(own),
            },
            "ReduceLROnPlateau needs 'monitor'",
        ),
    ],
)
def test_what_is_no_optimizer_is_refused(returned: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        configured(returned)


def test_lightnings_plateau_brings_its_metric() -> None:
    def returned(member: Participant) -> Any:
        own = optimizer(member)
        return [own], [ReduceLROnPlateau(own, monitor="val_loss")]

    (schedule,) = configured(returned).schedules
    assert schedule.follows_metric
    assert schedule.monitor == "val_loss"


def test_a_metric_of_ones_own_comes_before_the_federations() -> None:
    local = configured(optimizer)
    local.participant._name = "a"
    seen: list[float] = []

    class Noting(torch.optim.lr_scheduler.ReduceLROnPlateau):
        def step(self, metrics: Any, epoch: Any = None) -> None:  # type: ignore[override]
            seen.append(metrics)

    local.schedules = [Schedule(Noting(local.optimizers[0]), monitor="val_loss")]
    local.end_epoch(0, {"val_loss": 1.0, "val_loss/a": 2.0, "val_loss/b": 3.0})
    local.end_epoch(1, {"val_loss": 1.0, "val_loss/b": 3.0})
    assert seen == [2.0, 1.0]


def test_items_follow_their_owner_into_another_order() -> None:
    assert match_by_name([1, 2, 3, 4], {"a": 1, "b": 0, "c": 3}, ["c", "a", "b"]) == [2, 3, 4, 1]
    assert match_by_name([1, 2], {"a": 1, "b": 1}, ["b"]) == [2]
    assert match_by_name([], {}, ["a"]) == []


class Accumulates(Participant):
    """Notes the gradient that waits as each batch begins."""

    waiting: list[Tensor | None]

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        gradient = self.head.weight.grad
        self.waiting.append(None if gradient is None else gradient.clone())  # type: ignore[operator]


def test_a_validation_inside_a_round_leaves_gradients_that_wait() -> None:
    ends = []
    for settings in ({}, {"val_check_interval": 1}):
        model = tiny_participant()
        participant = Accumulates(model.backbone, model.head, optimizer=sgd(), accumulate_grad_batches=2)
        participant.waiting = []
        federation = Federation({"a": participant})
        fit(federation, tiny_data("a", count=16), 1, **settings)
        assert [one is None for one in participant.waiting] == [True, False, True, False]
        ends.append(state_of(federation))
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])
