"""Examples keep the place that they were read of, through splits, subsets and pools."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, Subset, TensorDataset

from hetfed_lightning.data import DataError, Examples, TableDataModule
from hetfed_lightning.data.conversion import Converted
from hetfed_lightning.data.source_rows import SourceRows, source_rows


def examples(count: int, rows: SourceRows | None = None) -> Examples:
    return Examples(torch.arange(count).float()[:, None], torch.zeros(count), rows=rows)


def test_subsets_and_pools_follow_their_examples() -> None:
    whole = examples(6)
    part = whole.subset([4, 1, 3]).subset([2, 0])
    assert part.rows is not None
    assert (part.rows.column, part.rows.values.tolist()) == ("index", [3, 4])
    pool = Examples.pooled([part, whole.subset([0])])
    assert source_rows(pool).values.tolist() == pool.inputs[:, 0].tolist() == [3, 4, 0]  # type: ignore[index]
    # Two sources that both have an index 0: only the position in the whole tells them apart.
    assert source_rows(Examples.pooled([examples(2), examples(1)])).values.tolist() == [0, 1, 2]
    with pytest.raises(DataError, match="a place for each of 2 examples, got 3"):
        examples(2, SourceRows.counted(3))


def test_places_are_found_through_what_wraps_a_data_set() -> None:
    files = SourceRows("file", np.array(["a.png", "b.png", "c.png"], dtype=object))
    inner = Subset(Converted(examples(3, files)), [2, 0])
    assert source_rows(inner).column == "file"
    assert source_rows(inner).values.tolist() == ["c.png", "a.png"]
    assert source_rows(ConcatDataset([inner, Subset(examples(3, files), [1])])).values.tolist() == [
        "c.png", "a.png", "b.png",
    ]  # fmt: skip
    assert source_rows(TensorDataset(torch.zeros(2))).values.tolist() == [0, 1]


@pytest.mark.parametrize("missing", ["mean", "drop"])
def test_rows_of_a_table_are_counted_below_its_header(tmp_path: Path, missing: str) -> None:
    rows = [f"{'ab'[i % 2]},{'' if i == 2 else i},{i % 3}" for i in range(40)]
    (tmp_path / "t.csv").write_text("\n".join(["site,x,y", *rows]), encoding="utf-8")
    data = TableDataModule(str(tmp_path / "t.csv"), "y", participant_column="site", missing=missing).data  # type: ignore[arg-type]
    seen = []
    for sets in (data.train, data.val, data.test):
        for found in sets.values():
            assert isinstance(found, Examples)
            assert isinstance(found.inputs, torch.Tensor)
            places = source_rows(found)
            assert places.column == "row"
            # Row i + 1 holds x = i, but for the gap.
            assert all(
                x == row - 1 for x, row in zip(found.inputs[:, 0].tolist(), places.values, strict=True) if row != 3
            )
            seen += places.values.tolist()
    assert sorted(seen) == [row for row in range(1, 41) if row != 3 or missing == "mean"]
