"""A run's record against the run's own numbers, and files that are none."""

import errno
import json
import math
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

import hetfed_lightning
from hetfed_lightning import (
    BackboneAveraging,
    EnsembleDistillation,
    FederatedCallback,
    FederatedDataModule,
    Federation,
    FederationView,
    RunRecord,
)
from hetfed_lightning.callbacks.confusions import MAX_POINTS, examine
from hetfed_lightning.data import Examples
from hetfed_lightning.layers import Standardise
from hetfed_lightning.logs.run_record import FILE, Record, RecordError
from tests.federations import fit, line, tiny_data, tiny_federation, trainer, values


class Heard(FederatedCallback):
    """Keeps every figure that a run makes."""

    def __init__(self) -> None:
        self.val: list[dict[str, float]] = []
        self.bytes: list[tuple[int, int]] = []

    def on_metrics(self, trainer: L.Trainer, federation: FederationView, stage: Any, values: Any) -> None:
        if stage == "val":
            self.val.append(dict(values))

    def on_round_end(self, trainer: L.Trainer, federation: FederationView, round_index: int) -> None:
        self.bytes.append((federation.bytes_up, federation.bytes_down))


def test_the_record_holds_the_run_s_own_numbers(tmp_path: Path) -> None:
    heard, federation, data = Heard(), tiny_federation(seed=5), tiny_data()
    made = fit(
        federation, data, 2, heard, EnsembleDistillation(batch_size=5), BackboneAveraging(),
        RunRecord(str(tmp_path), config="seed: 5", name="ours"),
    )  # fmt: skip
    made.test(federation, datamodule=data, verbose=False)
    record = Record.read(tmp_path)
    assert (record.name, record.seed, record.rounds, record.finished) == ("ours", 5, 2, True)
    assert (record.version, record.config, record.total) == (hetfed_lightning.__version__, "seed: 5", 3)
    for index, one in enumerate(record.history):
        assert one["round"] == index + 1
        for key, value in heard.val[index].items():
            assert one["values"][key] == pytest.approx(value)
        assert (one["values"]["federation/bytes_up"], one["values"]["federation/bytes_down"]) == heard.bytes[index]
        own = [heard.val[index][f"val_accuracy/{name}"] for name in "abc"]
        assert one["values"]["federation/val_accuracy_mean"] == pytest.approx(sum(own) / 3)
        assert {"federation/divergence", "federation/teacher_agreement", "federation/quarantined"} <= set(one["values"])
    assert record.test["test_global_accuracy/b"] == pytest.approx(
        float(made.callback_metrics["test_global_accuracy/b"])
    )
    # tiny_data: 12, 16 and 20 training examples. tiny_participant: 4 * 5 + 5 shared, 5 * 3 + 3 of its own.
    roles = record.participants
    assert [roles[name]["examples"] for name in "abc"] == [12, 16, 20]
    assert (roles["a"]["weights"], roles["a"]["shared_bytes"]) == (43, 100)
    assert roles["a"]["shared_with"] == ["b", "c"]
    assert (roles["a"]["optimizer"], roles["a"]["headline"], roles["a"]["task"]) == (
        "SGD, lr 0.1",
        "accuracy",
        "multiclass",
    )
    assert [sum(record.label_counts[name]) for name in "abc"] == [12, 16, 20]
    assert record.confusions == {k: v.tolist() for k, v in examine(made, federation).confusions.items()}
    assert record.where == "everyone's validation set"
    assert record.agreement["names"] == ["a", "b", "c"]
    assert [record.agreement["matrix"][index][index] for index in range(3)] == [1, 1, 1]
    points = record.series("val_accuracy")["a"]
    assert [place for place, _ in points] == [1, 2]
    assert [value for _, value in points] == pytest.approx([one["val_accuracy/a"] for one in heard.val])


@pytest.mark.parametrize("standardised", [False, True])
def test_a_regression_keeps_true_and_predicted_values(tmp_path: Path, standardised: bool) -> None:
    drawn = values(2 * MAX_POINTS + 1, dtype=torch.float32)
    data = {"a": Examples(drawn.inputs, drawn.targets)}
    federation = Federation({"a": line()})
    if standardised:  # The figures stay in the unit of the data.
        federation["a"].target_transform = Standardise(None if drawn.targets is None or drawn.targets.ndim == 1 else 1)
    fit(federation, FederatedDataModule(data, data, batch_size=100), 1, RunRecord(str(tmp_path)))
    record = Record.read(tmp_path)
    true, predicted = record.residuals["a"]
    # 801 values, every third: 267, at most 400.
    assert drawn.targets is not None
    assert true == pytest.approx(drawn.targets.flatten()[::3].tolist(), abs=1e-5)
    assert isinstance(drawn.inputs, torch.Tensor)
    with torch.no_grad():
        own = federation["a"].predict(drawn.inputs).flatten()[::3].tolist()
        assert predicted == pytest.approx(own, abs=1e-5)
    assert not record.confusions


def test_it_goes_into_the_log_folder_and_nowhere_without_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fit(tiny_federation(), tiny_data(), 1, RunRecord())
    assert not list(tmp_path.iterdir())
    logger = CSVLogger(tmp_path, name="logs", version="0")
    fit(tiny_federation(), tiny_data(), 1, RunRecord(), logger=logger)
    assert Record.read(tmp_path / "logs" / "0").finished


def test_a_run_that_fails_leaves_what_it_had(tmp_path: Path) -> None:
    class Fails(FederatedCallback):
        def on_round_end(self, trainer: L.Trainer, federation: FederationView, round_index: int) -> None:
            if round_index == 1:
                raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        trainer(3, Fails(), RunRecord(str(tmp_path))).fit(tiny_federation(), datamodule=tiny_data())
    record = Record.read(tmp_path)
    assert (record.finished, [one["round"] for one in record.history]) == (False, [1])
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


@pytest.mark.promise("full")
def test_a_full_disk_costs_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(record: Record, folder: Path) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Record, "write", full)
    with caplog.at_level("WARNING", "hetfed_lightning"):
        made = trainer(2, RunRecord(str(tmp_path)))
        made.fit(tiny_federation(), datamodule=tiny_data())
    assert made.current_epoch == 2
    assert "could not be written: No space left on device. Training goes on." in caplog.text


def test_numbers_that_are_none_survive_a_round_trip(tmp_path: Path) -> None:
    record = Record("a", "1", test={"test_r2/a": math.nan, "test_r2/b": 0.5})
    record.write(tmp_path)
    assert "NaN" not in (tmp_path / FILE).read_text()
    found = Record.read(tmp_path / FILE)
    assert math.isnan(found.test["test_r2/a"])
    assert found.test["test_r2/b"] == 0.5


def test_a_record_of_before_anybody_was_left_out_is_read(tmp_path: Path) -> None:
    path = Record("a", "1").write(tmp_path)
    content = json.loads(path.read_text())
    del content["left_out"]
    path.write_text(json.dumps(content))
    assert Record.read(tmp_path).left_out == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (None, r"there is no record of a run\. Name the folder"),
        ("{", r"damaged \("),
        ("[]", r"no number under 'format'"),
        ("[" * 100_000, "nested too deep"),
        ('{"format": ' + "9" * 5000 + "}", r"damaged \(Exceeds the limit"),
        ({"name": "\ud800"}, "damaged .*surrogates not allowed"),
        ({"test": {"a": 10**400}}, "damaged .*too large"),
        ({"history": [{"round": 1.5, "values": {}}]}, "'history': expected a whole number"),
        ({"history": [{"round": 10**40, "values": {}}]}, "'history': expected a whole number"),
        ({"rounds": 10**40}, "'rounds': expected a whole number"),
        ({"participants": {"a": {"shared_with": [1]}}}, "shared_with: expected a list of names"),
        ({"agreement": {"names": [1], "matrix": [[1.0]]}}, "'agreement': expected a list of names"),
        ({"residuals": {"a": [[10**400], [2.0]]}}, "'residuals' of 'a': expected a list of numbers"),
        ({"format": 99}, r"form 99, and this version reads 1: upgrade"),
        ({"history": 3}, r"expected list under 'history', got int"),
        ({"history": [{"round": 1}]}, r"damaged \(KeyError\('values'\)\)"),
        ({"test": {"a": "high"}}, "damaged"),
        ({"participants": {"a": {"weights": "many"}}}, "of 'a': expected a whole number under 'weights'"),
        ({"confusions": {"a": [[1, 2], [3]]}}, "'confusions' of 'a': expected a square matrix"),
        ({"residuals": {"a": [[1.0], [2.0, 3.0]]}}, "'residuals' of 'a': expected two lists of one length"),
        ({"agreement": {"names": ["a", "b"], "matrix": [[1.0]]}}, "'agreement': expected a square matrix"),
        ({"label_counts": {"a": ["few"]}}, "'label_counts' of 'a'"),
        ({"left_out": [{"round": "first", "participant": "a", "reason": ""}]}, "'left_out': expected a whole number"),
        ("without", r"nothing under 'participants'"),
    ],
)  # fmt: skip
def test_what_is_no_record_is_refused(tmp_path: Path, change: Any, words: str) -> None:
    path = Record("a", "1").write(tmp_path)
    content = json.loads(path.read_text())
    if change is None:
        path.unlink()
    elif change == "without":
        del content["participants"]
        path.write_text(json.dumps(content))
    else:
        path.write_text(change if isinstance(change, str) else json.dumps(content | change))
    with pytest.raises(RecordError, match=words) as refused:
        Record.read(tmp_path)
    assert FILE in str(refused.value)


def test_numbers_that_are_none_are_written_and_read_back(tmp_path: Path) -> None:
    record = Record("a", "1", rounds=-1, residuals={"a": [[1.0, math.nan], [math.inf, 2.0]]})
    record.agreement = {"names": ["a", "b"], "matrix": [[1.0, math.nan], [math.nan, 1.0]]}
    record.write(tmp_path)
    found = Record.read(tmp_path)
    assert [math.isnan(value) for part in found.residuals["a"] for value in part] == [False, True, True, False]
    assert math.isnan(found.agreement["matrix"][0][1])
    assert found.rounds == -1
