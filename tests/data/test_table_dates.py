"""Columns of dates and of yes and no become numbers with names that say what they hold."""

from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from hetfed_lightning.data import DataError, Examples, TableDataModule

STAYS = """in,out,born,smoker,ward,sick
2024-01-31 18:30,2024-02-02 06:30,1970-01-01,yes,1,0
2024-12-30,,1969-12-31,No,2,1
2023-03-01T12:00:00+02:00,2023-03-01T22:00:00Z,2000-02-29,,1,0
"""


def table(folder: Path, text: str = STAYS, **settings: Any) -> TableDataModule:
    (folder / "a.csv").write_text(text, encoding="utf-8")
    return TableDataModule(str(folder), "sick", **({"own_fractions": (1.0, 0.0, 0.0), "missing": "mean"} | settings))


def inputs(data: TableDataModule) -> Tensor:
    dataset = data.data.train["a"]
    assert isinstance(dataset, Examples)
    assert isinstance(dataset.inputs, Tensor)
    return dataset.inputs


def test_dates_and_booleans_by_hand(tmp_path: Path) -> None:
    parts = ["year", "month", "day", "weekday", "day of year", "hour", "days since 2024-01-01", "days since born"]
    data = table(tmp_path, dates={"in": parts, "out": ["days since in"]}, booleans=["smoker"])
    found = inputs(data)
    columns = [*(f"in {part}" for part in parts), "out days since in", "smoker", "ward"]
    assert data.schemas["a"].columns == tuple(columns)  # born is only counted from.
    # 31 January 2024 was a Wednesday; 1970 to 2024 has 54 * 365 + 13 leap days to 1 January, and 30 days more.
    assert found[0].tolist() == pytest.approx([2024, 1, 31, 2, 31, 18.5, 30 + 18.5 / 24, 19753 + 18.5 / 24, 1.5, 1, 1])
    # A Monday, day 365 of a leap year; the gap is the mean of 1.5 days and half a day (10:00 to 22:00 in UTC).
    assert found[1].tolist() == pytest.approx([2024, 12, 30, 0, 365, 0, 364, 20088, 1, 0, 2])
    assert found[2, [5, 8, 9]].tolist() == pytest.approx([10, 0.5, 0.5])


def test_dates_of_another_form_and_booleans_in_words(tmp_path: Path) -> None:
    text = "at,smoker,sick\n31.01.2024,ja,0\n01.02.2024,Nein,1\n"
    settings: dict[str, Any] = {"dates": {"at": ["days since 2024-01-01"]}, "booleans": {"smoker": ["nein", "ja"]}}
    assert inputs(table(tmp_path, text, date_format="%d.%m.%Y", **settings)).tolist() == [[30, 1], [31, 0]]
    with pytest.raises(DataError, match=r"expected dates as 2024-01-31 .* in column 'at', got '31.01.2024' in row 1"):
        inputs(table(tmp_path, text, **settings))
    compact = "at,sick\n20240131,0\n,1\n20240201,0\n"
    with pytest.raises(DataError, match=r"got numbers such as 20240131.*date_format: '%Y%m%d'"):
        inputs(table(tmp_path, compact, dates={"at": ["month"]}))
    assert inputs(table(tmp_path, compact, dates={"at": ["month"]}, date_format="%Y%m%d")).tolist() == [[1], [1.5], [2]]


def test_gaps_are_kept_as_nan_on_demand(tmp_path: Path) -> None:
    data = table(tmp_path, dates={"out": ["month"]}, booleans=["smoker"], features=["out", "smoker"], missing="keep")
    assert inputs(data).isnan().tolist() == [[False, False], [True, False], [False, True]]
    assert data.schemas["a"].fillings == ()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"dates": {"in": ["decade"]}}, "column 'in' has no part 'decade'; there is year, month"),
        ({"dates": {"in": "year"}}, "expected a list of parts of column 'in', got 'year'"),
        ({"dates": {"in": ["days since birth"]}}, "a.csv: has no column 'birth', which is to be encoded"),
        ({"dates": {"smoker": ["year"]}}, r"expected dates .* in column 'smoker', got 'yes' in row 1"),
        ({"booleans": ["in"]}, r"expected '0' or .* in column 'in', got '2024-01-31 18:30' in row 1: correct it"),
        ({"booleans": {"smoker": ["yes", "YES"]}}, "expected two words for column 'smoker'"),
        ({"booleans": "smoker"}, "expected a list of columns, got the text 'smoker'"),
        ({"booleans": ["smoker"], "categories": ["smoker"]}, "'smoker' is under two of categories, booleans and dates"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        inputs(table(tmp_path, **settings))
