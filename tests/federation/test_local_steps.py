"""Accumulation, clipping, schedules: what each participant's optimizer does, replayed by hand."""

from typing import Any

import lightning as L
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import ReduceLROnPlateau
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor

from hetfed_lightning import BackboneAveraging, EnsembleDistillation, FederatedDataModule, Federation, Participant
from tests.federations import fit, line, sgd, state_of, tiny_data, tiny_federation, tiny_participant, values


class Keeping(Participant):
    """Keeps its batches and its weights before each of them."""

    batches: list[Any]
    weights: list[Tensor]

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.batches.append(batch)
        self.weights.append(self.state_dict()["backbone.weight"].clone())
        return super().training_step(batch, batch_idx)


def keeping(**settings: Any) -> Keeping:
    backbone = torch.nn.Linear(3, 1, bias=False)
    torch.nn.init.zeros_(backbone.weight)
    made = Keeping(backbone, shared=("*",), task="regression", **({"optimizer": sgd(0.1)} | settings))
    made.batches, made.weights = [], []
    return made


def gradient(weights: Tensor, batch: Any) -> Tensor:
    inputs, targets = batch
    slope: Tensor = 2 * inputs.T @ (inputs @ weights.T - targets) / len(inputs)
    return slope.T


def run(members: dict[str, Keeping], rounds: int = 1, **settings: Any) -> Federation:
    federation = Federation(dict(members))
    data = FederatedDataModule({name: values(20, seed=3) for name in members}, batch_size=4)
    fit(federation, data, rounds, precision="64-true", **settings)
    return federation


def test_accumulation_steps_on_the_mean_and_flushes_what_is_left() -> None:
    # 20 samples in batches of 4 are 5 batches: steps after the 2nd and the 4th, and on the 5th alone at the end.
    member = keeping(accumulate_grad_batches=2)
    run({"a": member})
    weights = torch.zeros(1, 3, dtype=torch.float64)
    expected = []
    for first, second in ((0, 1), (2, 3)):
        expected += [weights, weights]
        both = gradient(weights, member.batches[first]) + gradient(weights, member.batches[second])
        weights = weights - 0.1 * both / 2
    expected.append(weights)
    weights = weights - 0.1 * gradient(weights, member.batches[4])
    for found, wanted in zip(member.weights, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    torch.testing.assert_close(state_of(member)["backbone.weight"], weights, rtol=0, atol=1e-12)


def test_a_round_of_fewer_batches_than_are_accumulated_steps_on_their_mean_and_is_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    member = keeping(accumulate_grad_batches=8)
    run({"a": member, "b": keeping(accumulate_grad_batches=5)}, rounds=2)
    first, second = (
        sum((gradient(member.weights[begin], one) for one in member.batches[begin : begin + 5]), torch.zeros(1, 3)) / 5
        for begin in (0, 5)
    )
    torch.testing.assert_close(state_of(member)["backbone.weight"], -0.1 * (first + second), rtol=0, atol=1e-12)
    assert caplog.text.count("participant 'a': accumulate_grad_batches=8, and a round has 5 of its batches") == 1
    assert "'b': accumulate" not in caplog.text


def test_accumulation_counts_steps_and_not_batches() -> None:
    federation = run({"a": keeping(accumulate_grad_batches=2), "b": keeping()})
    assert {name: local.landed for name, local in federation.local.items()} == {"a": 3, "b": 5}


def test_clipping_is_each_participants_own() -> None:
    clipped, free = keeping(gradient_clip_val=0.01, optimizer=sgd(1.0)), keeping(optimizer=sgd(1.0))
    run({"clipped": clipped, "free": free}, limit_train_batches=1)
    raw = gradient(torch.zeros(1, 3, dtype=torch.float64), free.batches[0])
    torch.testing.assert_close(state_of(free)["backbone.weight"], -raw, rtol=0, atol=1e-12)
    assert float(state_of(clipped)["backbone.weight"].norm()) == pytest.approx(0.01, rel=1e-3)


def test_clipping_is_of_the_whole_accumulated_gradient() -> None:
    member = keeping(gradient_clip_val=0.01, optimizer=sgd(1.0), accumulate_grad_batches=5)
    run({"a": member})
    assert float(state_of(member)["backbone.weight"].norm()) == pytest.approx(0.01, rel=1e-3)


def halving(optimizer: Any) -> Any:
    return torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)


def rate(federation: Federation, name: str) -> float:
    return float(federation.local[name].optimizers[0].param_groups[0]["lr"])


def test_schedules_step_by_round_or_by_step() -> None:
    members = {
        "round": keeping(lr_scheduler=halving),
        "step": keeping(lr_scheduler=halving, lr_scheduler_interval="step"),
        "slow": keeping(lr_scheduler=halving, lr_scheduler_interval="step", accumulate_grad_batches=5),
        "none": keeping(),
    }
    federation = run(members, rounds=2)
    # Two rounds of five batches.
    assert rate(federation, "round") == pytest.approx(0.1 / 2**2)
    assert rate(federation, "step") == pytest.approx(0.1 / 2**10)
    assert rate(federation, "slow") == pytest.approx(0.1 / 2**2)
    assert rate(federation, "none") == pytest.approx(0.1)


class Configured(Participant):
    """Configures a schedule as a LightningModule does, with a frequency."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": halving(optimizer), "frequency": 2}}


def test_frequency() -> None:
    federation = Federation({"a": Configured(torch.nn.Linear(4, 3), shared=("*",))})
    fit(federation, tiny_data("a"), 5)
    assert rate(federation, "a") == pytest.approx(0.1 / 4)


class Scored(Participant):
    """Its validation loss is what the test says."""

    scores: list[float]

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.scores[min(self.current_epoch, len(self.scores) - 1)])


def test_a_plateau_is_the_participants_own() -> None:
    def plateau(optimizer: Any) -> Any:
        return ReduceLROnPlateau(optimizer, monitor="val_loss", factor=0.5, patience=0)

    members = {
        name: Scored(torch.nn.Linear(4, 3), shared=("*",), optimizer=sgd(), lr_scheduler=plateau) for name in "ab"
    }
    members["a"].scores, members["b"].scores = [3.0, 2.0, 1.0], [1.0, 2.0, 3.0]
    federation = Federation(dict(members))
    fit(federation, tiny_data("ab"), 3)
    assert rate(federation, "a") == pytest.approx(0.1)
    assert rate(federation, "b") == pytest.approx(0.1 / 4)


def test_a_plateau_on_what_nobody_logs_is_refused() -> None:
    def plateau(optimizer: Any) -> Any:
        return ReduceLROnPlateau(optimizer, monitor="val_los")

    federation = tiny_federation(participant={"lr_scheduler": plateau})
    with pytest.raises(
        MisconfigurationException, match=r"participant 'a': its ReduceLROnPlateau follows 'val_los', which nobody"
    ):
        fit(federation, tiny_data(), 1)


@pytest.mark.parametrize(
    ("monitor", "rounds", "settings", "halvings"),
    [
        # Three validations: the first is the best so far, two are no better.
        ("val_loss", 6, {"check_val_every_n_epoch": 2}, 2),
        ("val_loss/b", 6, {"check_val_every_n_epoch": 2}, 2),
        ("federation/val_accuracy_mean", 6, {"check_val_every_n_epoch": 2}, 2),
        ("train_loss", 6, {"check_val_every_n_epoch": 2}, 5),
        ("val_loss", 6, {"check_val_every_n_epoch": 4}, 0),
        ("val_loss", 3, {}, 2),
        # Of 30 batches, five in a round.
        ("val_loss", 6, {"check_val_every_n_epoch": None, "val_check_interval": 10}, 2),
    ],
)
def test_a_plateau_counts_validations(monitor: str, rounds: int, settings: dict[str, Any], halvings: int) -> None:
    def plateau(optimizer: Any) -> Any:
        return ReduceLROnPlateau(optimizer, monitor=monitor, patience=0, factor=0.5, eps=0, threshold=0.5)

    # Nothing is learned, so that no validation is better than the one before.
    federation = tiny_federation(participant={"optimizer": sgd(1e-30), "lr_scheduler": plateau})
    fit(federation, tiny_data(), rounds, **settings)
    assert rate(federation, "a") == pytest.approx(1e-30 / 2**halvings)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"gradient_clip_val": 1.0}, r"Use Participant\(gradient_clip_val"),
        ({"accumulate_grad_batches": 2}, r"Use Participant\(accumulate_grad_batches"),
        ({"overfit_batches": 1}, "limit_train_batches"),
    ],
)
def test_trainer_settings_without_meaning_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(MisconfigurationException, match=words):
        fit(tiny_federation(), tiny_data(), 1, **settings)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"local_epochs": 0}, "local_epochs: expected an integer of at least 1, got 0"),
        ({"local_epochs": 1.5}, "local_epochs"),
        ({"step_budget": 0}, "step_budget: expected an integer of at least 1, got 0"),
        ({"joins_at": -1}, "joins_at: expected an integer of at least 0, got -1"),
        ({"accumulate_grad_batches": 0}, "accumulate_grad_batches"),
        ({"gradient_clip_val": 0.0}, "gradient_clip_val: expected a finite norm above 0, got 0.0"),
        ({"gradient_clip_val": float("nan")}, "got nan"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        tiny_participant(**settings)


def half_precision(start: float) -> MixedPrecision:
    scaler = torch.amp.GradScaler("cpu", init_scale=start, growth_interval=1000)
    return MixedPrecision("16-mixed", "cpu", scaler)


@pytest.mark.filterwarnings("ignore:.*lr_scheduler:UserWarning")
def test_loss_scaling_does_not_change_the_steps() -> None:
    ends = []
    for scale in (1.0, 1024.0):
        federation = tiny_federation(student=tiny_participant(seed=9))
        distilling = EnsembleDistillation(students="both")
        fit(federation, tiny_data(), 1, distilling, plugins=[half_precision(scale)])
        ends.append(state_of(federation))
    # Powers of two scale exactly; what differs are gradients that fall below the range of float16.
    for key, tensor in ends[0].items():
        torch.testing.assert_close(ends[1][key], tensor, rtol=0, atol=1e-3)


def test_a_step_that_the_scaler_skips_does_not_count() -> None:
    # 1e38 in float16 gradients is infinite: every step is skipped, halving the scale.
    federation = tiny_federation(participant={"lr_scheduler": halving, "lr_scheduler_interval": "step"})
    before = state_of(federation)
    fit(federation, tiny_data(), 1, plugins=[half_precision(1e38)], limit_train_batches=2)
    assert all(local.landed == 0 for local in federation.local.values())
    assert all(torch.equal(before[key], tensor) for key, tensor in state_of(federation).items())
    assert rate(federation, "a") == 0.1


class Idle(Participant):
    """Takes no step."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        del batch, batch_idx


def linear() -> Participant:
    return Participant(torch.nn.Linear(4, 5), torch.nn.Linear(5, 3), optimizer=sgd())


def idle() -> Idle:
    return Idle(torch.nn.Linear(4, 5), torch.nn.Linear(5, 3), optimizer=sgd())


def test_who_takes_no_step_is_told_once_and_receives_what_the_others_averaged(caplog: pytest.LogCaptureFixture) -> None:
    federation = Federation({"a": idle(), "b": linear(), "c": linear()}, min_participants=3)
    made = fit(federation, tiny_data(), 3, BackboneAveraging())
    assert caplog.text.count("a took no optimizer step in a round") == 1
    assert "b took no" not in caplog.text
    assert made.callback_metrics["federation/quarantined"] == 0
    assert made.callback_metrics["federation/participants"] == 3
    assert torch.equal(federation["a"].state_dict()["backbone.weight"], federation["b"].state_dict()["backbone.weight"])


def test_no_loss_for_a_part_of_a_batch_is_refused_by_name() -> None:
    class Split(L.Callback):
        """As if several processes split each batch."""

        def on_train_batch_start(self, trainer: Any, pl_module: Any, *args: Any) -> None:
            pl_module.ranks.reduction = lambda parameters: None

    with pytest.raises(RuntimeError, match="returned None for its part of a batch") as found:
        fit(Federation({"a": idle()}), tiny_data("a"), 1, Split())
    assert "participant 'a', round 0, batch 0" in found.value.__notes__


def test_distillation_of_a_line_takes_part_in_no_accumulation_of_the_next_round() -> None:
    # What a phase leaves of an incomplete accumulation is stepped on before the round ends.
    federation = Federation({"a": line(4, accumulate_grad_batches=3), "b": line(4)})
    data = FederatedDataModule(
        {name: values(8, features=4, seed=2, dtype=torch.float32) for name in "ab"},
        public=values(10, features=4, dtype=torch.float32),
        batch_size=4,
    )
    fit(federation, data, 1, EnsembleDistillation(batch_size=5))
    assert all(p.grad is None for p in federation.parameters())
