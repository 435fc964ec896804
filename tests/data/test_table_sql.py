"""Rows of an SQL query are read as those of a file are, and the database stays as it was."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from hetfed_lightning.data import DataError, Examples, SQLDataModule, TableDataModule

ROWS = [("a", 1.5, "x", 0), ("b", 2.0, "y", 1), ("a", None, None, 1), ("b", 4.0, "x", 0)]
QUERY = "SELECT ward, age, kind, sick FROM visits"
SETTINGS: dict[str, Any] = {"missing": "mean", "categories": ["kind"], "own_fractions": (1.0, 0.0, 0.0)}


@pytest.fixture
def database(tmp_path: Path) -> Path:
    file = tmp_path / "visits.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE visits (ward TEXT, age REAL, kind TEXT, sick INTEGER)")
        connection.executemany("INSERT INTO visits VALUES (?, ?, ?, ?)", ROWS)
        connection.commit()
    return file


def same(one: Any, other: Any) -> bool:
    assert isinstance(one, Examples)
    assert isinstance(other, Examples)
    assert isinstance(one.inputs, torch.Tensor)
    assert isinstance(other.inputs, torch.Tensor)
    return torch.equal(one.inputs, other.inputs) and torch.equal(one.targets, other.targets)  # type: ignore[arg-type]


def test_a_query_gives_the_numbers_of_a_file(database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "\n".join(",".join("" if cell is None else str(cell) for cell in row) for row in ROWS)
    (tmp_path / "t.csv").write_text("ward,age,kind,sick\n" + text + "\n", encoding="utf-8")
    of_file = TableDataModule(str(tmp_path / "t.csv"), "sick", participant_column="ward", **SETTINGS).data
    monkeypatch.setenv("VISITS", f"sqlite:///{database}")
    for address in (f"sqlite:///{database}", "env:VISITS"):
        found = SQLDataModule(address, QUERY, "sick", participant_column="ward", **SETTINGS).data
        assert list(found.train) == ["a", "b"]
        assert all(same(found.train[name], of_file.train[name]) for name in "ab")
    each = {"first": "env:VISITS", "second": f"sqlite:///{database}"}
    assert list(SQLDataModule(each, QUERY.replace("ward, ", ""), "sick", **SETTINGS).data.train) == ["first", "second"]


@pytest.mark.parametrize(
    ("address", "query", "words"),
    [
        ("sqlite:///DB", "DELETE FROM visits", "begins with SELECT or WITH, got 'DELETE"),
        ("sqlite:///DB", "WITH gone AS (SELECT 1) DELETE FROM visits", "the query fails .*readonly"),
        ("sqlite:///DB", "SELECT nobody FROM visits", "the query fails .*no such column: nobody"),
        ("sqlite:///DB", "SELECT * FROM visits WHERE age > 9", "the query returns no rows"),
        ("sqlite:///DB", "SELECT ward, age, age, sick FROM visits", "returns column 'age' twice"),
        ("sqlite:///absent.db", QUERY, "absent.db: there is no such SQLite file"),
        ("visits.db", QUERY, "database: 'visits.db': expected the address of a database"),
        (
            "postgresql://me:secret@host/db",
            QUERY,
            r"database: postgresql://me:\*\*\*@host/db: a password would be written",
        ),
        ("env:NOWHERE", QUERY, "there is no variable 'NOWHERE' in the environment"),
    ],
)
def test_what_is_no_query_is_refused(database: Path, address: str, query: str, words: str) -> None:
    address = address.replace("DB", str(database)) if address == "sqlite:///DB" else address
    with pytest.raises(DataError, match=words):
        SQLDataModule(address, query, "sick", participant_column="ward", **SETTINGS).setup()
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("SELECT count(*) FROM visits").fetchone() == (4,)


def test_one_database_needs_a_column_of_participants(database: Path) -> None:
    with pytest.raises(DataError, match="expected one database and the participant_column of its rows"):
        SQLDataModule(f"sqlite:///{database}", QUERY, "sick").setup()
