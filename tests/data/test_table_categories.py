"""Columns of categories: an input for each value, for unknown ones and for missing ones, alike for all participants."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hetfed_lightning.data import DataError, Examples, SiteDataModule, TableDataModule

A = "age,smoker,stage,sick\n50,never,2,0\n60,former,1,1\n70,,10,0\n40,never,,1\n"
B = "smoker,age,stage,sick\n current ,30,1,0\nnever,20,2,1\nNA,25,2,0\n"
ALL = {"own_fractions": (1.0, 0.0, 0.0), "categories": ["smoker", "stage"]}


def written(folder: Path, a: str = A, b: str = B) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "a.csv").write_text(a, encoding="utf-8")
    (folder / "b.csv").write_text(b, encoding="utf-8")
    return str(folder)


def inputs(data: TableDataModule | SiteDataModule, name: str) -> Tensor:
    dataset = data.data.train[name]
    assert isinstance(dataset, Examples)
    assert isinstance(dataset.inputs, Tensor)
    return dataset.inputs


def module(path: str | dict[str, str], **settings: Any) -> TableDataModule:
    return TableDataModule(path, "sick", **(ALL | settings))


def test_values_of_all_participants_by_hand(tmp_path: Path) -> None:
    data = module(written(tmp_path))
    # age; smoker: current, former, never, unknown, missing; stage: 1, 2, 10 by size, unknown, missing.
    assert inputs(data, "a").tolist() == [
        [50, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0],
        [60, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0],
        [70, 0, 0, 0, 0, 1, 0, 0, 1, 0, 0],
        [40, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1],
    ]
    assert inputs(data, "b")[:, :6].tolist() == [[30, 1, 0, 0, 0, 0], [20, 0, 0, 1, 0, 0], [25, 0, 0, 0, 0, 1]]
    names = ["current", "former", "never", "(unknown)", "(missing)"]
    assert data.schemas["b"].columns[:6] == ("age", *(f"smoker={name}" for name in names))
    assert data.schemas["a"].columns == data.schemas["b"].columns


def test_a_declared_vocabulary_has_its_order_and_tells_of_strangers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = written(tmp_path, b=B.replace("never", "Never"))
    given = {"smoker": ["never", "former", "NA"], "stage": [1, 2]}
    with caplog.at_level(logging.WARNING):
        data = module(path, categories=given, features=["stage", "smoker"])
        found = inputs(data, "b")
    # stage: 1, 2, unknown, missing; smoker: never, former, NA, unknown, missing.
    assert found.tolist() == [
        [1, 0, 0, 0, 0, 0, 0, 1, 0],
        [0, 1, 0, 0, 0, 0, 0, 1, 0],
        [0, 1, 0, 0, 0, 0, 1, 0, 0],
    ]
    assert inputs(data, "a")[2].tolist() == [0, 0, 1, 0, 0, 0, 0, 0, 1]
    assert "'b': 2 of 3 values in column 'smoker' are not in its vocabulary" in caplog.text
    assert "'current', 'Never'" in caplog.text


def test_a_site_alone_has_the_inputs_of_one_process(tmp_path: Path) -> None:
    path = written(tmp_path)
    whole = module(path)
    whole.setup()
    alone = module({"b": f"{path}/b.csv"}, features=list(whole.schemas["b"].columns))
    assert torch.equal(inputs(alone, "b"), inputs(whole, "b"))


def test_who_was_trained_keeps_the_vocabulary(tmp_path: Path) -> None:
    first = module(written(tmp_path / "first"))
    first.setup()
    later = module(written(tmp_path / "later", a=A.replace("former", "vapes")))
    later.setup()
    later.read_as_learned(first.schemas)
    assert later.schemas == first.schemas
    assert inputs(later, "a")[1, :6].tolist() == [60, 0, 0, 0, 1, 0]  # Unknown by now.


def test_texts_that_all_differ_are_categories_where_they_are_said_to_be(tmp_path: Path) -> None:
    for name, animals in (("a", "cat dog"), ("b", "cow")):
        lines = [f"{place},{animal},0" for place, animal in enumerate(animals.split())]
        (tmp_path / f"{name}.csv").write_text("\n".join(["x,animal,y", *lines, ""]), encoding="utf-8")
    data = TableDataModule(str(tmp_path), "y", categories=["animal"], own_fractions=(1.0, 0.0, 0.0))
    assert inputs(data, "b").tolist() == [[0, 0, 1, 0, 0, 0]]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"categories": ["smokes"]}, r"a.csv: has no column 'smokes', which is to be encoded; did you mean 'smoker'\?"),
        ({"categories": ["sick"]}, "column 'sick' is the target and to be encoded"),
        ({"categories": "smoker"}, "expected columns by name, or a list of them, got the text 'smoker'"),
        ({"categories": {"smoker": []}}, r"expected the values of column 'smoker', or null for all, got \[\]"),
        ({"categories": {"smoker": ["a", "A"]}}, "column 'smoker': two category names are the same"),
        ({"categories": {"smoker": ["(missing)"]}}, r"'\(missing\)' has an input of its own"),
        ({"categories": ["stage"]}, r"column 'smoker' \('never' in row 1\), got text or dates: name it under categ"),
    ],
)
def test_categories_that_cannot_be_meant_are_refused(tmp_path: Path, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        inputs(module(written(tmp_path), **settings), "a")


def test_spellings_and_free_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'never' of .*a.csv, .* and 'Never' of .*b.csv, .*'b' differ in case"):
        inputs(module(written(tmp_path, b=B.replace("never", "Never"))), "a")
    rows = "".join(f"1,note {row},1,0\n" for row in range(1001))
    with pytest.raises(DataError, match=r"column 'smoker' has 1003 different values .*expected 1 to 1000: declare"):
        inputs(module(written(tmp_path, a="age,smoker,stage,sick\n" + rows)), "a")
    with pytest.raises(DataError, match="has a column 'smoker=never', as an encoded column is called"):
        inputs(
            module(written(tmp_path, a=A.replace("age,", "smoker=never,", 1), b=B.replace("age,", "smoker=never,", 1))),
            "a",
        )
