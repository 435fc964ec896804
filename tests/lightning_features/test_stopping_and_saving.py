"""EarlyStopping and ModelCheckpoint follow a federation's metrics, and save the models that were measured."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.cli import ReduceLROnPlateau
from torch import Tensor
from torchmetrics import ConfusionMatrix, MeanSquaredError, Metric
from torchmetrics.classification import BinaryAUROC, MulticlassAccuracy

from hetfed_lightning import (
    BackboneAveraging,
    EnsembleDistillation,
    FederatedDataModule,
    Federation,
    MulticlassTask,
    Participant,
)
from tests.federations import equal, fit, state_of, tiny_data, tiny_federation, tiny_participant, trainer


class Scripted(Metric):
    """Takes the values that the test says, one by one, whatever it is shown."""

    full_state_update = False
    higher_is_better = True

    def __init__(self, values: list[float]) -> None:
        super().__init__(sync_on_compute=False)
        self.values = values
        self.computed = 0

    def update(self, *args: Any) -> None:
        del args

    def compute(self) -> Tensor:
        self.computed += 1
        return torch.tensor(self.values[self.computed - 1])


def scripted(values: list[float]) -> Federation:
    """A federation whose ``val_accuracy``, everybody's and on everything, takes these values."""
    return tiny_federation(participant={"task": MulticlassTask(metrics={"accuracy": Scripted(values)})})


class States(Callback):
    """The models at the end of every validation."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Tensor]] = []

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.seen.append(state_of(pl_module))


@pytest.mark.parametrize(
    "key", ["federation/val_accuracy_mean", "val_accuracy/a", "federation/val_global_accuracy_worst"]
)
def test_early_stopping_follows_a_metric(key: str) -> None:
    stopping = EarlyStopping(key, mode="max", patience=2)
    made = fit(scripted([0.1, 0.5, 0.4, 0.3, 0.9]), tiny_data(), 9, stopping)
    assert made.current_epoch == 4
    assert float(stopping.best_score) == 0.5


def test_early_stopping_follows_a_loss_of_one_participant() -> None:
    made = fit(tiny_federation(), tiny_data(), 9, EarlyStopping("val_loss/a", patience=1, min_delta=10.0))
    assert made.current_epoch == 2


@pytest.mark.parametrize(
    ("monitor", "message"),
    [
        ("val_loss", r"each participant has its own: val_loss/a, val_loss/b, val_loss/c"),
        ("val_acuracy/a", r"did you mean 'val_accuracy/a'"),
        ("federation/val_accuracy", r"did you mean 'federation/val_accuracy_"),
        ("val_loss/nobody", r"which nobody measures"),
        ("val_loss_mean", r"did you mean 'federation/val_loss_mean'"),
        ("federation/train_loss_mean", r"which nobody measures"),
        ("federation/teacher_agreement", r"which nobody measures"),
    ],
)
@pytest.mark.parametrize("kind", [EarlyStopping, ModelCheckpoint])
def test_a_metric_that_nobody_measures_is_refused_before_the_first_round(
    kind: Any, monitor: str, message: str, tmp_path: Path
) -> None:
    follower = kind(monitor=monitor) if kind is EarlyStopping else kind(tmp_path, monitor=monitor)
    federation = tiny_federation()
    with pytest.raises(MisconfigurationException, match=rf"{kind.__name__} follows '{monitor}'.*{message}"):
        fit(federation, tiny_data(), 2, follower, enable_checkpointing=True)
    assert not federation.has_trained


def test_every_figure_that_is_logged_may_be_followed() -> None:
    """What is known beforehand is what a round logs, by an averaging and a distilling federation."""
    methods = (EnsembleDistillation(), BackboneAveraging(max_update_norm=1.0))
    logged = fit(tiny_federation(), tiny_data(), 2, *methods).callback_metrics
    followers = [EarlyStopping(name, patience=9, check_finite=False) for name in logged]
    assert {"federation/val_loss_mean", "federation/teacher_agreement", "lr/a"} < set(logged)
    assert fit(tiny_federation(), tiny_data(), 1, *methods, *followers).current_epoch == 1


def test_early_stopping_on_who_is_not_always_drawn_is_refused() -> None:
    with pytest.raises(MisconfigurationException, match=r"'a' is not drawn for every round.*strict=False"):
        fit(tiny_federation(participation=0.4), tiny_data(), 1, EarlyStopping("train_loss/a"))


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        (
            MeanSquaredError(),
            r"participant 'a': its metric 'rate' \(MeanSquaredError\) cannot take predictions of shape",
        ),
        (BinaryAUROC(), r"val_rate/a: BinaryAUROC gives no number .*IndexError"),
        (ConfusionMatrix("multiclass", num_classes=3), r"val_rate/a: MulticlassConfusionMatrix gives no number"),
    ],
)
def test_a_metric_of_another_kind_is_told_by_participant_and_name(metric: Metric, words: str) -> None:
    metrics = {"accuracy": MulticlassAccuracy(num_classes=3), "rate": metric}
    federation = tiny_federation(participant={"task": MulticlassTask(metrics=metrics)})
    with pytest.raises(ValueError, match=words):
        fit(federation, tiny_data(), 1, num_sanity_val_steps=1)
    assert not federation.has_trained


def test_a_metric_of_sets_that_are_not_there_is_refused() -> None:
    data = tiny_data()
    bare = FederatedDataModule({name: data.data.train[name] for name in data.data.train}, batch_size=4)
    with pytest.raises(MisconfigurationException, match="there are no validation sets"):
        fit(tiny_federation(), bare, 1, EarlyStopping("val_loss/a"))
    with pytest.raises(MisconfigurationException, match="there are no validation sets"):
        fit(tiny_federation(), tiny_data(), 1, EarlyStopping("val_loss/a"), limit_val_batches=0)


def test_a_plateau_scheduler_of_a_metric_that_is_not_there_is_refused() -> None:
    federation = tiny_federation(participant={"lr_scheduler": lambda one: ReduceLROnPlateau(one, monitor="val_los")})
    with pytest.raises(MisconfigurationException, match=r"'a': its ReduceLROnPlateau follows 'val_los'"):
        fit(federation, tiny_data(), 1)
    assert not federation.has_trained


def test_early_stopping_on_who_joins_later_is_refused_and_waits_where_it_may() -> None:
    def newcomers() -> Federation:
        return Federation({"a": tiny_participant(), "b": tiny_participant(joins_at=1)})

    with pytest.raises(MisconfigurationException, match=r"'b' joins at round 1.*strict=False"):
        fit(newcomers(), tiny_data("ab"), 2, EarlyStopping("val_loss/b"))
    made = fit(newcomers(), tiny_data("ab"), 3, EarlyStopping("val_loss/b", strict=False, patience=9))
    assert made.current_epoch == 3


def test_what_a_participant_of_ones_own_logs_may_be_followed(caplog: pytest.LogCaptureFixture) -> None:
    class Logs(Participant):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.log("surprise", 1.0)
            return super().training_step(batch, batch_idx)

    def made() -> Federation:
        one = tiny_participant()
        return Federation({"a": Logs(one.backbone, one.head)})

    assert fit(made(), tiny_data("a"), 2, EarlyStopping("surprise/a", patience=5)).current_epoch == 2
    with pytest.raises(RuntimeError, match="surprise/a"):  # Lightning's, which lists what was logged.
        fit(made(), tiny_data("a"), 2, EarlyStopping("surprize/a"))
    assert "EarlyStopping follows 'surprize/a', which nobody measures" in caplog.text


def test_a_file_name_shows_a_metric_without_making_folders(tmp_path: Path) -> None:
    keep = ModelCheckpoint(tmp_path, monitor="val_loss/a", filename="best/{epoch}-{val_loss/a:.0f}-{step}")
    made = fit(tiny_federation(), tiny_data(), 3, keep, enable_checkpointing=True)
    written = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
    assert len(written) == 2
    assert written[0] == "best"
    epoch = int(written[1].split("=")[1][0])
    assert written[1] == f"best/epoch={epoch}-val_loss_a={keep.best_model_score:.0f}-step={5 * (epoch + 1)}.ckpt"
    assert made.current_epoch == 3


def test_a_file_name_with_a_metric_that_nobody_measures_is_refused(tmp_path: Path) -> None:
    keep = ModelCheckpoint(tmp_path, filename="{epoch}-{val_los/a:.2f}")
    with pytest.raises(MisconfigurationException, match=r"file name.*'val_los/a'.*did you mean 'val_loss/a'"):
        fit(tiny_federation(), tiny_data(), 1, keep, enable_checkpointing=True)


def test_a_fit_with_nothing_left_to_do_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fit(tiny_federation(), tiny_data(), 2, ModelCheckpoint(tmp_path, filename="last"), enable_checkpointing=True)
    assert not caplog.text
    again, keep = tiny_federation(), ModelCheckpoint(tmp_path / "again")
    made = trainer(2, keep, enable_checkpointing=True)
    made.fit(again, datamodule=tiny_data(), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert "last.ckpt has 2 rounds behind it (10 batches), and max_epochs=2 allows no more. Set max_epochs above 2" in (
        caplog.text
    )
    assert equal(state_of(again), torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"])
    caplog.clear()
    made = trainer(9, keep, enable_checkpointing=True, max_steps=10)
    made.fit(tiny_federation(), datamodule=tiny_data(), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert "and max_steps=10 allows no more" in caplog.text
    caplog.clear()
    fit(tiny_federation(), tiny_data(), 1, limit_train_batches=0)
    assert "Nothing was trained: the Trainer's limits allow no batch." in caplog.text


@pytest.mark.parametrize("key", ["federation/val_accuracy_mean", "val_accuracy/a"])
def test_the_best_round_is_kept_and_can_be_tested(key: str, tmp_path: Path) -> None:
    best = ModelCheckpoint(tmp_path, monitor=key, mode="max", filename="best", save_top_k=1)
    states, federation = States(), scripted([0.2, 0.8, 0.3, 0.8])
    made = fit(federation, tiny_data(), 3, BackboneAveraging(), states, best, enable_checkpointing=True)
    assert float(best.best_model_score) == pytest.approx(0.8)  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["best.ckpt"]
    saved = torch.load(best.best_model_path, weights_only=True)
    assert equal(saved["state_dict"], states.seen[1])
    assert not equal(state_of(federation), states.seen[1])
    made.validate(federation, datamodule=tiny_data(), ckpt_path="best", weights_only=True, verbose=False)
    assert equal(state_of(federation), states.seen[1])


def test_the_models_saved_after_a_round_are_those_that_were_validated(tmp_path: Path) -> None:
    states = States()
    keep = ModelCheckpoint(tmp_path, save_top_k=-1, filename="{epoch}")
    fit(tiny_federation(), tiny_data(), 2, BackboneAveraging(), states, keep, enable_checkpointing=True)
    for index, state in enumerate(states.seen):
        assert equal(torch.load(tmp_path / f"epoch={index}.ckpt", weights_only=True)["state_dict"], state)


def test_save_top_k_keeps_the_best_rounds(tmp_path: Path) -> None:
    key = "federation/val_accuracy_mean"
    best = ModelCheckpoint(tmp_path, monitor=key, mode="max", filename="{epoch}", save_top_k=2, save_last=True)
    fit(scripted([0.5, 0.9, 0.1, 0.7]), tiny_data(), 4, best, enable_checkpointing=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch=1.ckpt", "epoch=3.ckpt", "last.ckpt"]


def test_checkpoints_count_batches(tmp_path: Path) -> None:
    keep = ModelCheckpoint(tmp_path, every_n_train_steps=3, save_top_k=-1)
    fit(tiny_federation(), tiny_data(), 2, keep, enable_checkpointing=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "epoch=0-step=3.ckpt", "epoch=1-step=6.ckpt", "epoch=1-step=9.ckpt",
    ]  # fmt: skip


def test_the_checkpoint_of_a_rounds_last_batch_holds_the_round(tmp_path: Path) -> None:
    keep = ModelCheckpoint(tmp_path, every_n_train_steps=5, save_top_k=-1)
    federation = tiny_federation()
    fit(federation, tiny_data(), 1, BackboneAveraging(), keep, enable_checkpointing=True)
    saved = torch.load(tmp_path / "epoch=0-step=5.ckpt", weights_only=True)["state_dict"]
    assert equal(saved, state_of(federation))
    assert torch.equal(saved["participants.a.backbone.0.weight"], saved["participants.c.backbone.0.weight"])


def test_lightnings_own_checkpoint_is_written_when_nothing_is_said(tmp_path: Path) -> None:
    fit(tiny_federation(), tiny_data(), 1, enable_checkpointing=True, default_root_dir=tmp_path)
    assert [path.name for path in tmp_path.rglob("*.ckpt")] == ["epoch=0-step=5.ckpt"]


# One object, several runs


def run(federation: Federation, rounds: int, *callbacks: Callback, **settings: Any) -> L.Trainer:
    return fit(federation, tiny_data(), rounds, *callbacks, **settings)


def test_a_trainer_that_goes_on_equals_one_that_never_stopped() -> None:
    # Averaging every second round: the first fit ends between two of them. Plain descent keeps no optimizer state.
    straight, halted = tiny_federation(), tiny_federation()
    run(straight, 4, BackboneAveraging(every_n_rounds=2, server_optimizer=lambda p: torch.optim.SGD(p, 1.0, 0.9)))
    made = run(halted, 3, BackboneAveraging(every_n_rounds=2, server_optimizer=lambda p: torch.optim.SGD(p, 1.0, 0.9)))
    made.fit_loop.max_epochs = 4
    made.fit(halted, datamodule=tiny_data())
    assert (made.current_epoch, made.global_step) == (4, 20)
    assert equal(state_of(straight), state_of(halted))


def test_a_second_trainer_begins_at_the_first_round_with_a_new_optimizer() -> None:
    federation, other = tiny_federation(), tiny_federation()
    averaging = BackboneAveraging(server_optimizer=lambda p: torch.optim.SGD(p, 1.0, 0.9))
    run(federation, 2, averaging)
    other.load_state_dict(federation.state_dict())
    again = run(federation, 2, averaging)  # the same callback: nothing of the first run may be left in it
    run(other, 2, BackboneAveraging(server_optimizer=lambda p: torch.optim.SGD(p, 1.0, 0.9)))
    assert (again.current_epoch, again.global_step) == (2, 10)
    assert equal(state_of(federation), state_of(other))


def test_schedulers_of_a_second_trainer_step_from_its_first_round() -> None:
    def halving(optimizer: torch.optim.Optimizer) -> Any:
        return torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)

    federation = tiny_federation(participant={"lr_scheduler": halving})
    for _ in range(2):
        run(federation, 2)
        assert federation.local["a"].optimizers[0].param_groups[0]["lr"] == pytest.approx(0.1 / 4)


def test_one_trainer_trains_two_federations_one_after_the_other() -> None:
    first, second, alone = tiny_federation(), tiny_federation(), tiny_federation()
    averaging = BackboneAveraging()
    made = trainer(1, averaging)
    made.fit(first, datamodule=tiny_data())
    again = trainer(1, averaging)
    again.fit(second, datamodule=tiny_data())
    run(alone, 1, BackboneAveraging())
    assert equal(state_of(second), state_of(alone))
