"""What a federation logs arrives in Lightning's loggers: one tag per metric and participant, the round as axis."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.optim.lr_scheduler import StepLR
from torchmetrics import MeanMetric

from hetfed_lightning import BackboneAveraging, EnsembleDistillation, FederatedDataModule, Federation, Participant
from tests.federations import examples, fit, sgd, tiny_data, tiny_federation, tiny_participant

SHARED = {f"federation/{what}" for what in ("bytes_up", "bytes_down", "participants", "quarantined", "divergence")}


def tags(*metrics: str, names: str = "abc") -> set[str]:
    return {f"{metric}/{name}" for metric in metrics for name in names}


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_csv_has_a_column_per_participant_and_a_row_per_round(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path, name="", version="run")
    fit(tiny_federation(), tiny_data(), 3, BackboneAveraging(), logger=logger)
    written = rows(tmp_path / "run")
    val = [row for row in written if row["val_loss/a"]]
    train = [row for row in written if row["train_loss/a"]]
    assert [row["step"] for row in train] == ["1", "2", "3"]
    assert [row["step"] for row in val] == ["1", "2", "3"]
    expected = tags("val_loss", "val_accuracy", "val_global_loss", "val_global_accuracy")
    assert all(row[tag] for row in val for tag in expected)
    assert all(row[tag] for row in train for tag in tags("train_loss") | SHARED)
    assert all(row[f"federation/val_accuracy_{what}"] for row in val for what in ("mean", "worst", "std", "jain"))
    assert [int(row["epoch"]) for row in written] == [int(row["step"]) - 1 for row in written]
    assert {row["epoch"] for row in written if row["federation/seconds_per_round"]} == {"0", "1", "2"}


class Shelf(Logger):
    """A logger that keeps what it is told, as those of services do; runs have no folder of their own."""

    def __init__(self, *, refuses: bool = False) -> None:
        super().__init__()
        self.refuses = refuses
        self.told: dict[str, Any] = {}
        self.rows: list[tuple[int, dict[str, float]]] = []

    @property
    def name(self) -> str:
        return "shelf"

    @property
    def version(self) -> str:
        return "one"

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows.append((step or 0, metrics))

    def log_hyperparams(self, params: Any, *_: Any, **__: Any) -> None:
        if self.refuses:
            raise ValueError("other values before")
        self.told |= params


def test_values_of_a_step_have_the_round_as_epoch() -> None:
    class Steps(Participant):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.log("seen", float(batch_idx), on_step=True)
            return super().training_step(batch, batch_idx)

    shelf, one = Shelf(), tiny_participant()
    made = Federation({"a": Steps(one.backbone, one.head)})
    fit(made, tiny_data("a", count=12, batch_size=4), 2, logger=shelf, log_every_n_steps=1)
    assert [(step, row["epoch"]) for step, row in shelf.rows if "seen_step/a" in row] == [
        (0, 0), (1, 0), (2, 0), (3, 1), (4, 1), (5, 1),
    ]  # fmt: skip


def test_every_logger_gets_the_hyper_parameters(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Keeps(Participant):
        def __init__(self, width: int = 5) -> None:
            one = tiny_participant(hidden=width)
            super().__init__(one.backbone, one.head, optimizer=sgd(0.25))
            self.save_hyperparameters()

    shelf, table = Shelf(), CSVLogger(tmp_path, name="", version="run")
    federation = Federation({"a": Keeps(), "b": tiny_participant(local_epochs=2)}, seed=3, participation=0.5)
    averaging = BackboneAveraging(weighting="uniform", proximal=0.5)
    fit(federation, tiny_data("ab"), 1, averaging, logger=[Shelf(refuses=True), shelf, table])
    assert shelf.told["seed"] == 3
    assert shelf.told["participation"] == 0.5
    assert (
        shelf.told["methods"]["BackboneAveraging"] | {"weighting": "uniform", "proximal": 0.5}
        == (shelf.told["methods"]["BackboneAveraging"])
    )
    assert shelf.told["participants"]["a"]["width"] == 5
    assert shelf.told["participants"]["a"]["optimizer"] == "SGD, lr 0.25"
    assert shelf.told["participants"]["b"]["local_epochs"] == 2
    assert yaml.safe_load((tmp_path / "run" / "hparams.yaml").read_text()) == shelf.told
    assert "Shelf did not take the hyper-parameters; training goes on." in caplog.text


def test_tensorboard_draws_one_chart_per_metric(tmp_path: Path) -> None:
    federation = tiny_federation()
    made = fit(
        federation, tiny_data(), 2, BackboneAveraging(), logger=TensorBoardLogger(tmp_path, name="", version="run")
    )
    made.test(federation, datamodule=tiny_data(), verbose=False)
    events = EventAccumulator(str(tmp_path / "run"))
    events.Reload()
    scalars = set(events.Tags()["scalars"])
    assert tags("train_loss", "val_accuracy", "val_global_accuracy", "test_accuracy", "test_global_accuracy") < scalars
    assert not {tag for tag in scalars if "dataloader_idx" in tag or tag.endswith(("_epoch", "_step"))}
    assert [event.step for event in events.Scalars("train_loss/a")] == [1, 2]
    assert [event.step for event in events.Scalars("val_accuracy/b")] == [1, 2]
    assert [event.step for event in events.Scalars("test_global_accuracy/c")] == [2]


def test_two_validations_within_a_round_are_both_logged(tmp_path: Path) -> None:
    fit(tiny_federation(), tiny_data(), 2, logger=CSVLogger(tmp_path, name="", version="run"), val_check_interval=0.5)
    assert [row["step"] for row in rows(tmp_path / "run") if row["val_loss/a"]] == ["1", "1", "2", "2"]


def test_a_training_loss_is_the_mean_over_examples() -> None:
    # A participant that learns nothing has the same loss in training and when evaluated on its training set.
    federation = Federation({"a": tiny_participant(optimizer=lambda p: torch.optim.SGD(p, lr=0.0))})
    data = tiny_data("a", count=10, batch_size=4)  # batches of 4, 4 and 2
    made = fit(federation, data, 1)
    inputs, targets = data.data.train["a"].inputs, data.data.train["a"].targets  # type: ignore[attr-defined]
    with torch.no_grad():
        expected = torch.nn.functional.cross_entropy(federation["a"](inputs), targets)
    assert float(made.callback_metrics["train_loss/a"]) == pytest.approx(float(expected), rel=1e-5)


def test_the_learning_rate_monitor_calls_schedulers_by_participant(tmp_path: Path) -> None:
    def halving(optimizer: torch.optim.Optimizer) -> StepLR:
        return StepLR(optimizer, 1, 0.5)

    federation = tiny_federation(participant={"lr_scheduler": halving})
    fit(
        federation, tiny_data(), 3, LearningRateMonitor(logging_interval="epoch"),
        logger=CSVLogger(tmp_path, name="", version="run"),
    )  # fmt: skip
    rates = [float(row["lr/b"]) for row in rows(tmp_path / "run") if row.get("lr/b")]
    assert rates == [0.1, 0.05, 0.025]


def test_learning_rates_are_logged_by_participant(tmp_path: Path) -> None:
    class Groups(Participant):
        def configure_optimizers(self) -> Any:
            groups = [{"params": self.backbone.parameters(), "lr": 0.1}, {"params": self.head.parameters(), "lr": 0.2}]
            return torch.optim.SGD(groups)

    def halving(optimizer: torch.optim.Optimizer) -> StepLR:
        return StepLR(optimizer, 1, 0.5)

    other = tiny_participant(seed=2)
    members = {"a": tiny_participant(), "b": tiny_participant(seed=1, lr_scheduler=halving)}
    federation = Federation(members | {"c": Groups(other.backbone, other.head)})
    fit(federation, tiny_data(), 2, logger=CSVLogger(tmp_path, name="", version="run"))
    train = [row for row in rows(tmp_path / "run") if row["train_loss/a"]]
    assert [[float(row[f"lr/{name}"]) for row in train] for name in "ab"] == [[0.1, 0.1], [0.1, 0.05]]
    assert [[float(row[f"lr_{number}/c"]) for row in train] for number in (1, 2)] == [[0.1, 0.1], [0.2, 0.2]]


def test_what_a_participant_logs_itself_lands_under_its_name(tmp_path: Path) -> None:
    class Talker(Participant):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.log("batch", float(batch_idx), on_step=True, on_epoch=True)
            self.log("hidden", 1.0, logger=False)
            self.log_dict({"one": 1.0, "two": 2.0})
            return super().training_step(batch, batch_idx)

    made = tiny_participant()
    federation = Federation({"a": Talker(made.backbone, made.head)})
    logger = CSVLogger(tmp_path, name="", version="run")
    trained = fit(federation, tiny_data("a"), 1, logger=logger, log_every_n_steps=1)
    written = rows(tmp_path / "run")
    assert [row["batch_step/a"] for row in written if row["batch_step/a"]] == ["0.0", "1.0", "2.0"]
    assert [row["batch/a"] for row in written if row["batch/a"]] == ["1.0"]
    assert [(row["one/a"], row["two/a"]) for row in written if row["one/a"]] == [("1.0", "2.0")]
    assert "hidden/a" not in written[0]
    assert trained.callback_metrics["hidden/a"] == 1


def test_nothing_is_written_by_the_sanity_check(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path, name="", version="run")
    fit(tiny_federation(), tiny_data(), 1, logger=logger, num_sanity_val_steps=2)
    assert len([row for row in rows(tmp_path / "run") if row["val_loss/a"]]) == 1


def test_a_progress_bar_shows_the_mean(capsys: pytest.CaptureFixture[str]) -> None:
    made = fit(tiny_federation(), tiny_data(), 1, enable_progress_bar=True)
    assert "federation/val_accuracy_mean" in made.progress_bar_metrics
    capsys.readouterr()


def test_the_teachers_agreement_is_logged_in_both_modes(tmp_path: Path) -> None:
    for mode, start in (("phase", "1"), ("mixed", "2")):
        logger = CSVLogger(tmp_path, name="", version=mode)
        fit(tiny_federation(), tiny_data(), 2, EnsembleDistillation(mode=mode), logger=logger)  # type: ignore[arg-type]
        found = [row["step"] for row in rows(tmp_path / mode) if row.get("federation/teacher_agreement")]
        assert found == [str(step) for step in range(int(start), 3)]


def test_sums_and_extremes_over_a_round() -> None:
    class Counting(Participant):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            for name, reduce_fx in (("sum", "sum"), ("low", torch.min), ("high", "max"), ("mean", torch.mean)):
                self.log(name, float(batch_idx), reduce_fx=reduce_fx, batch_size=len(batch[1]))
            self.log("positional", 1.0, False, True, False, True, "sum")
            return super().training_step(batch, batch_idx)

    made = tiny_participant()
    trained = fit(Federation({"a": Counting(made.backbone, made.head)}), tiny_data("a"), 1)  # 3 batches of 4: 0, 1, 2
    found = {
        name: float(trained.callback_metrics[f"{name}/a"]) for name in ("sum", "low", "high", "mean", "positional")
    }
    assert found == {"sum": 3, "low": 0, "high": 2, "mean": 1, "positional": 3}


@pytest.mark.parametrize("reduce_fx", ["median", torch.median, max])
def test_another_reduction_is_refused_by_name(reduce_fx: Any) -> None:
    class Wrong(Participant):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.log("score", 1.0, reduce_fx=reduce_fx)

    made = tiny_participant()
    with pytest.raises(ValueError, match="score: expected reduce_fx to be one of mean, sum, min, max, got"):
        fit(Federation({"a": Wrong(made.backbone, made.head)}), tiny_data("a"), 1)


class Plain(Participant):
    """Logs its loss twice as people do: without saying how large the batch was."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.log("mine", loss, on_step=True, on_epoch=True)
        return loss


def test_a_mean_counts_examples_whether_told_or_not(tmp_path: Path) -> None:
    made = tiny_participant(optimizer=lambda p: torch.optim.SGD(p, lr=0.0))
    member = Plain(made.backbone, made.head, optimizer=made.optimizer_factory)
    trained = fit(Federation({"a": member}), tiny_data("a", count=9), 1)  # batches of 4, 4 and 1
    found = trained.callback_metrics
    assert float(found["mine/a"]) == pytest.approx(float(found["train_loss/a"]), rel=1e-6)


def test_steps_of_who_has_no_batch_left_are_empty(tmp_path: Path) -> None:
    members: dict[str, Participant] = {}
    for index, name in enumerate("ab"):
        made = tiny_participant(seed=index)
        members[name] = Plain(made.backbone, made.head)
    data = FederatedDataModule({"a": examples(4), "b": examples(16)}, batch_size=4)  # 1 and 4 batches
    logger = CSVLogger(tmp_path, name="", version="run")
    fit(Federation(members), data, 2, logger=logger, log_every_n_steps=1)
    written = rows(tmp_path / "run")
    assert [row["step"] for row in written if row["mine_step/a"]] == ["0", "4"]
    assert [row["step"] for row in written if row["mine_step/b"]] == [str(step) for step in range(8)]


def test_what_is_logged_has_to_be_a_number() -> None:
    class Wrong(Participant):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.log("image", torch.zeros(3))

    made = tiny_participant()
    with pytest.raises(ValueError, match=r"image/a: expected a number to log, got a tensor of shape \(3,\)"):
        fit(Federation({"a": Wrong(made.backbone, made.head)}), tiny_data("a"), 1)


class Measures(Participant):
    """Logs a metric of its own as torchmetrics' pages show it."""

    def __init__(self, **settings: Any) -> None:
        made = tiny_participant()
        super().__init__(made.backbone, made.head, optimizer=made.optimizer_factory)
        self.mean_label = MeanMetric()
        self.settings = settings

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.mean_label(batch[1].float())
        self.log("label", self.mean_label, **self.settings)
        return super().training_step(batch, batch_idx)


def labels(count: int, seed: int) -> list[float]:
    targets = examples(count, seed=seed).targets
    assert targets is not None
    return targets.tolist()


@pytest.mark.parametrize("settings", [{"on_step": True, "on_epoch": True}, {"on_step": True}, {}])
def test_a_metric_object_is_logged_by_round(settings: dict[str, Any]) -> None:
    # Two rounds, so that a metric that was not reset would remember the first; means over all examples of a round.
    made = fit(Federation({name: Measures(**settings) for name in "ab"}), tiny_data("ab"), 2)
    for name, count, seed in (("a", 12, 0), ("b", 16, 1)):
        own = labels(count, seed)
        assert float(made.callback_metrics[f"label/{name}"]) == pytest.approx(sum(own) / len(own))


def test_a_metric_object_by_step_is_that_of_the_batch(tmp_path: Path) -> None:
    federation = Federation({"a": Measures(on_step=True, on_epoch=False)})
    made = fit(federation, tiny_data("a"), 2, logger=CSVLogger(tmp_path, name="", version="run"), log_every_n_steps=1)
    found = [float(row["label_step/a"]) for row in rows(tmp_path / "run") if row.get("label_step/a")]
    assert "label/a" not in made.callback_metrics
    assert len(found) == 6
    # Every round sees each example once, in batches of four; a metric is reset as a round ends, as in a Trainer alone.
    assert sum(found[:3]) / 3 == pytest.approx(sum(labels(12, 0)) / 12)
    assert not federation["a"].mean_label.update_called  # type: ignore[union-attr]


def test_a_step_that_is_no_number_is_refused() -> None:
    class Several(Participant):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.log("two", torch.ones(2), on_step=True)
            return super().training_step(batch, batch_idx)

    made = tiny_participant()
    with pytest.raises(ValueError, match=r"two_step/a: expected a number to log, got a tensor of shape \(2,\)"):
        fit(Federation({"a": Several(made.backbone, made.head)}), tiny_data("a"), 1)
