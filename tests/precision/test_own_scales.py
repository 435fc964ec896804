"""In float16 every participant has a loss scale of its own, and a step that it skips is none."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import LambdaCallback
from torch import Tensor

from hetfed_lightning import BackboneAveraging, EnsembleDistillation, Federation, FederationView, Participant
from hetfed_lightning.local_training.loss_scale import LossScale
from tests.federations import (
    Snapshots,
    SnapshotsBefore,
    equal,
    fit,
    sgd,
    state_of,
    tiny_data,
    tiny_federation,
    tiny_participant,
    trainer,
)
from tests.precision.halves import Overflowing, float16, scales
from tests.resume.runs import Run, Setup, checkpoints, same_run

pytestmark = pytest.mark.filterwarnings("ignore:.*lr_scheduler:UserWarning")


def test_an_overflow_lowers_the_scale_of_its_participant_alone() -> None:
    ends, found = [], []
    for overflow in (Overflowing(), Overflowing(("b", 0, 1), ("b", 1, 0))):
        federation = tiny_federation()
        fit(federation, tiny_data(), 2, overflow, plugins=[float16(growth_interval=4)])
        ends.append({name: state_of(member) for name, member in federation.members().items()})
        found.append(scales(federation))
    for name in "ac":
        assert equal(ends[0][name], ends[1][name])
        assert found[0][name] == found[1][name]
    assert not equal(ends[0]["b"], ends[1]["b"])
    # 8 steps of b, each fourth in a row doubling: 2 doublings. With the second and the fifth skipped: halved twice,
    # 1 + 2 + 3 steps in a row and no doubling.
    assert found[0]["b"]["scale"] == 1024 * 4
    assert found[1]["b"]["scale"] == 1024 / 4


def test_the_scaler_of_the_trainer_is_a_template() -> None:
    plugin = float16(64.0, growth_interval=2)
    federation = tiny_federation()
    fit(federation, tiny_data(), 1, Overflowing(("a", 0, 0)), plugins=[plugin])
    assert plugin.scaler is not None
    assert plugin.scaler.get_scale() == 64.0
    assert federation.local["c"].scale is not None
    assert federation.local["c"].scale.get_scale() == 64.0 * 4


def halving(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    return torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)


@pytest.mark.promise("skipped")
def test_a_skipped_step_is_no_step() -> None:
    settings = {"lr_scheduler": halving, "lr_scheduler_interval": "step"}
    federation = tiny_federation(participant=settings)
    made = fit(federation, tiny_data(), 1, Overflowing(("b", 0, 0), ("b", 0, 2)), plugins=[float16()])
    local = federation.local["b"]
    assert (local.landed, local.skipped, local.progress) == (2, 2, 2)
    assert local.optimizers[0].param_groups[0]["lr"] == 0.1 / 4
    assert made.callback_metrics["federation/skipped_steps"] == 2


@pytest.mark.promise("skipped")
def test_steps_skipped_are_those_of_the_round_though_who_skipped_them_is_not_drawn_again() -> None:
    federation = tiny_federation(participation=0.3)  # One of three in each round.
    counted: list[float] = []
    drawn = [federation.active_names(index)[0] for index in range(2)]
    assert drawn[0] != drawn[1]
    watching = LambdaCallback(
        on_train_epoch_end=lambda made, _: counted.append(float(made.callback_metrics["federation/skipped_steps"]))
    )
    fit(federation, tiny_data(), 2, Overflowing((drawn[0], 0, 0)), watching, plugins=[float16()])
    assert counted == [1, 0]


def test_without_scaling_nothing_is_said_of_skipped_steps() -> None:
    made = fit(tiny_federation(), tiny_data(), 1)
    assert "federation/skipped_steps" not in made.callback_metrics


@pytest.mark.promise("skipped")
def test_who_made_no_step_contributes_nothing() -> None:
    federation = tiny_federation()
    before, after = SnapshotsBefore(), Snapshots()
    fit(
        federation, tiny_data(), 1, before, Overflowing(("b", 0, None)), BackboneAveraging(), after, plugins=[float16()]
    )
    assert federation.local["b"].landed == 0
    for key in ("backbone.0.weight", "backbone.0.bias"):
        a, c = (before.ends[0][name][key].double() for name in "ac")
        # 12 samples and 20; the 16 of b, which has what the round began with, count for nothing.
        expected = ((12 * a + 20 * c) / 32).float()
        assert torch.equal(after.ends[0]["b"][key], expected)
        assert torch.equal(after.ends[0]["a"][key], expected)


def test_scaling_leaves_accumulation_and_clipping_as_they_are() -> None:
    ends = []
    for scale in (1.0, 4096.0):
        federation = tiny_federation(participant={"accumulate_grad_batches": 2, "gradient_clip_val": 0.1})
        fit(federation, tiny_data(), 2, EnsembleDistillation(batch_size=5), plugins=[float16(scale)])
        ends.append(state_of(federation))
    for key, tensor in ends[0].items():
        torch.testing.assert_close(ends[1][key], tensor, rtol=0, atol=1e-3)


def test_a_participant_out_of_the_round_begins_again_with_its_scale() -> None:
    federation = tiny_federation()

    class Broken(Overflowing):
        def local_loss(self, federation: FederationView, participant: Participant, batch_idx: int) -> Tensor | None:
            loss = super().local_loss(federation, participant, batch_idx)
            if loss is not None:
                participant.log("train_loss", float("nan"))
            return loss

    fit(federation, tiny_data(), 1, Broken(("b", 0, None)), plugins=[float16()])
    assert federation.guard.quarantined == {"b": "its loss is not finite"}
    assert scales(federation)["b"]["scale"] == 1024


# ------------------------------------------------------------------------------------------------- resuming


def setup() -> Setup:
    federation = tiny_federation(participant={"optimizer": sgd(0.05, momentum=0.9), "accumulate_grad_batches": 2})
    overflows = Overflowing(("a", 0, 0), ("a", 0, 2), ("b", 0, 1), ("c", 1, 3))
    return federation, tiny_data(), [overflows, EnsembleDistillation(batch_size=5), BackboneAveraging()]


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`:UserWarning")
def test_a_resumed_run_goes_on_with_every_scale(tmp_path: Path) -> None:
    every = checkpoints(tmp_path, every_n_train_steps=1, save_on_train_epoch_end=False)
    straight = Run(setup, 2, every=every, plugins=[float16(growth_interval=4)])
    assert len({state["scale"] for state in scales(straight.federation).values()}) > 1
    for path in sorted(tmp_path.glob("*.ckpt"))[1:9:2]:
        resumed = Run(setup, 2, resume=path, plugins=[float16(growth_interval=4)])
        assert same_run(straight, resumed) == []
        assert scales(resumed.federation) == scales(straight.federation)


def test_scales_are_found_by_name_and_only_where_something_is_scaled(tmp_path: Path) -> None:
    made = fit(tiny_federation("ab"), tiny_data("ab"), 1, Overflowing(("b", 0, 0)), plugins=[float16()])
    path = tmp_path / "x.ckpt"
    made.save_checkpoint(path)
    other = tiny_federation("ba")
    fit(other, tiny_data("ab"), 1, plugins=[float16(8.0)], ckpt_path=path)
    assert {name: state["scale"] for name, state in scales(other).items()} == {"a": 1024, "b": 512}
    full = tiny_federation("ab")
    fit(full, tiny_data("ab"), 2, ckpt_path=path)
    assert scales(full) == {}
    made = trainer(1)
    made.fit(full := tiny_federation("ab"), datamodule=tiny_data("ab"))
    made.save_checkpoint(path)
    again = tiny_federation("ab")
    fit(again, tiny_data("ab"), 2, plugins=[float16(8.0)], ckpt_path=path)
    assert scales(again)["a"]["scale"] == 8.0


# -------------------------------------------------------------------------------------- stepping by hand


class ByHand(Participant):
    """Two optimizers, both of which step after both have gone backward."""

    def __init__(self, *args: Any, overflow_at: tuple[int, ...] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.automatic_optimization = False
        self.overflow_at = overflow_at
        self.batches = 0

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(part.parameters(), lr=0.1) for part in (self.backbone, self.head)]

    def training_step(self, batch: Any, batch_idx: int) -> None:
        one, other = self.optimizers()
        one.zero_grad()
        other.zero_grad()
        inputs, target = batch
        loss = self.task.loss(self(inputs), target)
        if self.batches in self.overflow_at:
            loss = loss + 1e38 * self.head.get_parameter("bias").sum()
        self.batches += 1
        self.manual_backward(loss)
        one.step()
        other.step()
        self.log("train_loss", loss.detach().clamp(max=1.0))


def by_hand(**settings: Any) -> Federation:
    made = tiny_participant()
    return Federation({"a": ByHand(made.backbone, made.head, **settings), "b": tiny_participant(seed=1)})


def test_stepping_by_hand_is_scaled_and_unscaled() -> None:
    ends = []
    for scale in (1.0, 4096.0):
        federation = by_hand()
        before = state_of(federation)
        fit(federation, tiny_data("ab"), 1, plugins=[float16(scale)])
        ends.append(state_of(federation))
    for key, tensor in ends[0].items():
        torch.testing.assert_close(ends[1][key], tensor, rtol=0, atol=1e-3)
        assert not torch.equal(tensor, before[key])


@pytest.mark.promise("skipped")
def test_a_step_by_hand_that_is_skipped_does_not_count() -> None:
    federation = by_hand(overflow_at=(1,))
    fit(federation, tiny_data("ab"), 1, plugins=[float16()])
    # 12 samples in batches of 4: the second of three steps met an infinity.
    assert (federation.local["a"].landed, federation.local["a"].skipped) == (2, 1)
    assert {name: state["scale"] for name, state in scales(federation).items()} == {"a": 512, "b": 1024}


def test_optimizers_without_lightning_are_those_of_torch() -> None:
    federation = by_hand()
    fit(federation, tiny_data("ab"), 1, plugins=[float16()])
    raw = federation["a"].optimizers(use_pl_optimizer=False)
    assert [type(one) for one in raw] == [torch.optim.SGD] * 2
    assert all(isinstance(one, torch.optim.SGD) for one in federation["a"].optimizers())


# ------------------------------------------------------------------------------------------------- by hand


def test_the_scale_changes_between_steps_and_not_between_backward_and_step() -> None:
    scale = LossScale(torch.amp.GradScaler("cpu", 8.0, growth_interval=1))
    parameter = torch.nn.Parameter(torch.ones(()))
    optimizer = torch.optim.SGD([parameter], lr=0.5)
    scale.scale(parameter * 3).backward()
    assert parameter.grad == 24
    scale.unscale_(optimizer)
    scale.step(optimizer)
    # 1 - 0.5 * 3
    assert parameter == -0.5
    assert scale.get_scale() == 8
    optimizer.zero_grad()
    scale.scale(parameter * float("inf")).backward()
    assert scale.get_scale() == 16
    scale.unscale_(optimizer)
    scale.step(optimizer)
    assert parameter == -0.5
    assert scale.has_landed()  # The first of two did.
    assert scale.get_scale() == 8
    assert scale.has_landed()  # Nothing since.
    scale.restart()
    assert scale.get_scale() == 8
