"""Columns and classes of tables are matched by name: the same numbers, or a refusal that names the file."""

import logging
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hetfed_lightning.data import DataError, Examples
from hetfed_lightning.data.sources import Tables, read_table, read_tables

Row = dict[str, Any]

ROWS: dict[str, list[Row]] = {
    name: [{"age": 30 + 7 * i + shift, "dose": i * i % 5, "sick": i % 2} for i in range(6)]
    for shift, name in enumerate("abc")
}


def write(folder: Path, rows: dict[str, list[Row]], columns: dict[str, list[str]] | None = None) -> Path:
    """A file for each participant, its columns in the order given."""
    for name, own in rows.items():
        order = (columns or {}).get(name) or list(own[0])
        text = [",".join(order), *(",".join(str(row[column]) for column in order) for row in own)]
        (folder / f"{name}.csv").write_text("\n".join(text) + "\n", encoding="utf-8")
    return folder


def tensors(tables: Tables) -> dict[str, tuple[Tensor, Tensor]]:
    found = {}
    for name, examples in tables.items():
        assert isinstance(examples, Examples)
        inputs, targets = examples.batch(torch.arange(len(examples)))
        assert isinstance(inputs, Tensor)
        assert isinstance(targets, Tensor)
        found[name] = (inputs, targets)
    return found


def same(one: Tables, other: Tables) -> bool:
    first, second = tensors(one), tensors(other)
    return first.keys() == second.keys() and all(
        torch.equal(first[name][0], second[name][0]) and torch.equal(first[name][1], second[name][1]) for name in first
    )


# Columns


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_columns_in_any_order_beside_any_others_give_the_same_numbers(data: st.DataObject) -> None:
    extras = data.draw(st.dictionaries(st.sampled_from("ab"), st.sampled_from(["weight", "pulse"]), max_size=1))
    rows = {
        name: [
            row | {"id": number} | ({extras[name]: number} if name in extras else {}) for number, row in enumerate(own)
        ]
        for name, own in ROWS.items()
    }
    orders = {name: data.draw(st.permutations(list(own[0]))) for name, own in rows.items()}
    with tempfile.TemporaryDirectory() as made:
        plain, mixed = Path(made, "plain"), Path(made, "mixed")
        plain.mkdir()
        mixed.mkdir()
        reference = read_tables(write(plain, ROWS), "sick", features=["age", "dose"])
        listed = read_tables(write(mixed, rows, orders), "sick", features=["age", "dose"])
        assert same(listed, reference)
        found = read_tables(mixed, "sick")
    assert set(found.features["a"]) == {"age", "dose"}
    assert set(found.features.values()) == {found.features["a"]}
    places = [found.features["a"].index(name) for name in ("age", "dose")]
    for name, (inputs, targets) in tensors(found).items():
        assert torch.equal(inputs[:, places], tensors(reference)[name][0])
        assert torch.equal(targets, tensors(reference)[name][1])


def test_an_extra_column_is_ignored_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = ROWS | {"b": [row | {"weight": 1} for row in ROWS["b"]]}
    with caplog.at_level(logging.WARNING):
        tables = read_tables(write(tmp_path, rows), "sick")
    assert tables.features["b"] == ("age", "dose")
    assert f"Ignored, since not all files have them: 'weight' ({tmp_path / 'b.csv'})" in caplog.text
    assert read_tables(tmp_path, "sick", features={name: list(rows[name][0])[:2] for name in "abc"}).features["b"]


@pytest.mark.parametrize("features", [None, ["age", "dose"]])
def test_a_missing_column_is_refused_by_file(tmp_path: Path, features: list[str] | None) -> None:
    rows = ROWS | {"b": [{"age": row["age"], "sick": row["sick"]} for row in ROWS["b"]]}
    with pytest.raises(DataError, match=r"b.csv: has no column 'dose'"):
        read_tables(write(tmp_path, rows), "sick", features=features)


def test_a_column_spelled_in_two_ways_is_refused_with_both(tmp_path: Path) -> None:
    rows = ROWS | {"b": [{"Age": row["age"]} | row for row in ROWS["b"]]}
    for row in rows["b"]:
        del row["age"]
    with pytest.raises(DataError, match=r"column 'age' of .*a.csv and 'Age' of .*b.csv differ in case"):
        read_tables(write(tmp_path, rows), "sick")
    blanks = "age, dose ,sick\n1,2,0\n2,3,1\n"
    (tmp_path / "b.csv").write_text(blanks, encoding="utf-8")
    assert read_tables(tmp_path, "sick").features["b"] == ("age", "dose")


@pytest.mark.parametrize(
    ("name", "cells", "left_out"),
    [
        ("id", range(6), True),
        ("rownames", range(6), True),
        ("patient_id", [7, 5, 9, 11, 3, 1], True),
        ("patient_id", [7, 7, 9, 11, 3, 1], False),
        ("patientID", [7, 5, 9, 11, 3, 1], True),
        ("covid", [7, 5, 9, 11, 3, 1], False),
        ("day", range(6), False),
        ("name", ["Ann", "Bo", "Cy", "Di", "Ed", "Flo"], True),
    ],
)
def test_columns_that_number_rows_are_left_out_with_a_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, cells: Any, left_out: bool
) -> None:
    rows = {"a": [row | {name: cell} for row, cell in zip(ROWS["a"], cells, strict=True)]}
    with caplog.at_level(logging.WARNING):
        tables = read_tables(write(tmp_path, rows), "sick")
    assert (name in tables.features["a"]) is not left_out
    assert (f"say nothing of them: {name!r}." in caplog.text) is left_out
    if left_out and name != "name":
        assert read_tables(tmp_path, "sick", features=["age", name]).features["a"] == ("age", name)


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        (['"12,5"', 1, 2, 3, 4, 5], r"'dose' \('12,5' in row 1; if its comma is a decimal one, set decimal: ','\)"),
        (["Ann", '"12,5"', "Cy", "Di", "Ed", "Flo"], r"'dose' \('Ann' in row 1\)"),
        ([1, 2, 3, "unknown", 4, 5], r"'dose' \('unknown' in row 4\)"),
        ([1, 2, 3, "9" * 400, 4, 5], r"participant 'a': .*too large for float32, in column 'dose' \(1\), .* row 4"),
        ([1, "1e999", 3, 3, 4, 5], r"participant 'a': .*too large for float32, in column 'dose' \(1\), .* row 2"),
    ],
    ids=["decimal comma", "names and a number", "a word", "400 digits", "an exponent"],
)
def test_a_cell_that_is_no_number_is_told_by_row(tmp_path: Path, cells: list[Any], words: str) -> None:
    rows = {"a": [row | {"dose": cell} for row, cell in zip(ROWS["a"], cells, strict=True)]}
    with pytest.raises(DataError, match=words):
        read_tables(write(tmp_path, rows), "sick")


def test_a_semicolon_and_a_decimal_comma_have_settings(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("age;dose;sick\n1,5;2;0\n2,5;3;1\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"its only column is 'age;dose;sick': .*Set separator: ';', or save .* commas"):
        read_tables([path], "sick")
    assert tensors(read_tables([path], "sick", separator=";", decimal=","))["a"][0].tolist() == [[1.5, 2], [2.5, 3]]
    for marks, words in (
        ({"separator": ";;"}, "separator: expected one character"),
        ({"decimal": ";"}, "decimal: expected '.' or ','"),
        ({"decimal": ","}, "separator and decimal are both ','"),
    ):
        with pytest.raises(DataError, match=words):
            read_tables([path], "sick", **marks)  # type: ignore[arg-type]


def test_separators_at_the_end_of_lines_make_no_column(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("age,dose,sick,\n1,2,0,\n2,3,1,\n", encoding="utf-8")
    assert read_tables(tmp_path, "sick").features["a"] == ("age", "dose")
    (tmp_path / "a.csv").write_text("age,dose,sick,\n1,2,0,\n2,3,1,9\n", encoding="utf-8")
    with pytest.raises(DataError, match="a column has no name"):
        read_tables(tmp_path, "sick")


# Classes


def labelled(folder: Path, **labels: list[Any]) -> Path:
    return write(
        folder, {name: [{"x": i, "sick": label} for i, label in enumerate(own)] for name, own in labels.items()}
    )


@settings(max_examples=20, deadline=None)
@given(order=st.permutations(["ill", "well", "dead"]), rows=st.permutations(range(6)))
def test_a_vocabulary_in_any_order_names_the_same_rows(order: list[str], rows: list[int]) -> None:
    labels = ["ill", "well", "dead", "ill", "well", "ill"]
    with tempfile.TemporaryDirectory() as made:
        tables = read_tables(
            labelled(Path(made), a=[labels[row] for row in rows], b=["well", "well"]), "sick", classes=order
        )
    inputs, targets = tensors(tables)["a"]
    assert [order[label] for label in targets.tolist()] == [labels[row] for row in rows]
    assert inputs.flatten().tolist() == list(range(6))
    assert tensors(tables)["b"][1].tolist() == [order.index("well")] * 2


@pytest.mark.parametrize("spelled", ["Yes", "yes ", " yes"])
def test_a_class_spelled_in_two_ways_is_refused_with_both_files(tmp_path: Path, spelled: str) -> None:
    labelled(tmp_path, a=["no", "yes"], b=["no", spelled])
    with pytest.raises(
        DataError, match=rf"class 'yes' of .*a.csv, .*'a' and {spelled!r} of .*b.csv, .*'b' differ in case"
    ):
        read_tables(tmp_path, "sick")
    with pytest.raises(DataError, match=rf"b.csv, participant 'b' has a class {spelled!r} .*did you mean 'yes'"):
        read_tables(tmp_path, "sick", classes=["no", "yes"])
    one = tmp_path / "one.csv"
    one.write_text(f"x,ward,sick\n1,a,yes\n2,b,{spelled}\n3,a,no\n", encoding="utf-8")
    with pytest.raises(DataError, match="differ in case or outer blanks only"):
        read_table(one, "sick", "ward")


def test_labels_from_one_beside_labels_from_zero_are_refused(tmp_path: Path) -> None:
    labelled(tmp_path, a=[1, 2, 1], b=[0, 1, 1])
    with pytest.raises(
        DataError, match=r"1 to 2 in .*a.csv, participant 'a', but 0 to 1 in .*b.csv, participant 'b': if"
    ):
        read_tables(tmp_path, "sick")
    three = read_tables(tmp_path, "sick", classes=["0", "1", "2"])
    assert tensors(three)["a"][1].tolist() == [1, 2, 1]
    labelled(tmp_path, c=[0, 2])  # Somebody has both: there are three classes.
    assert tensors(read_tables(tmp_path, "sick"))["a"][1].tolist() == [1, 2, 1]


def test_who_lacks_a_class_is_named_with_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    labelled(tmp_path, a=["ill", "well"], b=["well", "well"])
    with caplog.at_level(logging.WARNING):
        read_tables(tmp_path, "sick", classes=["dead", "ill", "well"])
    assert "lack, of 3: 'a' none of 'dead'; 'b' none of 'dead', 'ill'." in caplog.text
    caplog.clear()
    labelled(tmp_path, a=[1, 2], b=[2, 2])
    with caplog.at_level(logging.WARNING):
        read_tables(tmp_path, "sick")
    assert "lack, of 2: 'b' none of 1." in caplog.text
    assert "The labels begin at 1, so class 0 is nobody's" in caplog.text
