"""Rows of an SQL query as a pandas frame; nothing is ever written to the database.

The address of a database is an SQLAlchemy URL. One with a password in it would be written into records and reports of a
run, so it is refused: ``env:NAME`` reads it from a variable of the environment.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hetfed_lightning.data.errors import DataError
from hetfed_lightning.data.optional import import_optional
from hetfed_lightning.paths import with_home

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["SQL_EXTRA", "database_name", "read_query"]

SQL_EXTRA = "hetfed-lightning[sql]"
FROM_ENVIRONMENT = "env:"

_READS = re.compile(r"\s*(select|with)\b", re.IGNORECASE)


def read_query(address: str, query: str) -> DataFrame:
    """Rows that a query returns, at least one.

    Args:
        address: SQLAlchemy URL, as ``"sqlite:///visits.db"``, or ``"env:NAME"`` for one in a variable of the
            environment. A file of SQLite is opened for reading alone; a transaction of any database is rolled back.
        query: One statement that begins with SELECT or WITH.

    Raises:
        DataError: If the URL is none, has a password or names no file; if the query fails, is no SELECT, returns no row
            or a column twice.
        ImportError: If pandas, SQLAlchemy or the database's driver is not installed.
    """
    pandas = import_optional("pandas", SQL_EXTRA)
    sqlalchemy = import_optional("sqlalchemy", SQL_EXTRA)
    if _READS.match(query) is None:
        raise DataError(f"query: expected a statement that begins with SELECT or WITH, got {query!r:.80}")
    url = _url(sqlalchemy, address)
    where = url.render_as_string(hide_password=True)
    try:
        engine = sqlalchemy.create_engine(url)
    except sqlalchemy.exc.ArgumentError as error:
        raise DataError(f"{where}: is no address of a database ({error})") from error
    except ImportError as error:
        raise ImportError(f"{where}: the database's driver is not installed ({error}): install it with pip") from error
    try:
        with engine.connect() as connection:
            found = connection.execute(sqlalchemy.text(query))
            columns, rows = list(found.keys()), found.fetchall()
            connection.rollback()
    except sqlalchemy.exc.SQLAlchemyError as error:
        raise DataError(f"{where}: the query fails ({getattr(error, 'orig', None) or error})") from error
    finally:
        engine.dispose()
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice:
        raise DataError(f"{where}: the query returns column {twice[0]!r} twice: name one of them anew, AS ...")
    if not rows:
        raise DataError(f"{where}: the query returns no rows")
    frame: DataFrame = pandas.DataFrame.from_records([tuple(row) for row in rows], columns=columns, coerce_float=True)
    return frame


def database_name(address: str) -> str:
    """Address of a database for messages, without a password or the value of a variable.

    Args:
        address: As for :func:`read_query`.
    """
    return re.sub(r":[^:@/]*@", ":***@", address)


def _url(sqlalchemy: Any, address: str) -> Any:
    named = address.startswith(FROM_ENVIRONMENT)
    text = os.environ.get(address.removeprefix(FROM_ENVIRONMENT), "") if named else address
    if not text:
        variable = address.removeprefix(FROM_ENVIRONMENT)
        raise DataError(f"database: {address!r}: there is no variable {variable!r} in the environment, or it is empty")
    try:
        url = sqlalchemy.engine.make_url(text)
    except sqlalchemy.exc.ArgumentError as error:
        shown = address if named else f"{address!r:.80}"
        raise DataError(
            f"database: {shown}: expected the address of a database, such as sqlite:///visits.db"
        ) from error
    if url.password is not None and not named:
        raise DataError(
            f"database: {url.render_as_string(hide_password=True)}: a password would be written into the records of "
            "the run: put the address into a variable of the environment, and write database: env:NAME"
        )
    return _read_only(url) if url.get_backend_name() == "sqlite" else url


def _read_only(url: Any) -> Any:
    """URL of a SQLite file that is opened for reading; one that is not there would be made."""
    file = with_home(url.database or "")
    if not file.is_file():
        raise DataError(f"{file}: there is no such SQLite file (looked in {Path.cwd()})")
    return url.set(database=f"file:{file.absolute().as_posix()}", query={"mode": "ro", "uri": "true"})
