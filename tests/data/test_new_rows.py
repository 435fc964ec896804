"""New rows become the inputs that training had of the same rows: numbers, categories, yes and no, dates and gaps."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml

from hetfed_lightning.data import DataError, Examples, TableDataModule
from hetfed_lightning.data.schema import DataSchema

HEADER = "site,smoker,insured,admitted,left,age,sick"
ROWS = [
    f"{'ab'[i % 2]},{('never', 'former', '')[i % 3]},{('nein', 'ja')[i % 2]},2024-0{1 + i % 9}-11,"
    f"2024-1{i % 2}-0{1 + i % 7},{'' if i == 6 else 20 + i},{('no', 'yes')[i // 2 % 2]}"
    for i in range(30)
]


def data(folder: Path, missing: str) -> TableDataModule:
    (folder / "t.csv").write_text("\n".join([HEADER, *ROWS]), encoding="utf-8")
    settings: dict[str, Any] = {"participant_column": "site", "missing": missing, "categories": ["smoker"]}
    settings |= {"booleans": {"insured": ["nein", "ja"]}}
    settings |= {"dates": {"admitted": ["month", "weekday"], "left": ["days since admitted"]}}
    return TableDataModule(str(folder / "t.csv"), "sick", **settings)


@pytest.mark.parametrize("missing", ["mean", "keep"])
def test_inputs_are_those_of_training_after_a_round_trip_through_a_file(tmp_path: Path, missing: str) -> None:
    module = data(tmp_path, missing)
    sets, frame = module.data, module.read_new(tmp_path / "t.csv")
    for name in "ab":
        written = yaml.safe_dump(module.schemas[name].to_dict())
        schema = DataSchema.from_dict(yaml.safe_load(written))
        assert schema == module.schemas[name]
        assert "smoker=(missing)" in schema.columns
        for found in (sets.train[name], sets.test[name]):
            assert isinstance(found, Examples)
            assert isinstance(found.inputs, torch.Tensor)
            assert found.rows is not None
            inputs = schema.inputs_of(frame, "t.csv", found.rows.values - 1)
            torch.testing.assert_close(inputs, found.inputs, equal_nan=True, rtol=0, atol=0)
    # Whatever index a frame has, and in whatever order its columns are.
    shuffled = frame[frame.columns[::-1]].set_index(pd.Index([f"row {i}" for i in range(30)]))
    torch.testing.assert_close(schema.inputs_of(shuffled, "t"), schema.inputs_of(frame, "t"), equal_nan=True)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"insured": "vielleicht"}, r"new.csv: expected 'nein' or 'ja' in column 'insured', got 'vielleicht' in row 5"),
        ({"admitted": "11.01.2024"}, r"new.csv: expected dates .* in column 'admitted', got '11.01.2024' in row 5"),
        ({"smoker": None}, "new.csv: has no column 'smoker', which is to be encoded"),
        ({"left": None}, "new.csv: has no column 'left'"),
        ({"age": "old"}, "new.csv: expected numbers in column 'age', as in training, got 'old' in row 5"),
    ],
)
def test_cells_that_cannot_be_read_are_named_by_column_and_row(
    tmp_path: Path, changed: dict[str, str | None], words: str
) -> None:
    module = data(tmp_path, "mean")
    module.setup()
    frame = module.read_new(tmp_path / "t.csv").astype(object)
    for column, value in changed.items():
        if value is None:
            frame = frame.drop(columns=column)
        else:
            frame.loc[4, column] = value
    with pytest.raises(DataError, match=words):
        module.schemas["a"].inputs_of(frame, "new.csv")


@pytest.mark.parametrize(
    ("damaged", "words"),
    [
        ({"encodings": [1]}, "expected encodings by name"),
        ({"encodings": {"booleans": {"x": {"no": 2}}}}, "0 or 1 for each word under 'booleans'"),
        ({"encodings": {"categories": 3}}, "'categories' and 'dates'"),
        ({"encodings": {"date_format": 3}}, "a text under 'date_format'"),
        ({"keeps_gaps": "yes"}, "true or false under 'keeps_gaps'"),
        ({"target": 3}, "a name under 'target'"),
    ],
)
def test_damaged_recipes_are_refused_by_name(damaged: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        DataSchema.from_dict({"columns": ["x"], "classes": [], "fillings": []} | damaged)
