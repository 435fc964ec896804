"""Predictions of a participant for pandas frames: columns by hand, and refusals that name the column."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import hetfed_lightning
from hetfed_lightning import Participant
from hetfed_lightning.cli.export import export_participant
from hetfed_lightning.data import DataError, TableDataModule
from hetfed_lightning.data.schema import DataSchema
from hetfed_lightning.participants.prediction_table import joined_columns, prediction_columns, truth_by_name
from tests.federations import fit

MEMBER = {
    "class_path": "hetfed_lightning.Participant",
    "init_args": {
        "backbone": {"class_path": "torch.nn.Linear", "init_args": {"in_features": 2, "out_features": 3}},
        "head": {"class_path": "torch.nn.Linear", "init_args": {"in_features": 3, "out_features": 2}},
    },
}


def participant(fillings: tuple[float, ...] = (), classes: tuple[str, ...] = ("ill", "so", "well")) -> Participant:
    """Of an age and a blood pressure; probabilities are e^age, e^pressure and 1 over their sum."""
    backbone, head = nn.Identity(), nn.Linear(2, 3, bias=False)
    backbone.out_features = 2  # type: ignore[assignment]  # an attribute, as a backbone has
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]))
    made = Participant(backbone, head)
    made.schema = DataSchema(("age", "pressure"), classes, fillings, "outcome")
    return made


def frame(**columns: Any) -> pd.DataFrame:
    """Two rows, whose columns stand in another order than in training."""
    found = {"pressure": [0.0, 1.0], "note": ["x", "y"], "age": [1, 0], "outcome": ["ill", None]} | columns
    return pd.DataFrame(found, index=[7, 9])


def test_a_frame_by_hand() -> None:
    found = participant().predict_table(frame())
    named = [f"probability_{name}" for name in ("ill", "so", "well")]
    assert list(found.columns) == ["row", "participant", "truth", "predicted", *named]
    assert found.index.tolist() == [7, 9]
    assert found["row"].tolist() == [1, 2]
    assert found["truth"].isna().tolist() == [False, True]
    # (e, 1, 1) / (e + 2) and (1, e, 1) / (e + 2).
    assert found["predicted"].tolist() == ["ill", "so"]
    most, least = np.e / (np.e + 2), 1 / (np.e + 2)
    np.testing.assert_allclose(found[named], [[most, least, least], [least, most, least]], rtol=1e-6)


def test_gaps_are_filled_as_in_training_and_the_truth_may_be_absent() -> None:
    gaps = frame(age=[1, np.nan], pressure=[np.nan, np.nan])
    full = frame(age=[1, 5], pressure=[6, 6])
    alone = participant(fillings=(5.0, 6.0))
    pd.testing.assert_frame_equal(alone.predict_table(gaps), alone.predict_table(full))
    assert "truth" not in alone.predict_table(full.drop(columns="outcome"))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (
            frame().drop(columns="pressure").rename(columns={"note": "presure"}),
            "no column 'pressure'; did you mean 'pre",
        ),
        (frame(age=["old", "3"]), r"expected numbers in column 'age'.*got 'old' in row 1"),
        (frame(age=pd.to_datetime(["2020-01-01", "2021-01-01"])), r"numbers in column 'age'.*row 1.*datetime64"),
        (frame(age=[1, np.nan]), r"a missing value in column 'age', row 2 \(in all: 'age' \(1\)\).*missing='mean'"),
        (frame(age=[1, np.inf]), r"infinite.*in column 'age', row 2"),
        (frame(age=[1, 1e300]), r"too large for float32.*'age', row 2"),
        (frame().iloc[:0], "at least one row"),
        (pd.concat([frame(), frame()[["age"]]], axis=1), "column 'age' occurs twice"),
        ({"age": [1]}, "expected a pandas DataFrame, got dict"),
    ],
)
def test_rows_that_do_not_fit_are_refused_by_column(changed: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        participant().predict_table(changed)


def test_whoever_was_not_trained_on_a_table_says_so() -> None:
    made = participant()
    made.schema = None
    with pytest.raises(DataError, match=r"no named columns.*predict on tensors.*TableDataModule"):
        made.predict_table(frame())


def test_classes_unknown_in_training_are_told_and_kept(caplog: pytest.LogCaptureFixture) -> None:
    found = participant().predict_table(frame(outcome=["ill", "dead"]))
    assert found["truth"].tolist() == ["ill", "dead"]
    assert "column 'outcome' has classes that nobody knew in training: 'dead'" in caplog.text


@pytest.mark.parametrize(
    ("classes", "labels", "truth"),
    [
        (("1", "2", "3"), [1.0, np.nan], ["1", ""]),
        ((), [0, 2], [0, 2]),
        (("False", "True"), [True, False], ["True", "False"]),
        (("1", "2"), [np.inf, 1], ["inf", "1"]),
    ],
)
def test_labels_that_are_numbers_have_the_name_of_training(
    classes: tuple[str, ...], labels: list[Any], truth: list[Any]
) -> None:
    found = participant(classes=classes).predict_table(frame(outcome=labels))["truth"]
    assert ["" if gap else one for one, gap in zip(found, found.isna(), strict=True)] == truth


@pytest.mark.parametrize(
    ("kind", "classes", "values", "targets", "expected"),
    [
        (
            "binary", ("no", "yes"), [0.75, 0.5], [1, 1],
            {"truth": ["yes", "yes"], "predicted": ["yes", "no"],
             "probability_no": [0.25, 0.5], "probability_yes": [0.75, 0.5]},
        ),
        (
            "multiclass", ("no",), [[0.25, 0.75]], [1],
            {"truth": [1], "predicted": [1], "probability_no": [0.25], "probability_1": [0.75]},
        ),
        (
            "multilabel", ("red", "round"), [[0.75, 0.25]], [[1, 1]],
            {"truth_red": [1], "truth_round": [1], "predicted_red": [1], "predicted_round": [0],
             "probability_red": [0.75], "probability_round": [0.25]},
        ),
        ("regression", (), [[1.5], [2.0]], [[1.0], [3.0]], {"truth": [1.0, 3.0], "predicted": [1.5, 2.0]}),
        (
            "regression", (), [[1.5, 2.0]], [[1.0, 3.0]],
            {"truth_0": [1.0], "truth_1": [3.0], "predicted_0": [1.5], "predicted_1": [2.0]},
        ),
        ("ranking", (), [3.0], None, {"output_0": [3.0]}),
    ],
)  # fmt: skip
def test_columns_of_each_kind_by_hand(
    kind: str, classes: tuple[str, ...], values: list[Any], targets: list[Any] | None, expected: dict[str, Any]
) -> None:
    truth = None if targets is None else truth_by_name(torch.tensor(targets), kind, classes)
    found = prediction_columns(torch.tensor(values), kind, classes, truth)
    assert {name: column.tolist() for name, column in found.items()} == expected
    assert list(found) == list(expected)


def test_tables_of_different_columns_are_joined() -> None:
    a = {"row": np.array([1, 2]), "truth": np.array(["x", "y"], dtype=object), "predicted": np.array(["x", "x"])}
    b = {"row": np.array([1]), "predicted": np.array([0.5]), "output_0": np.array([2.0])}
    found = joined_columns([b, a])
    assert list(found) == ["row", "truth", "predicted", "output_0"]
    assert found["row"].tolist() == [1, 1, 2]
    assert found["truth"].tolist() == [None, "x", "y"]
    assert found["output_0"].tolist() == [2.0, None, None]


def test_an_export_carries_all_that_a_frame_needs(tmp_path: Path) -> None:
    lines = [f"{i % 7},{'' if i % 5 == 1 else i % 3},{('no', 'yes')[i % 2]}" for i in range(20)]
    for name in "ab":
        (tmp_path / f"{name}.csv").write_text("\n".join(["x,z,sick", *lines]), encoding="utf-8")
    data = TableDataModule({name: str(tmp_path / f"{name}.csv") for name in "ab"}, "sick", missing="mean")
    federation = hetfed_lightning.Federation({name: Participant(nn.Linear(2, 3), nn.Linear(3, 2)) for name in "ab"})
    made = fit(federation, data, 1)
    made.save_checkpoint(tmp_path / "run.ckpt")
    config: dict[str, Any] = {"model": {"participants": {"a": MEMBER, "b": MEMBER}}}
    folder = export_participant(config, str(tmp_path / "run.ckpt"), "b", tmp_path / "b")
    rows = pd.read_csv(tmp_path / "b.csv")
    found = hetfed_lightning.load_participant(folder).predict_table(rows[["sick", "z", "x"]])
    assert found["participant"].tolist() == ["b"] * 20
    assert found["truth"].tolist() == rows["sick"].tolist()
    assert {"probability_no", "probability_yes"} < set(found.columns)
    pd.testing.assert_frame_equal(found, federation["b"].predict_table(rows))


def test_values_of_a_regression_are_in_the_unit_of_the_data() -> None:
    made = Participant(nn.Linear(2, 2), nn.Linear(2, 1), task="regression")
    made.schema = DataSchema(("age", "pressure"), (), (), "outcome")
    found = made.predict_table(frame(outcome=["", 120.5]).replace("", np.nan))
    assert list(found.columns) == ["row", "participant", "truth", "predicted"]
    assert found["truth"].isna().tolist() == [True, False]
    assert found["truth"].tolist()[1] == 120.5
    values = made.predict(torch.tensor([[1.0, 0.0], [0.0, 1.0]])).flatten()
    assert found["predicted"].tolist() == values.tolist()
    with pytest.raises(DataError, match=r"expected numbers in column 'outcome'.*got 'high' in row 1"):
        made.predict_table(frame(outcome=["high", 1]))
