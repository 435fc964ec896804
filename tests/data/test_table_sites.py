"""Which sites a table has, under which names, and which of their rows are for training."""

import logging
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from hetfed_lightning.data import DataError, Examples, TableDataModule

VISITS = """ward,at,x,sick
Süd,2024-03-01,3,0
Süd,2024-01-01,1,1
Süd,2024-02-01,2,0
south,2024-05-01,5,0
north,2024-01-01,10,1
Süd,2024-04-01,4,1
north,2024-06-01,60,0
north,2024-02-01,20,0
north,2024-06-01,61,1
west,2024-06-01,7,1
"""
SETTINGS: dict[str, Any] = {"participant_column": "ward", "rename": {"Süd": "south"}, "min_rows": 2}


def table(folder: Path, **settings: Any) -> TableDataModule:
    (folder / "t.csv").write_text(VISITS, encoding="utf-8")
    return TableDataModule(str(folder / "t.csv"), "sick", **(SETTINGS | {"features": ["x"]} | settings))


def first_column(dataset: Any) -> list[float]:
    assert isinstance(dataset, Examples)
    assert isinstance(dataset.inputs, Tensor)
    return dataset.inputs[:, 0].tolist()


def test_small_sites_are_left_out_and_sites_renamed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = table(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert list(data.data.train) == ["north", "south"]
    assert "fewer than 2 rows: 1 of 3 participants, west (1)." in caplog.text
    with pytest.raises(DataError, match="min_rows=2: participant 'west' has 1 rows and is left out: take it out"):
        table(tmp_path).load(("north", "west"))
    with pytest.raises(DataError, match="min_rows=2: participant 'west' has 1 rows"):
        table(tmp_path, participants=["west"]).setup()
    with pytest.raises(DataError, match=r"min_rows=9: all participants .*: north \(4\), south \(5\), west \(1\)"):
        table(tmp_path, min_rows=9).setup()


def test_files_are_renamed(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.csv").write_text("x,sick\n1,0\n2,1\n3,1\n", encoding="utf-8")
    assert list(TableDataModule(str(tmp_path), "sick", rename={"a": "first"}).data.train) == ["first", "b"]
    with pytest.raises(DataError, match=r"two participant names are the same.*'b' and 'b'"):
        TableDataModule(str(tmp_path), "sick", rename={"a": "b"}).setup()


def test_earlier_rows_train(tmp_path: Path) -> None:
    data = table(tmp_path, time_column="at", own_fractions=(0.6, 0.2, 0.2)).data
    assert [first_column(part["south"]) for part in (data.train, data.val, data.test)] == [[1, 2, 3], [4], [5]]
    # Of four rows of the north 2.4 train; the two of one day stay together.
    assert first_column(data.train["north"]) == [10, 20]
    assert first_column(data.test["north"]) == [60, 61]
    assert "north" not in data.val


def test_a_split_at_days_for_all(tmp_path: Path) -> None:
    data = table(tmp_path, time_column="at", split_at=["2024-02-01", "2024-05-01"]).data
    assert [first_column(part["south"]) for part in (data.train, data.val, data.test)] == [[1], [2, 3, 4], [5]]
    assert [first_column(part["north"]) for part in (data.train, data.val, data.test)] == [[10], [20], [60, 61]]
    with pytest.raises(DataError, match="'north': none of its 4 rows is from before the first day of split_at"):
        table(tmp_path, time_column="at", split_at=["2023-02-01", "2024-05-01"]).setup()


def test_numbers_are_moments_too(tmp_path: Path) -> None:
    data = table(tmp_path, time_column="x", split_at=[15, 25], min_rows=5).data
    assert first_column(data.train["south"]) == [1, 2, 3, 4, 5]
    assert not data.test


def test_the_column_of_time_is_a_feature_where_it_is_named(tmp_path: Path) -> None:
    data = table(tmp_path, time_column="at", features=None)
    data.setup()
    assert data.schemas["north"].columns == ("x",)
    data = table(tmp_path, time_column="at", features=None, dates={"at": ["month"]})
    data.setup()
    assert data.schemas["north"].columns == ("at month", "x")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"time_column": "when"}, "has no column 'when' of dates"),
        ({"time_column": "ward"}, r"expected dates .* in column 'ward', got 'north' in row 5"),
        ({"split_at": ["2024-01-01", "2024-02-01"]}, "split_at: expected the first days .* and None"),
        ({"time_column": "at", "split_at": ["2024-01-01"]}, "split_at: expected the first days"),
        ({"time_column": "at", "split_at": ["May", "June"]}, "split_at: expected a date as 2024-01-31, .* got 'May'"),
        ({"time_column": "at", "stratify": True}, "stratify=True draws at random and cannot go with time_column"),
        ({"min_rows": 0}, "min_rows: expected at least 1"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        table(tmp_path, **settings).setup()


def test_a_row_without_a_date_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("at,x,sick\n2024-01-01,1,0\n,2,1\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"'a': 1 of 2 rows have no date in column 'at', .* the first is row 2"):
        TableDataModule(str(tmp_path), "sick", time_column="at").setup()
