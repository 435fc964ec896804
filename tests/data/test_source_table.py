from __future__ import annotations

import gzip
import pickle
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor

from hetfed_lightning.data.errors import DataError
from hetfed_lightning.data.examples import Examples
from hetfed_lightning.data.sources import Tables, read_table, read_tables

WARDS = """ward,age,smoker,sick
b,70,TRUE,1
a,50,FALSE,0
b,30,FALSE,2
"""


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_text(text, encoding=encoding)
    return path


def everything(examples: Examples) -> tuple[Tensor, Tensor]:
    inputs, targets = examples.batch(torch.arange(len(examples)))
    assert isinstance(inputs, Tensor)
    assert isinstance(targets, Tensor)
    return inputs, targets


def read(tmp_path: Path, text: str, **settings: Any) -> Tables:
    return read_table(write(tmp_path / "t.csv", text), **{"target": "sick", "participant_column": "ward"} | settings)


def test_a_table_by_hand(tmp_path: Path) -> None:
    tables = read(tmp_path, WARDS)
    assert list(tables) == ["a", "b"]
    inputs, targets = everything(tables["b"])
    assert (inputs.tolist(), inputs.dtype) == ([[70.0, 1.0], [30.0, 0.0]], torch.float32)
    assert (targets.tolist(), targets.dtype) == ([1, 2], torch.int64)
    assert len(tables["a"]) == 1
    assert tables.features == {"a": ("age", "smoker"), "b": ("age", "smoker")}
    assert tables.classes is None


def test_features_are_chosen_in_order_and_by_participant(tmp_path: Path) -> None:
    assert everything(read(tmp_path, WARDS, features=["smoker", "age"])["a"])[0].tolist() == [[0.0, 50.0]]
    tables = read(tmp_path, WARDS, features={"a": ["age"], "b": ["smoker"]})
    assert everything(tables["a"])[0].tolist() == [[50.0]]
    assert everything(tables["b"])[0].tolist() == [[1.0], [0.0]]
    assert tables.features == {"a": ("age",), "b": ("smoker",)}


def test_text_labels_are_numbered_alike_for_all_participants(tmp_path: Path) -> None:
    tables = read(tmp_path, "ward,x,sick\nb,1,yes\na,2,no\nb,3,maybe\n")
    assert tables.classes == ("maybe", "no", "yes")
    assert everything(tables["a"])[1].tolist() == [1]
    assert everything(tables["b"])[1].tolist() == [2, 0]


def test_labels_may_be_booleans_or_whole_numbers_with_a_point(tmp_path: Path) -> None:
    assert everything(read(tmp_path, "ward,x,sick\na,1,TRUE\na,2,FALSE\n")["a"])[1].tolist() == [1, 0]
    assert everything(read(tmp_path, "ward,x,sick\na,1,3.0\na,2,0.0\n")["a"])[1].tolist() == [3, 0]


def test_values_of_a_regression(tmp_path: Path) -> None:
    _, targets = everything(read(tmp_path, "ward,x,sick\na,1,-0.5\na,2,3\n", kind="value")["a"])
    assert (targets.tolist(), targets.dtype) == ([-0.5, 3.0], torch.float32)


def of_column(values: list[Any], target: bool = False) -> str:
    rows = (f"a,0,{value}" if target else f"a,{value},{i % 2}" for i, value in enumerate(values))
    return "\n".join(["ward,x,sick", *rows])


@pytest.mark.parametrize("start", [1_700_000_000, -1_700_000_000, 1_700_000_000 * 10**9])
@pytest.mark.parametrize("target", [False, True])
def test_whole_numbers_that_float32_does_not_tell_apart(tmp_path: Path, start: int, target: bool) -> None:
    values = [start + i for i in range(80)]
    settings = {"kind": "value"} if target else {}
    left = len({torch.tensor(value, dtype=torch.float32).item() for value in values})
    name = "sick" if target else "x"
    with pytest.raises(DataError) as raised:
        read(tmp_path, of_column(values, target), **settings)
    said = str(raised.value)
    assert f"t.csv, participant 'a': whole numbers in column '{name}'" in said
    assert f"80 different ones become {left}, {start} and {start + 1} for instance become equal" in said
    assert ("leave the column out" in said) is not target
    kept, targets = everything(read(tmp_path, of_column([i - 40 for i in range(80)], target), **settings)["a"])
    assert len((targets if target else kept).unique()) == 80


def test_gaps_and_small_codes_do_not_hide_them(tmp_path: Path) -> None:
    values = ["", -1, 99, *(1_700_000_000 + i for i in range(28))]
    for missing in ("keep", "drop"):
        with pytest.raises(DataError, match="28 different ones become"):
            read(tmp_path, of_column(values), missing=missing)


@pytest.mark.parametrize(
    "values",
    [
        [0.1 + i * 1e-12 for i in range(50)],  # Noise in the last digits.
        [1.7e9 + i / 16 for i in range(1, 16)],
        [2**24 - i for i in range(50)],  # Exact.
        [1_700_000_000] * 50,  # One value.
        [1_600_000_000 + 86_400 * i for i in range(50)],  # Days apart.
        [1_600_000_000 + 1000 * i for i in range(200)] + [1_600_000_001],  # One of 201.
    ],
)
def test_numbers_that_lose_no_more_than_digits_are_read(tmp_path: Path, values: list[float]) -> None:
    assert len(read(tmp_path, of_column(values))["a"]) == len(values)


@pytest.mark.parametrize("name", ["007", "1e3", "NA", "None", "1.0", "Zürich"])
def test_participants_keep_their_names(tmp_path: Path, name: str) -> None:
    assert list(read(tmp_path, f"ward,x,sick\n{name},1,0\n {name} ,2,0\n")) == [name]


def test_a_compressed_file_a_mark_and_another_separator(tmp_path: Path) -> None:
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress(("\ufeff" + WARDS.replace(",", ";")).encode()))
    tables = read_table(path, "sick", "ward", separator=";")
    assert list(tables) == ["a", "b"]


def test_one_file_for_each_participant(tmp_path: Path) -> None:
    write(tmp_path / "north.csv", "x,y\n1,hot\n2,cold\n")
    (tmp_path / "south.csv.gz").write_bytes(gzip.compress(b"z,x,y\n5,6,warm\n"))
    write(tmp_path / ".hidden.csv", "")
    write(tmp_path / "notes.txt", "")
    expected = {"north": ("x",), "south": ("x",)}
    files = [tmp_path / "south.csv.gz", tmp_path / "north.csv"]
    for paths in (tmp_path, str(tmp_path), files):
        tables = read_tables(paths, target="y")
        assert tables.features == expected
        assert list(tables) == ["north", "south"]
        assert tables.classes == ("cold", "hot", "warm")
        assert everything(tables["north"])[1].tolist() == [1, 0]
    assert list(read_tables({"n": files[1], "a": files[0]}, target="y")) == ["n", "a"]
    assert read_tables(tmp_path, "y", features=["x"]).features == {"north": ("x",), "south": ("x",)}


def test_tables_survive_pickling(tmp_path: Path) -> None:
    tables = read(tmp_path, "ward,x,sick\nb,1,yes\na,2,no\n")
    copy = pickle.loads(pickle.dumps(tables))
    assert (copy.classes, copy.features, list(copy)) == (tables.classes, tables.features, ["a", "b"])


# ----- missing values

GAPS = "ward,age,smoker,sick\na,10,TRUE,0\na,,,1\na,30,TRUE,0\nb,100,FALSE,1\nb,,FALSE,1\n"


def test_gaps_are_kept(tmp_path: Path) -> None:
    tables = read(tmp_path, GAPS, missing="keep")
    assert everything(tables["a"])[0].isnan().tolist() == [[False, False], [True, True], [False, False]]
    assert everything(tables["b"])[0].nan_to_num(-1).tolist() == [[100, 0], [-1, 0]]


def test_a_reader_fills_nothing_since_it_does_not_know_the_training_rows(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"missing='mean': a reader does not know .*use TableDataModule"):
        read(tmp_path, GAPS, missing="mean")


def test_rows_with_gaps_are_dropped(tmp_path: Path) -> None:
    tables = read(tmp_path, GAPS + "b,5,FALSE,\n", missing="drop")
    assert everything(tables["a"])[0].tolist() == [[10, 1], [30, 1]]
    assert everything(tables["b"])[0].tolist() == [[100, 0]]


def test_who_has_some_of_the_classes_numbers_them_as_everyone_does(tmp_path: Path) -> None:
    text = "x,sick\n1,well\n2,dead\n"
    assert everything(read_tables([write(tmp_path / "a.csv", text)], "sick")["a"])[1].tolist() == [1, 0]
    tables = read_tables([tmp_path / "a.csv"], "sick", classes=["well", "ill", "dead"])
    assert everything(tables["a"])[1].tolist() == [0, 2]
    assert tables.classes == ("well", "ill", "dead")
    tables = read(tmp_path, "ward,x,sick\na,1,well\n", classes=["ill", "well"])
    assert everything(tables["a"])[1].tolist() == [1]


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        (["ill", "wel"], "participant 'a' has a class 'well' in .* 'sick' that is not named; did you mean 'wel'?"),
        (["ill", "well", "Well"], "classes: two class names are the same, or differ in case or outer spaces only"),
    ],
    ids=["missing", "twice"],
)
def test_names_of_classes_that_do_not_fit_are_refused(tmp_path: Path, classes: list[str], words: str) -> None:
    with pytest.raises(DataError, match=words.replace("?", r"\?")):
        read(tmp_path, "ward,x,sick\na,1,well\n", classes=classes)


def test_names_of_classes_are_those_of_numbers_too(tmp_path: Path) -> None:
    tables = read(tmp_path, WARDS, classes=["2", "1", "0"])
    assert everything(tables["b"])[1].tolist() == [1, 0]
    assert tables.classes == ("2", "1", "0")
    with pytest.raises(DataError, match="participant 'a' has a class '0' in target column 'sick' that is not named"):
        read(tmp_path, WARDS, classes=["1", "2"])
    with pytest.raises(DataError, match=r"has a class '0' .*there is 'x', 'y', 'z'"):
        read(tmp_path, WARDS, classes=["x", "y", "z"])
    truths = "ward,x,sick\na,1,TRUE\na,2,FALSE\n"
    assert everything(read(tmp_path, truths, classes=["True", "False"])["a"])[1].tolist() == [0, 1]
    assert everything(read(tmp_path, truths, classes=["0", "1"])["a"])[1].tolist() == [1, 0]


def test_a_class_of_dropped_rows_is_none(tmp_path: Path) -> None:
    assert read(tmp_path, "ward,x,sick\na,1,yes\na,,never\n", missing="drop").classes == ("yes",)


@pytest.mark.parametrize(
    ("text", "settings", "words"),
    [
        (GAPS, {}, r"t.csv, participant 'a': missing values, of 3 rows in column 'age' \(1\), 'smoker' \(1\): impute"),
        (GAPS, {"features": ["smoker"]}, r"participant 'a': .*column 'smoker' \(1\): impute"),
        (GAPS + "c,,TRUE,0\n", {"missing": "drop"}, r"participant 'c': no row is left .* of 1 in column 'age' \(1\)"),
        (WARDS + "a,1,TRUE,\n", {}, r"participant 'a': target column 'sick' has 1 missing value\(s\) in 2 rows"),
        (WARDS + "a,1,TRUE,\n", {"missing": "keep"}, "target column 'sick' has 1 missing"),
        (WARDS + ",1,TRUE,0\n", {}, r"column 'ward': 1 sample\(s\) have no participant's name, the first at index 3"),
        (WARDS + "A,1,TRUE,0\n", {}, "two participant names .*'A' and 'a'"),
        (WARDS + "a,inf,TRUE,0\n", {}, r"participant 'a': values that are infinite.* column 'age' \(1\)"),
        (WARDS + "a,1e300,TRUE,0\n", {}, r"too large for float32, in column 'age' \(1\)"),
        (WARDS + "a,inf,TRUE,0\n", {"missing": "keep"}, r"infinite.* column 'age' \(1\), the first in row 4"),
        (
            WARDS + "a,old,TRUE,0\n",
            {},
            r"numbers in column 'age' \('old' in row \d+\), got text or dates: name it under categories",
        ),
        (WARDS + "a,1,TRUE,-1\n", {}, "participant 'a': expected class labels .* 0 or more, got -1"),
        (WARDS + "a,1,TRUE,0.5\n", {}, "whole numbers of 0 or more, got 0.5: .*kind='value'"),
        (WARDS + "a,1,TRUE,inf\n", {}, r"infinite.* column 'sick' \(1\)"),
        (WARDS + "a,1,TRUE,yes\n", {"kind": "value"}, "expected numbers in target column 'sick', got text such as"),
        (WARDS + "a,1,TRUE,1e99\n", {"kind": "value"}, r"too large for float32, in column 'sick' \(1\)"),
        (WARDS + "a,1,TRUE,0,9,9\n", {}, "t.csv: cannot be read as a table .*line 5"),
        ("ward,age,sick\na,1,0,9\na,1,0,9\n", {}, "t.csv: cannot be read as a table .*Length of header"),
        (WARDS, {"target": "Sic"}, "has no column 'Sic'; did you mean 'sick'"),
        (WARDS, {"participant_column": "wards"}, "has no column 'wards'; did you mean 'ward'"),
        (WARDS, {"features": ["aeg"]}, "has no column 'aeg'; did you mean 'age'"),
        (WARDS.replace(",", ";"), {}, "its only column is 'ward;age;smoker;sick': is the separator another"),
        (WARDS, {"features": ["age", "sick"]}, "column 'sick' is the target: take it off the features"),
        (WARDS, {"features": ["ward"]}, "column 'ward' is the column of participants"),
        (WARDS, {"features": ["age", "age"]}, "column 'age' is listed twice"),
        (WARDS, {"features": []}, "has no feature column"),
        (WARDS, {"features": "age"}, "list of feature columns, got the text 'age'"),
        (WARDS, {"features": {"a": ["age"]}}, "participant 'b': features are given by participant, but not for"),
        (WARDS, {"features": {"a": ["age"], "B": ["age"]}}, "'B', who is not in the data; did you mean 'b'"),
        ("ward,sick\na,1\n", {}, "has no feature column"),
        (",ward,age,sick\n0,a,1,1\n", {}, "a column has no name .*row number"),
        ("ward,age,age,sick\na,1,2,1\n", {}, "column 'age' occurs twice in the header"),
        ("", {}, "t.csv: the file is empty"),
        ("\n\n", {}, "t.csv: the file is empty"),
        ("ward,age,sick\n", {}, "t.csv: the table has a header but no rows"),
        (WARDS, {"kind": "label"}, "kind 'class' or 'value', got 'label'"),
        (WARDS, {"missing": "median"}, "missing to be 'mean', 'keep', 'drop' or None, got 'median'"),
    ],
)
def test_bad_tables_are_refused(tmp_path: Path, text: str, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=f"(?s){words}"):
        read(tmp_path, text, **settings)


@pytest.mark.parametrize("row", ["a,Zoë,1\n", "a,1,1\n" * 100_000 + "a,Zoë,1\n"], ids=["header's block", "far below"])
def test_a_file_in_another_encoding_is_refused(tmp_path: Path, row: str) -> None:
    path = write(tmp_path / "t.csv", "ward,age,sick\n" + row, "latin-1")
    with pytest.raises(DataError, match=r"t.csv: not UTF-8 \(byte 0xeb, .*save it as UTF-8"):
        read_table(path, "sick", "ward")


@pytest.mark.parametrize("content", [gzip.compress(WARDS.encode(), mtime=0)[:-9], b"\x1f\x8bnonsense", b"plain"])
def test_a_damaged_compressed_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "t.csv.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"t.csv.gz: cannot be read as a table"):
        read_table(path, "sick", "ward")


@pytest.mark.parametrize("path", ["absent.csv", "https://example.org/t.csv", "s3://bucket/t.parquet"])
def test_only_files_are_read(path: str) -> None:
    with pytest.raises(DataError, match=r"no such table file .looked in /"):
        read_table(path, "sick", "ward")


def test_a_folder_is_no_table() -> None:
    with pytest.raises(DataError, match=r"\.: is a folder, expected one table"):
        read_table(".", "sick", "ward")


def test_bad_sets_of_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected at least one CSV or parquet file, got none"):
        read_tables(tmp_path, "y")
    with pytest.raises(DataError, match="the files given: expected at least one"):
        read_tables([], "y")
    with pytest.raises(DataError, match="absent: expected a folder"):
        read_tables(tmp_path / "absent", "y")
    numbers = write(tmp_path / "a.csv", "x,y\n1,0\n")
    with pytest.raises(DataError, match=r"b.csv: no such table file"):
        read_tables([numbers, tmp_path / "b.csv"], "y")
    text = write(tmp_path / "b.csv", "x,y\n1,no\n")
    with pytest.raises(DataError, match=r"holds text in .*b.csv, participant 'b', but numbers in .*a.csv"):
        read_tables(tmp_path, "y")
    with pytest.raises(DataError, match=r"b.csv: has no column 'z'"):
        read_tables([text], "z")
    write(tmp_path / "B.csv", "x,y\n1,0\n")
    with pytest.raises(DataError, match=r"two participant names .*'B' and 'b'"):
        read_tables(tmp_path, "y")


def test_without_pandas_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"pip install 'hetfed-lightning\[tables\]'"):
        read(tmp_path, WARDS)


# ----- parquet


def test_parquet_is_read_as_csv_is(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    frame = pd.read_csv(write(tmp_path / "t.csv", WARDS))
    frame.to_parquet(tmp_path / "t.parquet")
    expected = read_table(tmp_path / "t.csv", "sick", "ward")
    found = read_table(tmp_path / "t.parquet", "sick", "ward")
    assert found.features == expected.features
    for name, examples in expected.items():
        torch.testing.assert_close(everything(found[name]), everything(examples), rtol=0, atol=0)
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 nonsense")
    with pytest.raises(DataError, match=r"bad.parquet: cannot be read as a table"):
        read_table(tmp_path / "bad.parquet", "sick", "ward")


def test_frames_of_parquet_with_gaps_and_numbered_wards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # What parquet may hold and CSV cannot: nullable columns, participants that are numbers.
    frame = pd.DataFrame(
        {
            "ward": pd.array([2, 2, 10], dtype="Int64"),
            "age": pd.array([1, None, 3], dtype="Int64"),
            "smoker": pd.array([True, None, False], dtype="boolean"),
            "sick": [0, 1, 1],
        }
    )
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    monkeypatch.setattr(pd, "read_parquet", lambda path: frame if path else None)
    path = write(tmp_path / "t.parquet", "")
    tables = read_table(path, "sick", "ward", missing="keep")
    assert list(tables) == ["10", "2"]
    assert everything(tables["2"])[0].nan_to_num(-1).tolist() == [[1, 1], [-1, -1]]
    frame.loc[0, "ward"] = pd.NA
    with pytest.raises(DataError, match="no participant's name, the first at index 0"):
        read_table(path, "sick", "ward", missing="keep")
    frame.columns = pd.Index(["ward", "age", "age", "sick"])
    with pytest.raises(DataError, match="column 'age' occurs twice"):
        read_table(path, "sick", "ward")


def test_without_pyarrow_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_engine(path: Path) -> None:
        raise ImportError(f"no engine for {path.name}")

    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    monkeypatch.setattr(pd, "read_parquet", no_engine)
    with pytest.raises(ImportError, match=r"t.parquet: reading parquet needs pyarrow .*pip install pyarrow"):
        read_table(write(tmp_path / "t.parquet", ""), "sick", "ward")
