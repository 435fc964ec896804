"""What a coordinator writes, beside what a fit of the same federation writes."""

import errno
import json
import logging
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger

from hetfed_lightning import (
    BackboneAveraging,
    EnsembleDistillation,
    FederatedCallback,
    FederatedDataModule,
    Federation,
    FederationMonitor,
    FederationView,
    Phase,
    RunRecord,
)
from hetfed_lightning.cli.run import run
from hetfed_lightning.cli.tables import participants_table
from hetfed_lightning.distillation import ClassPriorWeighted
from hetfed_lightning.flower.coordinator.averaging_rounds import AveragingRounds
from hetfed_lightning.flower.coordinator.journal import Journal
from hetfed_lightning.flower.protocol.description import Description
from hetfed_lightning.flower.site.site import Site, SiteParts
from hetfed_lightning.logs.run_record import FILE, Record
from tests.federations import NAMES, examples, fit, tiny_data, tiny_federation, tiny_participant
from tests.flower.events import images, layouts, scalars, texts
from tests.methods.own_methods import Common

CONFIG = "seed_everything: 5\ntrainer:\n  max_epochs: 3\n"
ROUNDS = 3
WRITE = "hetfed_lightning.flower.coordinator.event_file.write_all"


# ------------------------------------------------------------------------------------------------- making


def together() -> list[FederatedCallback]:
    return [EnsembleDistillation(ClassPriorWeighted(), batch_size=5), BackboneAveraging()]


def described(folder: Path, names: Sequence[str] = NAMES) -> dict[str, Description]:
    """What the sites of :func:`tests.federations.tiny_federation` tell."""

    def parts(name: str, index: int) -> Callable[[], SiteParts]:
        def make() -> SiteParts:
            federation = Federation({name: tiny_participant(seed=index)})
            # As many examples of the same seed as tiny_data gives the participant of this place.
            data = FederatedDataModule(
                {name: examples(12 + 4 * index, seed=index)}, public=examples(10, seed=300), batch_size=4
            )
            return SiteParts(federation, data, {"accelerator": "cpu"}, together(), ROUNDS)

        return make

    return {name: Site(parts(name, index), folder / name).describe() for index, name in enumerate(names)}


def arranged(descriptions: dict[str, Description]) -> list[FederatedCallback]:
    """The coordinator's own halves of the callbacks."""
    callbacks = together()
    averaging = callbacks[1]
    assert isinstance(averaging, BackboneAveraging)
    AveragingRounds(1, averaging, 0).arrange(descriptions)
    return callbacks


def site(name: str, **changes: Any) -> Description:
    """What a site might tell."""
    role = {
        "architecture": "Sequential + Linear", "optimizer": "SGD, lr 0.1", "weights": 43, "examples": 12,
        "local_epochs": 1, "joins_at": 0, "task": "multiclass", "headline": "accuracy", "higher_is_better": True,
    } | changes.pop("role", {})  # fmt: skip
    layout = {"backbone.weight": ((5, 4), "float32")}
    told = Description(
        name, 5, ("BackboneAveraging",), {0: layout}, {"head.weight": ((3, 5), "float32")}, (), (), "multiclass", 3,
        10, "", True, 12, (4, 8), 0, None, 0, role,
    )  # fmt: skip
    return replace(told, **changes)


def journal(folder: Path, **changes: Any) -> Journal:
    settings: dict[str, Any] = {"config": CONFIG, "name": "trial", "seed": 5, "rounds": ROUNDS}
    return Journal(folder, **settings | changes)


def averaging_of(*names: str) -> list[FederatedCallback]:
    callback = BackboneAveraging()
    AveragingRounds(0, callback, 0).arrange({name: site(name) for name in names})
    return [callback]


def begun(folder: Path, *names: str, **changes: Any) -> Journal:
    made = journal(folder, **changes)
    made.introduce({name: site(name) for name in names}, averaging_of(*names), 0)
    return made


def close(made: Journal, round_index: int, metrics: dict[str, float], left_out: dict[str, str] | None = None) -> None:
    made.close_round(round_index, {"federation/bytes_up": 100.0}, metrics, left_out or {}, 1.25)


# ------------------------------------------------------------------------------ as a fit would have written it


class LeavesOut(FederatedCallback):
    """Leaves b out of the first round."""

    phase = Phase.GUARD

    def on_round_end(self, trainer: L.Trainer, federation: FederationView, round_index: int) -> None:
        if round_index == 0:
            federation.quarantine("b", "it is a test")


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[FederatedCallback]]:
    """Where a fit has written, and its callbacks."""
    logger = TensorBoardLogger(tmp_path_factory.mktemp("local"), name="board", version="0")
    callbacks = together()
    fit(
        tiny_federation(seed=5), tiny_data(), ROUNDS, *callbacks, LeavesOut(), FederationMonitor(CONFIG),
        RunRecord(config=CONFIG, name="trial"), logger=logger,
    )  # fmt: skip
    logger.experiment.close()
    return Path(logger.log_dir), callbacks


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory, local: tuple[Path, list[FederatedCallback]]) -> Path:
    """Where a coordinator has written that heard the same numbers."""
    folder, known = tmp_path_factory.mktemp("ours"), scalars(local[0])
    descriptions = described(tmp_path_factory.mktemp("sites"))
    callbacks = arranged(descriptions)
    made = journal(folder)
    made.introduce(descriptions, callbacks, 0)
    methods = [f"bytes_{way}/{method}" for way in ("up", "down") for method in ("averaging", "distillation")]
    told = ("bytes_up", "bytes_down", "divergence", "teacher_agreement", "target_classes", *methods)
    for index in range(ROUNDS):
        values = {tag: points[index + 1] for tag, points in known.items() if index + 1 in points}
        figures = {key: values[key] for name in told if (key := f"federation/{name}") in values}
        own = {key: value for key, value in values.items() if not key.startswith(("federation/", "quarantined/"))}
        left_out = {"b": "it is a test"} if index == 0 else {}
        made.close_round(index, figures, own, left_out, values["federation/seconds_per_round"])
    asked, mine = local[1][0], callbacks[0]
    assert isinstance(asked, EnsembleDistillation)
    assert isinstance(mine, EnsembleDistillation)
    mine.agreement = asked.agreement
    made.finish()
    return folder


def test_tags_steps_and_values_are_those_of_a_fit(local: tuple[Path, Any], ours: Path) -> None:
    expected, found = scalars(local[0]), scalars(ours)
    expected.pop("hp_metric", None)  # TensorBoard's own, beside hyper-parameters, which sites keep.
    assert found.keys() == expected.keys()
    for tag, points in expected.items():
        assert found[tag] == pytest.approx(points, rel=1e-6), tag
    assert expected["quarantined/b"] == {1: 1, 2: 0, 3: 0}
    assert {
        "val_accuracy/a", "val_global_accuracy/a", "train_loss/c", "lr/b", "federation/val_accuracy_jain",
        "federation/seconds_per_round", "federation/participants",
    } <= found.keys()  # fmt: skip


def test_charts_pages_and_pictures_are_those_of_a_fit(local: tuple[Path, Any], ours: Path) -> None:
    assert layouts(ours)[-1] == layouts(local[0])[-1]
    assert texts(ours) == texts(local[0])
    assert set(texts(ours)) == {"federation/participants", "config", "federation/sharing"}
    expected = images(local[0])
    # Nobody here has seen anybody's validation data.
    assert images(ours) == {tag: one for tag, one in expected.items() if not tag.startswith("confusion_matrix/")}
    assert set(images(ours)) == {"federation/label_distribution", "federation/teacher_agreement_matrix"}


def test_the_record_is_that_of_a_fit(local: tuple[Path, Any], ours: Path) -> None:
    expected, found = Record.read(local[0]), Record.read(ours)
    assert [one["round"] for one in found.history] == [1, 2, 3]
    for one, other in zip(found.history, expected.history, strict=True):
        assert one["values"] == pytest.approx(other["values"], rel=1e-6)
    nothing: dict[str, Any] = {"history": [], "confusions": {}, "where": ""}
    assert replace(found, **nothing) == replace(expected, **nothing)
    assert (found.finished, found.total, found.arm) == (True, 3, "federation")
    assert found.left_out == [{"round": 1, "participant": "b", "reason": "it is a test"}]
    assert found.participants["a"]["shared_bytes"] == 100


def test_a_report_is_made_of_it(ours: Path, tmp_path: Path) -> None:
    assert run(["report", str(ours), "-o", str(tmp_path / "report.html")]) == 0
    page = (tmp_path / "report.html").read_text()
    for words in ("trial", "it is a test", "Sequential + Linear", "3 participants, 3 rounds, seed 5"):
        assert words in page


def test_the_table_is_that_of_a_fit(local: tuple[Path, Any], tmp_path: Path) -> None:
    values = {tag: points[ROUNDS] for tag, points in scalars(local[0]).items() if ROUNDS in points}
    made = begun(tmp_path, *NAMES)
    assert made.table() == ""
    close(made, 0, values | {"val_accuracy/a": 0.125})
    close(made, 1, values)
    assert made.table() == participants_table(values, NAMES, "val").text()
    assert made.table().splitlines()[0].split() == ["participant", "own", "accuracy", "global", "accuracy", "own",
                                                    "loss", "global", "loss"]  # fmt: skip


# --------------------------------------------------------------------------------------------------- the log


def test_a_round_is_a_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = begun(tmp_path, "a", "b", "c", "hospital_d", rounds=15)
    caplog.clear()
    with caplog.at_level(logging.INFO, "hetfed_lightning.flower"):
        metrics = {"val_accuracy/a": 0.9, "val_accuracy/b": 0.85, "val_accuracy/hospital_d": 0.71}
        made.close_round(2, {}, metrics, {"c": "it did not answer within 60 s"}, 12.34)
    assert [(one.levelname, one.getMessage()) for one in caplog.records] == [
        ("INFO", "Round 3/15 · 3 of 4 participants · val_accuracy mean 0.82, worst 0.71 (hospital_d) · 12.3 s"),
    ]


@pytest.mark.parametrize(
    ("metrics", "line"),
    [
        ({}, "Round 1/3 · 2 of 2 participants · 1.2 s"),
        ({"val_accuracy/a": math.nan, "val_accuracy/b": 0.5}, "val_accuracy mean -, worst - (a)"),
        ({"val_global_accuracy/a": 0.5, "val_global_accuracy/b": 1.0}, "val_global_accuracy mean 0.75, worst 0.5 (a)"),
        ({"val_global_accuracy/a": 0.25, "val_accuracy/b": 1.0}, "participants · val_accuracy mean 1, worst 1 (b) · 1"),
    ],
)
def test_the_line_tells_what_there_is(
    metrics: dict[str, float], line: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = begun(tmp_path, "a", "b")
    with caplog.at_level(logging.INFO, "hetfed_lightning.flower"):
        close(made, 0, metrics)
    assert line in caplog.records[-1].getMessage()


# ----------------------------------------------------------------------------------------- figures of a round


def test_a_figure_that_the_coordinator_tells_is_the_one_that_counts(tmp_path: Path) -> None:
    made = begun(tmp_path, "a", "b", "c")
    close(made, 0, {}, {"c": "late"})
    made.close_round(1, {"federation/participants": 1.0, "federation/divergence": math.nan}, {}, {}, math.nan)
    found = scalars(tmp_path)
    assert found["federation/participants"] == {1: 2, 2: 1}  # As with Federation(participation=...): one was drawn.
    assert found["federation/quarantined"] == {1: 1, 2: 0}
    assert "federation/divergence" not in found
    assert found["federation/seconds_per_round"] == {1: 1.25}


def test_a_number_that_is_none_is_shown_and_not_averaged(tmp_path: Path) -> None:
    made = begun(tmp_path, "a", "b")
    close(made, 0, {"val_accuracy/a": 0.75, "val_accuracy/b": 0.5})
    close(made, 1, {"val_accuracy/a": math.nan, "val_accuracy/b": 0.5, "val_loss/a": math.inf})
    made.finish()
    found = scalars(tmp_path)
    assert math.isnan(found["val_accuracy/a"][2])
    assert found["federation/val_accuracy_mean"] == {1: 0.625}
    assert [one["values"].get("val_accuracy/a") for one in Record.read(tmp_path).history] == [0.75, None]
    # A dash, not the round before.
    assert made.table().splitlines()[2].split() == ["a", "-", "inf"]


def test_a_site_tells_of_itself_alone(tmp_path: Path) -> None:
    made = begun(tmp_path, "a", "b")
    close(made, 0, {"quarantined/a": 1.0, "val_accuracy/stranger": 1.0, "step": 3.0, "federation/a": 9.0, "lr/a": 0.1})
    found = scalars(tmp_path)
    assert {tag for tag in found if tag.endswith(("a", "stranger", "step"))} == {"lr/a"}
    assert not any(key.startswith("lr") for key in Record.read(tmp_path).history[0]["values"])


def test_the_student_is_measured_and_not_counted(tmp_path: Path) -> None:
    made = journal(tmp_path)
    made.introduce({name: site(name) for name in ("a", "b", "student")}, averaging_of("a", "b"), 0)
    close(made, 0, {"val_global_accuracy/a": 0.5, "val_global_accuracy/student": 0.75})
    found = scalars(tmp_path)
    assert found["val_global_accuracy/student"] == {1: 0.75}
    assert found["federation/val_global_accuracy_mean"] == {1: 0.5}
    assert found["federation/participants"] == {1: 2}
    assert made.table().splitlines()[-2].split() == ["student", "0.750"]


def test_names_that_begin_others_and_names_that_are_odd(tmp_path: Path) -> None:
    names = ["site_1", "site_10", "St-Élisabeth", "a|b", "<b>", "x y"]
    made = begun(tmp_path, *names)
    close(made, 0, {f"val_accuracy/{name}": 0.5 for name in names}, {"a|b": "too <slow> | late"})
    made.finish()
    found = scalars(tmp_path)
    assert all(found[f"val_accuracy/{name}"] == {1: 0.5} for name in names)
    assert layouts(tmp_path)[-1]["participants"]["val_accuracy"][:2] == ["val_accuracy/site_1$", "val_accuracy/site_10"]
    assert list(Record.read(tmp_path).participants) == names
    [(_, page)] = texts(tmp_path)["federation/participants"]
    assert {line.count("|") for line in page.splitlines()} == {9}
    assert run(["report", str(tmp_path), "-o", str(tmp_path / "report.html")]) == 0


@pytest.mark.parametrize(
    "role",
    [
        {},
        {"weights": "many", "examples": -1, "local_epochs": 1.5, "architecture": None, "headline": 3},
        {"architecture": "A | B\n| C | <script>" + "x" * 5000, "optimizer": "`", "headline": "acc|uracy"},
    ],
)
def test_what_a_site_says_of_itself_breaks_nothing(role: dict[str, Any], tmp_path: Path) -> None:
    made = journal(tmp_path)
    told = site("a", role=role) if role else replace(site("a"), role={}, samples=-3, joins_at=True)
    made.introduce({"a": told, "b": site("b")}, averaging_of("a", "b"), 0)
    close(made, 0, {"val_accuracy/a": 0.5})
    made.finish()
    found = Record.read(tmp_path)
    assert len(found.participants["a"]["architecture"]) <= 200
    assert all(found.participants["a"][key] in (0, 1, 12, 43) for key in ("weights", "examples", "local_epochs"))
    [(_, page)] = texts(tmp_path)["federation/participants"]
    assert {line.count("|") for line in page.splitlines()} == {9}
    assert run(["report", str(tmp_path), "-o", str(tmp_path / "report.html")]) == 0


# ------------------------------------------------------------------------------------------- who comes and goes


def test_newcomers_are_introduced_when_they_come(tmp_path: Path) -> None:
    made = journal(tmp_path)
    made.introduce({name: site(name) for name in ("a", "b", "c")}, averaging_of("a", "b", "c"), 0)
    made.introduce({"a": site("a"), "b": site("b"), "c": site("c", leaves_at=1)}, averaging_of("a", "b", "c"), 0)
    close(made, 0, {"val_accuracy/a": 0.5, "val_accuracy/c": 0.25})
    made.introduce({"d": site("d", joins_at=2, class_counts=(1, 2, 3))}, averaging_of("a", "b", "d"), 1)
    close(made, 1, {"val_accuracy/a": 0.5})
    close(made, 2, {"val_accuracy/a": 0.5, "val_accuracy/d": 0.5})
    made.finish()
    assert scalars(tmp_path)["federation/participants"] == {1: 3, 2: 2, 3: 3}
    found = Record.read(tmp_path)
    assert (list(found.participants), found.total) == (["a", "b", "c", "d"], 4)
    assert found.participants["d"]["shared_with"] == ["a", "b"]
    assert found.label_counts == {"a": [4, 8], "b": [4, 8], "c": [4, 8], "d": [1, 2, 3]}
    assert len(found.history) == 3
    # Pages and pictures stand there once, and again as others join.
    assert [step for step, _ in texts(tmp_path)["federation/participants"]] == [0, 1]
    assert [step for step, _ in texts(tmp_path)["config"]] == [0]
    assert [step for step, _, _ in images(tmp_path)["federation/label_distribution"]] == [0, 1]
    assert layouts(tmp_path)[-1]["participants"]["val_accuracy"][-1] == "val_accuracy/d"


def test_of_many_participants_the_first_ones_are_described(tmp_path: Path) -> None:
    names = [f"site_{index:03d}" for index in range(203)]
    made = begun(tmp_path, *names)
    close(made, 0, {f"val_accuracy/{name}": 0.5 for name in names})
    found = Record.read(tmp_path)
    assert (len(found.participants), found.total) == (200, 203)
    assert texts(tmp_path)["federation/participants"][0][1].endswith("and 3 more")
    assert scalars(tmp_path)["federation/participants"] == {1: 203}


# ------------------------------------------------------------------------------------------ runs that go on


def test_a_run_that_goes_on_keeps_its_rounds_and_makes_others_again(tmp_path: Path) -> None:
    made = begun(tmp_path, "a", "b", "c")
    for index in range(3):
        close(made, index, {"val_accuracy/a": 0.25 * index}, {"b": "power cut"} if index != 1 else {})
    again = journal(tmp_path, rounds=4)
    again.introduce({name: site(name) for name in ("a", "b")}, averaging_of("a", "b"), 2)  # c has left for good.
    assert again.table().splitlines()[-1].split() == ["a", "0.250"]
    close(again, 2, {"val_accuracy/a": 0.875})
    close(again, 3, {"val_accuracy/a": 1.0})
    again.finish()
    found = Record.read(tmp_path)
    assert [(one["round"], one["values"]["val_accuracy/a"]) for one in found.history] == [
        (1, 0), (2, 0.25), (3, 0.875), (4, 1.0)
    ]  # fmt: skip
    assert [(one["round"], one["participant"]) for one in found.left_out] == [(1, "b")]
    assert (found.rounds, found.finished, list(found.participants)) == (4, True, ["a", "b", "c"])
    board = scalars(tmp_path)
    assert board["val_accuracy/a"] == {1: 0, 2: 0.25, 3: 0.875, 4: 1}
    assert board["quarantined/b"] == {1: 1, 2: 0, 3: 0, 4: 0}
    assert board["federation/participants"] == {1: 2, 2: 3, 3: 2, 4: 2}
    assert not list(tmp_path.glob("*.before.json"))
    # Pages and pictures that have not changed stand there once.
    assert {name: [step for step, _ in pages] for name, pages in texts(tmp_path).items()} == {
        "config": [0], "federation/participants": [0, 2], "federation/sharing": [0, 2],
    }  # fmt: skip
    assert [step for step, _, _ in images(tmp_path)["federation/label_distribution"]] == [0]


def test_a_round_that_was_written_before_a_kill_is_written_once(tmp_path: Path) -> None:
    made = begun(tmp_path, "a", "b")
    for index in range(3):
        close(made, index, {"val_accuracy/a": 0.25 * index}, {"b": "late"} if index == 2 else {})
    # The coordinator was killed in round 3, and had kept its own state at the end of round 2: its figures come later.
    again = journal(tmp_path, rounds=4)
    again.introduce({name: site(name) for name in ("a", "b")}, averaging_of("a", "b"), 3)
    close(again, 2, {"val_accuracy/a": 0.5}, {"b": "late"})
    close(again, 3, {"val_accuracy/a": 1.0})
    assert scalars(tmp_path)["val_accuracy/a"] == {1: 0, 2: 0.25, 3: 0.5, 4: 1}
    assert scalars(tmp_path)["quarantined/b"] == {3: 1, 4: 0}
    found = Record.read(tmp_path)
    assert ([one["round"] for one in found.history], len(found.left_out)) == ([1, 2, 3, 4], 1)
    assert [step for step, _ in texts(tmp_path)["federation/sharing"]] == [0, 3]


def test_a_run_that_goes_on_and_fails_at_once_loses_nothing(tmp_path: Path) -> None:
    close(begun(tmp_path, "a", "b"), 0, {"val_accuracy/a": 0.5})
    again = journal(tmp_path)
    again.introduce({name: site(name) for name in ("a", "b")}, averaging_of("a", "b"), 1)
    again.fail("nobody came back.")
    assert scalars(tmp_path)["val_accuracy/a"] == {1: 0.5}
    assert [step for step, _ in texts(tmp_path)["federation/sharing"]] == [0, 1]
    assert len(Record.read(tmp_path).history) == 1


def test_a_configuration_that_has_changed_is_shown_again(tmp_path: Path) -> None:
    close(begun(tmp_path, "a", "b"), 0, {})
    again = journal(tmp_path, config="trainer:\n  max_epochs: 9\n", rounds=9)
    again.introduce({"a": site("a"), "b": site("b", class_counts=(1, 1))}, averaging_of("a", "b"), 1)
    again.finish()
    assert [step for step, _ in texts(tmp_path)["config"]] == [0, 1]
    assert [step for step, _, _ in images(tmp_path)["federation/label_distribution"]] == [0, 1]
    assert (Record.read(tmp_path).config, Record.read(tmp_path).rounds) == ("trainer:\n  max_epochs: 9\n", 9)


@pytest.mark.parametrize("change", [{"name": "other"}, {"seed": 6}, {"arm": "local_only"}, {}])
def test_another_run_s_record_is_kept_beside(
    change: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = begun(tmp_path, "a", "b", "c")
    close(made, 0, {"val_accuracy/a": 0.5})
    made.finish()
    again = begun(tmp_path, "a", "b", **change)
    close(again, 0, {"val_accuracy/a": 0.75})
    assert "is of an earlier run: it is kept as record.before.json" in caplog.text
    assert Record.read(tmp_path / "record.before.json").finished
    found = Record.read(tmp_path)
    assert (len(found.history), found.finished, list(found.participants), found.total) == (1, False, ["a", "b"], 2)
    assert scalars(tmp_path)["val_accuracy/a"] == {1: 0.75}


def test_a_damaged_record_costs_its_history_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    close(begun(tmp_path, "a", "b"), 0, {"val_accuracy/a": 0.5})
    (tmp_path / FILE).write_text("{")
    again = journal(tmp_path)
    again.introduce({name: site(name) for name in ("a", "b")}, averaging_of("a", "b"), 1)
    close(again, 1, {"val_accuracy/a": 0.75})
    assert "the record is damaged" in caplog.text
    assert [one["round"] for one in Record.read(tmp_path).history] == [2]
    assert scalars(tmp_path)["val_accuracy/a"] == {1: 0.5, 2: 0.75}


# ------------------------------------------------------------------------------------------- what goes wrong


def test_a_run_that_fails_leaves_what_it_had(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = begun(tmp_path, "a", "b")
    close(made, 0, {"val_accuracy/a": 0.5})
    made.fail("2 of 4 participants answered, and min_participants is 3.")
    assert "The run ends after 1 of 3 rounds: 2 of 4 participants answered" in caplog.text
    found = Record.read(tmp_path)
    assert (found.finished, len(found.history)) == (False, 1)
    assert scalars(tmp_path)["val_accuracy/a"] == {1: 0.5}


def test_a_run_that_fails_before_anybody_was_heard_writes_nothing(tmp_path: Path) -> None:
    journal(tmp_path / "run").fail("nobody came.")
    assert not list(tmp_path.iterdir())
    with pytest.raises(RuntimeError, match=r"expected introduce\(\) before"):
        close(journal(tmp_path), 0, {})


@pytest.mark.promise("full")
def test_a_full_disk_costs_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(WRITE, full)
        patched.setattr(Record, "write", full)
        made = begun(tmp_path, "a", "b")
        close(made, 0, {"val_accuracy/a": 0.5})
        made.fail("a test.")
        assert f"TensorBoard's events in {tmp_path} could not be written: No space left on device" in caplog.text
        assert f"The record in {tmp_path} could not be written: No space left on device. The run goes on" in caplog.text
    close(made, 1, {"val_accuracy/a": 0.75})
    assert scalars(tmp_path)["val_accuracy/a"] == {1: 0.5, 2: 0.75}
    assert len(Record.read(tmp_path).history) == 2


def test_a_folder_that_cannot_be_written_to_is_refused_at_once_and_borne_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def denied(*_: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(WRITE, denied)
        with pytest.raises(PermissionError):
            begun(tmp_path / "first", "a", "b")
    made = begun(tmp_path / "second", "a", "b")
    with monkeypatch.context() as patched:
        patched.setattr(WRITE, denied)
        patched.setattr(Record, "write", denied)
        close(made, 0, {"val_accuracy/a": 0.5})
        made.finish()
    assert caplog.text.count("Permission denied. The run goes on.") == 4


def test_a_picture_that_fails_costs_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(counts: Any) -> None:
        raise ValueError("too many colours")

    monkeypatch.setattr("hetfed_lightning.plots.label_distribution", broken)
    made = begun(tmp_path, "a", "b")
    close(made, 0, {"val_accuracy/a": 0.5})
    assert "The picture federation/label_distribution could not be drawn" in caplog.text
    assert not images(tmp_path)


def test_without_matplotlib_it_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with caplog.at_level(logging.INFO, "hetfed_lightning"):
        made = begun(tmp_path, "a", "b")
        made.introduce({"c": site("c")}, averaging_of("a", "b", "c"), 0)
    assert caplog.text.count("hetfed-lightning[plots]") == 1
    assert not images(tmp_path)


def test_the_file_is_plain_json(tmp_path: Path) -> None:
    made = begun(tmp_path, "a", "b")
    distilling = EnsembleDistillation()
    distilling.agreement = (("a", "b"), torch.tensor([[1.0, math.nan], [math.nan, 1.0]]))
    made.introduce({}, [distilling], 0)
    made.finish()
    content = json.loads((tmp_path / FILE).read_text())
    assert content["agreement"] == {"names": ["a", "b"], "matrix": [[1.0, None], [None, 1.0]]}


def test_means_of_a_methods_further_models_are_in_the_journal(tmp_path: Path) -> None:
    made = journal(tmp_path)
    made.introduce({name: site(name) for name in "ab"}, [Common()], 0)
    figures = {"accuracy": (0.5, 0.25), "accuracy.common": (0.75, 1.0), "loss.common": (1.0, 3.0)}
    close(
        made, 0, {f"val_{key}/{name}": pair[place] for key, pair in figures.items() for place, name in enumerate("ab")}
    )
    made.finish()
    found = scalars(tmp_path)
    means = {key: one for key, one in found.items() if "common" in key and "mean" in key}
    assert means == {"federation/val_accuracy.common_mean": {1: 0.875}, "federation/val_loss.common_mean": {1: 2.0}}
    assert found["val_loss.common/b"] == {1: 3.0}
    assert "own accuracy.common" in made.table()
