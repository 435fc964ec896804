"""``hetfed predict`` as one table: on test sets, on new rows, and refusals before anything is predicted."""

import csv
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from hetfed_lightning import load_participant
from tests.cli.commands import Ended, hetfed, made_once, tiny, written

SAVED = Path("runs/tiny/version_0/checkpoints/last.ckpt")
NEW = ["sick;z;patient;x;site", "yes;1;007;0,5;b", "no;0;008;-0,5;a", ";1;009;2;b"]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Two participants of one table with semicolons and decimal commas, trained."""
    config = tiny(("a", "b"))
    logger = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "runs", "name": "tiny"}}
    config["trainer"] |= {"logger": logger, "enable_checkpointing": True}
    config["trainer"]["callbacks"].append(
        {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": {"filename": "last"}}
    )
    settings: dict[str, Any] = {"path": "wards.csv", "target": "sick", "participant_column": "site"}
    settings |= {"features": ["x", "z"], "separator": ";", "decimal": ",", "batch_size": 8}
    config["data"] = {"class_path": "hetfed_lightning.data.TableDataModule", "init_args": settings}
    for one in config["model"]["participants"].values():
        one["init_args"]["backbone"]["init_args"]["in_features"] = 2

    def fit() -> None:
        rows = [f"{'ab'[i % 2]};{i % 5},5;{i % 3};{('no', 'yes')[i // 2 % 2]}" for i in range(60)]
        Path("wards.csv").write_text("\n".join(["site;x;z;sick", *rows]), encoding="utf-8")
        ended = hetfed(capsys, "fit", "-c", written(config))
        assert ended.code == 0, ended.err

    made_once("wards", fit, tmp_path_factory)


def predict(capsys: pytest.CaptureFixture[str], *options: str | Path, file: list[str] | None = None) -> Ended:
    if file is not None:
        Path("new.csv").write_text("\n".join(file), encoding="utf-8")
        options = ("--input", "new.csv", *options)
    return hetfed(capsys, "predict", "-c", "config.yaml", "--ckpt_path", SAVED, *options)


def cells(path: str | Path) -> list[list[str]]:
    with Path(path).open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def test_test_sets_are_traced_to_the_rows_of_the_table(capsys: pytest.CaptureFixture[str], run: None) -> None:
    ended = predict(capsys)
    assert ended.code == 0, ended.err
    folder = Path("runs/tiny/version_1")
    assert f"All predictions: {folder / 'predictions.csv'}" in ended.out
    header, *found = cells(folder / "predictions.csv")
    assert header[:4] == ["row", "participant", "truth", "predicted"]
    assert header[4:6] == ["probability_no", "probability_yes"]
    table = [line.split(";") for line in Path("wards.csv").read_text(encoding="utf-8").splitlines()]
    assert all((table[int(row)][0], table[int(row)][3]) == (owner, truth) for row, owner, truth, *_ in found)
    by_participant = [row for name in "ab" for row in cells(folder / "predictions" / f"{name}.csv")[1:]]
    assert [row[3] for row in found] == [row[2] for row in by_participant]
    assert {row[1] for row in found} == {"a", "b"}


def test_a_part_of_the_test_sets_is_traced_too(capsys: pytest.CaptureFixture[str], run: None) -> None:
    few = ("--trainer.limit_predict_batches", "1", "--data.init_args.eval_batch_size", "2")
    assert predict(capsys, "--output", "all.csv").code == predict(capsys, "--output", "few.csv", *few).code == 0
    found, whole = cells("few.csv"), cells("all.csv")
    assert len(found) == 1 + 2 * 2
    assert all(row[:3] in [other[:3] for other in whole] for row in found)


def test_each_new_row_is_predicted_by_the_participant_that_it_names(
    capsys: pytest.CaptureFixture[str], run: None
) -> None:
    ended = predict(capsys, "--id", "patient", "--output", "out/new.csv", file=NEW)
    assert ended.code == 0, ended.err
    header, *found = cells("out/new.csv")
    assert header[:5] == ["id", "row", "participant", "truth", "predicted"]
    assert [row[:4] for row in found] == [["007", "1", "b", "yes"], ["008", "2", "a", "no"], ["009", "3", "b", ""]]
    options = ("--ckpt_path", SAVED, "--participant", "b", "--output", "b")
    assert hetfed(capsys, "export", "-c", "config.yaml", *options).code == 0
    alone = load_participant("b").predict_table(pd.read_csv("new.csv", sep=";", decimal=","))
    assert predict(capsys, "--participant", "b", "--output", "all.csv", file=NEW).code == 0
    together = pd.read_csv("all.csv")
    pd.testing.assert_frame_equal(together, alone, check_dtype=False, rtol=1e-6)
    assert alone.loc[[0, 2], "predicted"].tolist() == [found[0][4], found[2][4]]
    pd.testing.assert_frame_equal(pd.read_csv("out/new.csv").loc[[0, 2], together.columns], together.loc[[0, 2]])


def test_sites_are_called_as_the_configuration_renames_them(capsys: pytest.CaptureFixture[str], run: None) -> None:
    renamed = ("--data.init_args.rename", "{Zürich: b, Genf: a}", "--output", "new.out.csv")
    ended = predict(capsys, *renamed, file=[NEW[0], "yes;1;007;0,5;Zürich ", "no;0;008;-0,5;a"])
    assert ended.code == 0, ended.err
    assert [row[1] for row in cells("new.out.csv")[1:]] == ["b", "a"]


@pytest.mark.parametrize(
    ("file", "options", "words"),
    [
        (
            [*NEW, "no;0;4;1;bb"],
            (),
            "new.csv: column 'site' names 'bb' in row 4, and there is no such participant; did you",
        ),
        ([NEW[0].replace("x", "xx"), *NEW[1:]], (), "new.csv, participant 'b': has no column 'x'; did you mean 'xx'?"),
        ([*NEW, "no;0;4;old;a"], (), "expected numbers in column 'x', as in training, got 'old' in row 4"),
        ([*NEW, "no;;4;1;a"], (), "new.csv, participant 'a': a missing value in column 'z', row 4"),
        ([NEW[0].replace("site", "place"), *NEW[1:]], (), "who is to predict? Give --participant NAME, one of a, b"),
        (NEW, ("--participant", "bb"), "--participant: no participant 'bb'; did you mean 'b'?"),
        (NEW, ("--id", "patients"), "new.csv: has no column 'patients'; did you mean 'patient'?"),
        (NEW, ("--output", "new.txt"), "--output: expected a file that ends in .csv, .parquet or .pq, got new.txt"),
        (None, ("--id", "patient"), "--id: names a column of the file of --input; give --input as well"),
        (None, ("--input", "absent.csv"), "absent.csv: no such table file"),
    ],
)
def test_what_cannot_be_predicted_is_refused_by_file_and_column(
    capsys: pytest.CaptureFixture[str], run: None, file: list[str] | None, options: tuple[str, ...], words: str
) -> None:
    ended = predict(capsys, *options, file=file)
    assert ended.code == 2
    assert words in ended.err


def test_new_rows_need_a_checkpoint(capsys: pytest.CaptureFixture[str], run: None) -> None:
    ended = hetfed(capsys, "predict", "-c", "config.yaml", "--input", "new.csv")
    assert (ended.code, "--input: give --ckpt_path" in ended.err) == (2, True)


def test_parquet_by_the_ending(capsys: pytest.CaptureFixture[str], run: None) -> None:
    pytest.importorskip("pyarrow")
    assert predict(capsys, "--output", "p.parquet").code == predict(capsys, "--output", "p.csv").code == 0
    pd.testing.assert_frame_equal(pd.read_parquet("p.parquet"), pd.read_csv("p.csv"), check_dtype=False, rtol=1e-6)
