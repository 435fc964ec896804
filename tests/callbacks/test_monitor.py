"""What the monitor writes, read back from TensorBoard's event files."""

import logging
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from sklearn.metrics import confusion_matrix
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from torch import Tensor, nn
from torchmetrics import Metric

from hetfed_lightning import (
    BackboneAveraging,
    EnsembleDistillation,
    FederatedDataModule,
    Federation,
    FederationMonitor,
    MulticlassTask,
    Participant,
)
from hetfed_lightning.callbacks.confusions import examine
from hetfed_lightning.callbacks.headline_metrics import headline_summaries, headlines
from hetfed_lightning.callbacks.participant_summary import label_counts, roles
from hetfed_lightning.callbacks.tensorboard_pages import chart_layout, participants_table, results_table
from hetfed_lightning.data import Examples
from tests.federations import (
    equal,
    fit,
    line,
    sgd,
    state_of,
    tiny_data,
    tiny_federation,
    tiny_participant,
    trainer,
    values,
)

Read = Callable[[], EventAccumulator]


def together() -> list[L.Callback]:
    return [EnsembleDistillation(batch_size=5), BackboneAveraging()]


@pytest.fixture
def board(tmp_path: Path) -> TensorBoardLogger:
    return TensorBoardLogger(tmp_path, name="board", version="0")


@pytest.fixture
def read(board: TensorBoardLogger) -> Iterator[Read]:
    def read_events() -> EventAccumulator:
        board.experiment.flush()
        events = EventAccumulator(board.log_dir, size_guidance={"images": 0, "scalars": 0, "tensors": 0})
        return events.Reload()

    yield read_events
    board.experiment.close()


def text(events: EventAccumulator, name: str) -> str:
    [entry] = events.Tensors(f"{name}/text_summary")
    return str(entry.tensor_proto.string_val[0].decode())


def layouts(events: EventAccumulator) -> list[dict[str, dict[str, list[str]]]]:
    """Every layout written: charts' lines by category and title."""
    found = []
    for entry in events.Tensors("custom_scalars__config__"):
        layout = layout_pb2.Layout.FromString(entry.tensor_proto.string_val[0])
        found.append({c.title: {chart.title: list(chart.multiline.tag) for chart in c.chart} for c in layout.category})
    return found


# ------------------------------------------------------------------------------------------------ numbers


def test_the_summary_is_that_of_the_participants_and_its_axis_is_the_round(
    board: TensorBoardLogger, read: Read
) -> None:
    fit(tiny_federation(), tiny_data(), 2, *together(), logger=board)
    events = read()
    for scope in ("", "global_"):
        own = [[event.value for event in events.Scalars(f"val_{scope}accuracy/{name}")] for name in "abc"]
        means = events.Scalars(f"federation/val_{scope}accuracy_mean")
        assert [event.step for event in means] == [1, 2]
        assert [event.value for event in means] == pytest.approx([sum(each) / 3 for each in zip(*own, strict=True)])
        worst = events.Scalars(f"federation/val_{scope}accuracy_worst")
        assert [event.value for event in worst] == pytest.approx([min(each) for each in zip(*own, strict=True)])
        assert f"federation/val_{scope}accuracy_std" in events.Tags()["scalars"]
        assert f"federation/val_{scope}accuracy_jain" in events.Tags()["scalars"]


def test_the_seconds_of_a_round_reach_every_logger_and_no_monitor(
    board: TensorBoardLogger, read: Read, tmp_path: Path
) -> None:
    table = CSVLogger(tmp_path, name="csv", version="0")
    made = fit(tiny_federation(), tiny_data(), 2, logger=[board, table])
    seconds = read().Scalars("federation/seconds_per_round")
    assert [event.step for event in seconds] == [1, 2]
    assert all(event.value > 0 for event in seconds)
    assert "federation/seconds_per_round" in (Path(table.log_dir) / "metrics.csv").read_text()
    # What may be monitored must be equal in two equal runs.
    assert "federation/seconds_per_round" not in made.callback_metrics


class Uncomputable(Metric):
    """A metric whose value is not a number."""

    def update(self, predictions: Tensor, target: Tensor) -> None:
        """Nothing can be learned of them."""

    def compute(self) -> Tensor:
        return torch.tensor(math.nan)


def test_a_number_that_is_nan_is_not_logged(board: TensorBoardLogger, read: Read) -> None:
    task = MulticlassTask(metrics={"score": Uncomputable()})
    made = fit(Federation({"a": tiny_participant(task=task)}), tiny_data("a"), 1, logger=board)
    logged = {*made.callback_metrics, *read().Tags()["scalars"]}
    assert "federation/bytes_up" in logged
    assert not {key for key in logged if key.startswith("federation/val_score")}


def test_a_figure_may_be_known_in_one_test_of_a_trainer_and_not_in_the_next(board: TensorBoardLogger) -> None:
    """Jain's index is undefined for negative values: R2 of a better and of a worse model, one after the other."""
    federation, made = Federation({name: line() for name in "ab"}), trainer(1, logger=board)
    examples = {name: values(9, seed=seed, dtype=torch.float32) for seed, name in enumerate("ab")}
    truth = {name: torch.linalg.lstsq(one.inputs, one.targets).solution.T for name, one in examples.items()}
    data = FederatedDataModule(examples, None, examples, batch_size=9)
    made.fit(federation, data)
    known = []
    for scale in (1.0, 100.0, 1.0):
        for name, one in federation.members().items():
            next(one.parameters()).data.copy_(scale * truth[name])
        made.test(federation, data, verbose=False)
        known.append(math.isfinite(float(made.callback_metrics["federation/test_r2_jain"])))
    assert known == [True, False, True]


def test_a_summary_follows_the_direction_of_the_metric() -> None:
    participants = {name: tiny_participant() for name in "ab"}
    for participant in participants.values():
        participant.task.headline, participant.task.higher_is_better = "loss", False
    summaries = headline_summaries(headlines(participants), "val", {"val_loss/a": 1.0, "val_loss/b": 3.0})
    assert summaries["loss", False].worst_name == "b"
    assert ("loss", True) not in summaries


# ------------------------------------------------------------------------------------------------- charts


def test_every_metric_has_a_chart_with_a_line_per_participant(board: TensorBoardLogger, read: Read) -> None:
    federation = Federation(
        {"a": tiny_participant(), "b": tiny_participant(seed=1), "late": tiny_participant(seed=2, joins_at=5)}
    )
    fit(federation, tiny_data(["a", "b", "late"]), 2, *together(), logger=board)
    events = read()
    layout = layouts(events)[-1]
    assert layout["participants"] == {
        metric: [f"{metric}/{name}" for name in ("a", "b", "late")]
        for metric in ("val_accuracy", "val_global_accuracy", "val_global_loss", "val_loss", "train_loss", "lr")
    }
    shared = layout["federation"]
    assert shared["val_accuracy: mean and worst"] == [
        "federation/val_accuracy_mean", "federation/val_global_accuracy_mean",
        "federation/val_accuracy_worst", "federation/val_global_accuracy_worst",
    ]  # fmt: skip
    assert shared["bytes per round"] == ["federation/bytes_down", "federation/bytes_up"]
    assert shared["teacher_agreement"] == ["federation/teacher_agreement"]
    # Nothing of the federation is left without a chart.
    lines = {tag for tags in shared.values() for tag in tags}
    assert lines == {tag for tag in events.Tags()["scalars"] if tag.startswith("federation/")}


def test_the_layout_is_written_again_only_when_a_metric_turns_up(board: TensorBoardLogger, read: Read) -> None:
    fit(tiny_federation(), tiny_data(), 4, logger=board, check_val_every_n_epoch=3)
    first, second = layouts(read())
    assert list(first["participants"]) == ["train_loss", "lr"]
    assert "val_accuracy" in second["participants"]


def test_the_student_is_a_line_where_it_is_measured() -> None:
    layout = chart_layout({"val_global_accuracy/student", "train_loss/a", "lr-Adam", "step"}, ["a", "student"])
    assert layout == {
        "participants": {
            "val_global_accuracy": ["Multiline", ["val_global_accuracy/a", "val_global_accuracy/student"]],
            "train_loss": ["Multiline", ["train_loss/a", "train_loss/student"]],
        }
    }


def test_a_name_that_begins_another_is_told_apart_from_it() -> None:
    # TensorBoard matches tags from their beginning: "loss/site_1" would draw site_10 as well.
    [tags] = [chart[1] for chart in chart_layout({"loss/site_1"}, ["site_1", "site_10"])["participants"].values()]
    assert tags == ["loss/site_1$", "loss/site_10"]


# ----------------------------------------------------------------------------------------- text and tables


def test_the_texts_say_who_takes_part_and_with_which_settings(board: TensorBoardLogger, read: Read) -> None:
    monitor = FederationMonitor(config="seed: 7\nrounds: 2\n")
    made = fit(tiny_federation(), tiny_data(), 1, *together(), monitor, logger=board)
    made.test(made.lightning_module, datamodule=made.datamodule, verbose=False)  # type: ignore[attr-defined]
    events = read()
    assert text(events, "config") == "```yaml\nseed: 7\nrounds: 2\n```"
    assert text(events, "federation/participants").startswith("| name | architecture | optimizer |")
    sharing = text(events, "federation/sharing")
    assert sharing.startswith("What is averaged, and with whom:\n\n* a, b, c: backbone.0.weight")
    results = text(events, "federation/test_results")
    assert f"{made.callback_metrics['test_accuracy/a']:.4g}" in results
    assert events.Tensors("federation/test_results/text_summary")[0].step == 1


def test_without_a_configuration_none_is_shown(board: TensorBoardLogger, read: Read) -> None:
    fit(tiny_federation(), tiny_data(), 1, logger=board)
    assert "config/text_summary" not in read().Tags()["tensors"]


def test_the_table_of_participants_by_hand() -> None:
    participants = {
        "a": tiny_participant(local_epochs=2),
        "b": tiny_participant(seed=1, optimizer=lambda p: torch.optim.AdamW(p, lr=2e-3)),
        "c": tiny_participant(seed=2, hidden=7, joins_at=1),
    }
    federation = Federation(participants, student=tiny_participant(seed=3))
    averaging = BackboneAveraging()
    made = fit(federation, tiny_data(), 1, averaging)
    lines = participants_table(roles(made, federation, 200), 4).splitlines()
    assert lines[0] == "| name | architecture | optimizer | weights | shared | examples | epochs | joins |"
    # 4 * 5 + 5 + 5 * 3 + 3 = 43 parameters, of which (4 * 5 + 5) * 4 B = 100 B are shared by a and b;
    # with 7 hidden units 4 * 7 + 7 + 7 * 3 + 3 = 59, shared with nobody.
    assert lines[2:] == [
        "| a | Sequential + Linear | SGD, lr 0.1 | 43 | 100 B | 12 | 2 | 0 |",
        "| b | Sequential + Linear | AdamW, lr 0.002 | 43 | 100 B | 16 | 1 | 0 |",
        "| c | Sequential + Linear | SGD, lr 0.1 | 59 | 0 B | 20 | 1 | 1 |",
        "| student | Sequential + Linear | SGD, lr 0.1 | 43 | 0 B | - | - | - |",
    ]


def test_the_table_of_results_by_hand() -> None:
    found = {"test_loss/a": 0.123456, "test_accuracy/a": 1.0, "test_accuracy/b": 0.5, "federation/test_x": 1.0}
    assert results_table(found, ["a", "b"]).splitlines() == [
        "| participant | test_loss | test_accuracy |",
        "| --- | --- | --- |",
        "| `a` | 0.1235 | 1 |",
        "| `b` | - | 0.5 |",
    ]


# ------------------------------------------------------------------------------------------------ pictures


def test_the_pictures_are_drawn_once_however_many_rounds(board: TensorBoardLogger, read: Read) -> None:
    fit(tiny_federation(), tiny_data(), 3, *together(), logger=board)
    events = read()
    confusions = [f"confusion_matrix/{name}" for name in "abc"]
    assert sorted(events.Tags()["images"]) == [
        *confusions, "federation/label_distribution", "federation/teacher_agreement_matrix",
    ]  # fmt: skip
    steps = {tag: [image.step for image in events.Images(tag)] for tag in events.Tags()["images"]}
    assert steps.pop("federation/label_distribution") == [0]
    assert set(map(tuple, steps.values())) == {(3,)}


def test_label_counts_are_those_of_the_training_sets() -> None:
    federation, data = tiny_federation(), tiny_data()
    fit(federation, data)
    counts = label_counts(federation, 200)
    for name in "abc":
        targets = data.train_targets(name)
        assert counts[name].tolist() == [int((targets == label).sum()) for label in range(3)]


@pytest.mark.parametrize("precision", ["32-true", "64-true"])
@pytest.mark.parametrize("everyone", [True, False])
def test_confusion_matrices_agree_with_scikit_learn(everyone: bool, precision: str) -> None:
    federation = tiny_federation()
    data = tiny_data(global_val="pooled" if everyone else None, eval_batch_size=4)
    made = fit(federation, data, 1, precision=precision)
    found = examine(made, federation)
    matrices, where = found.confusions, found.where
    assert where == ("everyone's validation set" if everyone else "own validation set")
    assert list(matrices) == ["a", "b", "c"]
    for name, matrix in matrices.items():
        known: Any = data.data.global_val if everyone else data.data.val[name]
        with torch.no_grad():
            inputs = known.inputs.to(federation[name].head.weight.dtype)
            predicted = federation[name](inputs).argmax(dim=1)
        expected = confusion_matrix(known.targets.numpy(), predicted.numpy(), labels=[0, 1, 2])
        assert matrix.tolist() == expected.tolist()


def test_confusion_matrices_of_a_yes_or_no() -> None:
    targets = torch.tensor([0, 1, 1, 1])
    inputs = torch.tensor([[1.0], [1.0], [-1.0], [-1.0]])  # the network says yes where the input is positive
    network = nn.Linear(1, 1)
    with torch.no_grad():
        network.weight.fill_(1.0)
        network.bias.fill_(0.0)
    federation = Federation({"a": Participant(network, task="binary", optimizer=sgd(0.0))})
    known = {"a": Examples(inputs, targets)}
    made = fit(federation, FederatedDataModule(known, known))
    [matrix] = examine(made, federation).confusions.values()
    # true 0: said yes once. true 1: no twice, yes once.
    assert matrix.tolist() == [[0, 1], [2, 1]]


def test_who_has_not_joined_confuses_nothing_yet() -> None:
    federation = Federation({"a": tiny_participant(), "late": tiny_participant(seed=1, joins_at=5)})
    made = fit(federation, tiny_data(["a", "late"]), 1)
    assert list(examine(made, federation).confusions) == ["a"]


def test_the_student_is_confused_on_everyones_data_alone() -> None:
    federation = tiny_federation(student=tiny_participant(seed=9))
    made = fit(federation, tiny_data(), 1, EnsembleDistillation())
    assert list(examine(made, federation).confusions) == ["a", "b", "c", "student"]
    federation = tiny_federation(student=tiny_participant(seed=9))
    made = fit(federation, tiny_data(global_val=None), 1, EnsembleDistillation())
    assert list(examine(made, federation).confusions) == ["a", "b", "c"]


def test_more_than_thirty_classes_and_other_tasks_are_left_out(board: TensorBoardLogger, read: Read) -> None:
    federation = Federation({"a": tiny_participant(classes=31)})
    assert not examine(fit(federation, tiny_data("a")), federation).confusions
    federation = Federation({"a": line()})
    drawn = values(8, dtype=torch.float32)
    assert isinstance(drawn.inputs, Tensor)
    assert drawn.targets is not None
    known = {"a": Examples(drawn.inputs, drawn.targets.squeeze(1))}
    fit(federation, FederatedDataModule(known, known), logger=board)
    assert read().Tags()["images"] == ["residuals/a"]


def test_a_participant_keeps_its_mode_and_its_state() -> None:
    federation = tiny_federation()
    made = fit(federation, tiny_data(), 1)
    federation["a"].train()
    before = state_of(federation)
    examine(made, federation)
    assert federation["a"].training
    assert equal(before, state_of(federation))


def test_the_validation_limit_holds_for_the_pictures() -> None:
    federation = tiny_federation()
    made = fit(federation, tiny_data(eval_batch_size=2), 1, limit_val_batches=2)
    assert {int(matrix.sum()) for matrix in examine(made, federation).confusions.values()} == {4}
    federation = tiny_federation()
    assert not examine(fit(federation, tiny_data(), 1, limit_val_batches=0), federation).confusions


def test_of_many_participants_some_are_drawn(caplog: pytest.LogCaptureFixture) -> None:
    names = [f"site_{index}" for index in range(20)]
    federation = tiny_federation(names)
    made = fit(federation, tiny_data(names), 1)
    with caplog.at_level(logging.INFO, logger="hetfed_lightning"):
        assert list(examine(made, federation).confusions) == names[:16]
    assert "16 of 20 participants" in caplog.text


class Peculiar(Participant):
    """Validates in a way of its own, which nobody else knows."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        del batch, batch_idx
        self.log("val_accuracy", 0.5)

    def forward(self, inputs: Any) -> Tensor:
        if not self.training and len(inputs) == 6:  # the validation set
            self.refuse()
        return super().forward(inputs)

    def refuse(self) -> NoReturn:
        raise RuntimeError("not like this")


def test_a_picture_that_fails_does_not_end_the_run(
    board: TensorBoardLogger, read: Read, caplog: pytest.LogCaptureFixture
) -> None:
    federation = Federation({"a": Peculiar(nn.Linear(4, 3))})
    made = fit(federation, tiny_data("a", global_val=None), 1, logger=board)
    assert made.state.finished
    assert "not like this" in caplog.text
    assert read().Tags()["images"] == ["federation/label_distribution"]


def test_without_matplotlib_it_says_so_once_and_writes_the_rest(
    board: TensorBoardLogger, read: Read, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with caplog.at_level(logging.INFO, logger="hetfed_lightning"):
        fit(tiny_federation(), tiny_data(), 2, *together(), logger=board)
    assert caplog.text.count("hetfed-lightning[plots]") == 1
    tags = read().Tags()
    assert not tags["images"]
    assert "federation/participants/text_summary" in tags["tensors"]


# ------------------------------------------------------------------------------------------- where it stays


def test_other_loggers_get_numbers_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = CSVLogger(tmp_path, name="csv", version="0")
    with caplog.at_level(logging.INFO, logger="hetfed_lightning"):
        fit(tiny_federation(), tiny_data(), 1, logger=table)
    assert "confusion" not in (Path(table.log_dir) / "metrics.csv").read_text()
    assert "pictures" not in caplog.text


def test_a_fast_run_writes_nothing(board: TensorBoardLogger) -> None:
    federation = tiny_federation()
    made = trainer(3, *together(), FederationMonitor(config="a: 1"), logger=board, fast_dev_run=True)
    made.fit(federation, datamodule=tiny_data())
    assert not Path(board.log_dir).exists()


def test_only_the_first_process_writes(board: TensorBoardLogger, read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(L.Trainer, "is_global_zero", property(lambda _: False))
    fit(tiny_federation(), tiny_data(), 1, logger=board)
    tags = read().Tags()
    assert not tags["images"]
    assert not tags["tensors"]


def test_what_is_learned_does_not_depend_on_who_watches(board: TensorBoardLogger) -> None:
    states = []
    for logger in (False, board):
        federation = tiny_federation()
        fit(federation, tiny_data(), 2, *together(), logger=logger)
        states.append(state_of(federation))
    assert equal(*states)


def test_without_validation_there_is_nothing_to_confuse(
    board: TensorBoardLogger, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "hetfed_lightning"):
        fit(tiny_federation(), tiny_data(evaluated=False), 1, logger=board)
    assert not caplog.records


@pytest.mark.parametrize("prefix", ["", "run"])
def test_a_row_is_written_under_the_prefix_of_the_logger(prefix: str, tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path, prefix=prefix)
    fit(tiny_federation(), tiny_data(), 1, logger=logger)
    tags = EventAccumulator(logger.log_dir).Reload().Tags()["scalars"]
    assert f"{prefix}-train_loss/a".removeprefix("-") in tags
