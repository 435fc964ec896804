"""Data modules over files: pools that are dealt out (IDX, npz), and data whose participants have names already."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from hetfed_lightning.data.errors import DataError
from hetfed_lightning.data.examples import Examples
from hetfed_lightning.data.learned import learned_classes, learned_columns, means_of, refuse_other_meaning
from hetfed_lightning.data.module import FederatedData
from hetfed_lightning.data.named_participants import NamedDataModule
from hetfed_lightning.data.partitioned import PartitionedDataModule, Pool, shuffled
from hetfed_lightning.data.partitions import Partition
from hetfed_lightning.data.schema import DataSchema
from hetfed_lightning.data.sources import (
    Encodings,
    Tables,
    read_idx_folder,
    read_image_folder,
    read_npz,
    read_npz_splits,
    read_queries,
    read_table,
    read_tables,
)
from hetfed_lightning.data.sources.frames import read_frame
from hetfed_lightning.data.sources.moments import cut_at, cut_in_time, moment

if TYPE_CHECKING:
    from pandas import DataFrame

log = logging.getLogger(__name__)


class IDXDataModule(PartitionedDataModule):
    """Folder of IDX files (MNIST, Fashion-MNIST) dealt out to the participants.

    Args:
        folder: Holds ``train-images-idx3-ubyte`` and its three companions, each plain or gzipped.
        partition: Partition of the samples; see :class:`PartitionedDataModule`.
        max_samples: Number of training images to deal out, drawn at random; None for all.
        max_unpacked: Bytes that a gzipped file may unpack to; None for 256 MiB, or a hundred times the file's size.
        settings: As for :class:`PartitionedDataModule`.
    """

    def __init__(
        self,
        folder: str,
        partition: Partition | None = None,
        *,
        max_samples: int | None = None,
        max_unpacked: int | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(partition, **settings)
        if max_samples is not None and max_samples < 1:
            raise DataError(f"max_samples: expected at least 1 or None, got {max_samples}.")
        self.folder = folder
        self.max_samples = max_samples
        self.max_unpacked = max_unpacked

    def load_pool(self) -> Pool:
        """Pool of the folder's images.

        Raises:
            DataError: If the folder cannot be read or has no training images.
        """
        splits = read_idx_folder(self.folder, max_unpacked=self.max_unpacked)
        if "train" not in splits:
            raise DataError(
                f"{self.folder}: expected training images (train-images-idx3-ubyte), found test images alone"
            )
        examples = splits["train"]
        if self.max_samples is not None and self.max_samples < len(examples):
            examples = examples.subset(shuffled(len(examples), self.seed, "selection")[: self.max_samples])
        return Pool(examples, splits.get("test"))


class NPZDataModule(PartitionedDataModule):
    """Archive of NumPy arrays dealt out to the participants: in MedMNIST's layout, or of inputs and targets.

    Args:
        path: The archive.
        partition: Partition of the samples; see :class:`PartitionedDataModule`.
        inputs: Name of the array of inputs; None for MedMNIST's ``train_images`` and so on.
        targets: Name of the array of targets.
        max_unpacked: Bytes that the arrays may unpack to; None for 256 MiB, or a hundred times the file's size.
        settings: As for :class:`PartitionedDataModule`.
    """

    def __init__(
        self,
        path: str,
        partition: Partition | None = None,
        *,
        inputs: str | None = None,
        targets: str = "y",
        max_unpacked: int | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(partition, **settings)
        self.path = path
        self.inputs = inputs
        self.targets = targets
        self.max_unpacked = max_unpacked

    def load_pool(self) -> Pool:
        """Pool of the archive's examples.

        Raises:
            DataError: If the archive cannot be read or has no training examples.
        """
        if self.inputs is not None:
            return Pool(read_npz(self.path, self.inputs, self.targets, max_unpacked=self.max_unpacked))
        splits = read_npz_splits(self.path, max_unpacked=self.max_unpacked)
        if "train" not in splits:
            raise DataError(f"{self.path}: expected train_images and train_labels, found {', '.join(splits)} alone")
        return Pool(splits["train"], splits.get("test"))


class TableDataModule(NamedDataModule):
    """Table with a column of participants, or one CSV file per participant.

    Args:
        path: A table, a folder of CSV files, a list of files (their stems are the names), or files by name.
        target: Column to predict.
        participant_column: Column of the participants' names; None where each has a file.
        features: Input columns; by participant where they record different ones. None for all columns that every file
            has, matched by name, except those that number or name the rows. They must be numbers and go in as they are:
            scale them beforehand or in the participant's transform.
        kind: ``"class"`` or ``"value"``.
        classes: Names of all classes, in order, as the target column has them, numbers too (``["1", "2"]``). None for
            the sorted names in all files that are read, or the numbers themselves. A participant that reads its own
            file alone has to give them, since its file may lack some.
        missing: ``"mean"`` fills gaps by the mean of the participant's own training rows, ``"drop"`` drops rows,
            ``"keep"`` keeps gaps as NaN for a transform such as ``Standardise(fill_missing=True)``; None refuses them.
            Means are kept with the participant, in checkpoints and exports, for its predictions.
        separator: Mark between the columns of a CSV file, one character.
        decimal: Mark before the decimals of a CSV file, ``"."`` or ``","``.
        max_unpacked: Bytes that a compressed file may unpack to; None for 256 MiB, or a hundred times the file's size.
        categories: Columns of categories, which become an input for each value, one for values that are not known and
            one for missing ones. Values by column, in order; null, or a list of columns alone, for the sorted values in
            all files that are read.
        booleans: Columns of yes and no (true and false, y and n, 1 and 0), which become 1 and 0; by column, the words
            for no and for yes, or null for the usual ones.
        dates: Columns of dates and what is made of each: ``"year"``, ``"month"``, ``"day"``, ``"weekday"`` (0 for
            Monday), ``"day of year"``, ``"hour"``, ``"days since 2000-01-01"``, ``"days since COLUMN"``. Times with an
            offset are taken in UTC.
        date_format: Form of all dates, as ``"%d.%m.%Y"``; None for ISO 8601.
        time_column: Column of dates or numbers by which each participant's rows are split: earlier ones train, later
            ones validate and test, by ``own_fractions`` or ``split_at``. No feature unless it is listed.
        split_at: First days of the validation and of the test rows, for all participants; None for ``own_fractions``.
        min_rows: Fewest rows of a participant; those with fewer are left out, and named in the log.
        rename: New names of participants by those in the table or of the files.
        settings: As for :class:`NamedDataModule`.
    """

    def __init__(
        self,
        path: str | list[str] | dict[str, str],
        target: str,
        *,
        participant_column: str | None = None,
        features: list[str] | dict[str, list[str]] | None = None,
        kind: Literal["class", "value"] = "class",
        classes: list[str] | None = None,
        missing: Literal["mean", "drop", "keep"] | None = None,
        separator: str = ",",
        decimal: str = ".",
        max_unpacked: int | None = None,
        categories: dict[str, list[str | int] | None] | list[str] | None = None,
        booleans: dict[str, list[str] | None] | list[str] | None = None,
        dates: dict[str, list[str]] | None = None,
        date_format: str | None = None,
        time_column: str | None = None,
        split_at: list[str | float] | None = None,
        min_rows: int = 1,
        rename: dict[str, str] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        if missing not in {None, "mean", "drop", "keep"}:
            raise DataError(f"missing: expected 'mean', 'drop', 'keep' or None, got {missing!r}.")
        if participant_column is not None and not isinstance(path, str):
            raise DataError(
                "participant_column goes with one table, but path names several files; give one or the other."
            )
        self.path = path
        self.target = target
        self.participant_column = participant_column
        self.features = features
        self.kind = kind
        self.classes = classes
        self.missing = missing
        self.separator = separator
        self.decimal = decimal
        self.max_unpacked = max_unpacked
        self.encodings = Encodings.of(categories, booleans, dates, date_format)
        if min_rows < 1:
            raise DataError(f"min_rows: expected at least 1, got {min_rows}.")
        if time_column is not None and self.stratify:
            raise DataError("stratify=True draws at random and cannot go with time_column; choose one.")
        if split_at is not None and (time_column is None or len(split_at) != 2):
            raise DataError(
                "split_at: expected the first days of the validation and of the test rows, and the time_column that "
                f"they are of, got {split_at!r} and {time_column!r}."
            )
        self.time_column = time_column
        self.split_at = split_at
        self.min_rows = min_rows
        self.rename = dict(rename or {})
        self.left_out: dict[str, int] = {}
        self._times: dict[str, NDArray[np.float64]] = {}

    def load_participants(self) -> Tables:
        """Examples of each participant, by name; gaps that are to be filled are NaN in them.

        Raises:
            DataError: If a file cannot be read, or does not go with the schema of a trained participant.
        """
        options: dict[str, Any] = {
            "features": self.features if self.features is not None else learned_columns(self.learned),
            "kind": self.kind,
            "missing": "keep" if self.missing == "mean" else self.missing,
            "classes": self.classes if self.classes is not None else learned_classes(self.learned),
            "separator": self.separator,
            "decimal": self.decimal,
            "max_unpacked": self.max_unpacked,
            "encodings": self.encodings,
            "time_column": self.time_column,
            "rename": self.rename,
        }
        tables = self.read(options)
        self._leave_out_small(tables)
        self._times = tables.times
        recipe: dict[str, Any] = {
            "target": self.target,
            "encodings": self.encodings,
            "keeps_gaps": self.missing == "keep",
        }
        self.schemas = {name: DataSchema(tables.features[name], tables.classes or (), **recipe) for name in tables}
        for name, schema in self.learned.items():
            if name in self.schemas:
                refuse_other_meaning(name, schema, self.schemas[name])
        return tables

    def read(self, options: Mapping[str, Any]) -> Tables:
        """Tables of the files.

        Args:
            options: Settings by name, as for :func:`~hetfed_lightning.data.sources.read_table`.

        Raises:
            DataError: If a file cannot be read.
        """
        if self.participant_column is not None and isinstance(self.path, str):
            return read_table(self.path, self.target, self.participant_column, **options)
        return read_tables(self.path, self.target, **options)

    def read_new(self, path: Path, as_text: Sequence[str] = ()) -> DataFrame:
        """Rows of a new file, read with the same separator and decimal mark, participants renamed and read as text.

        Args:
            path: CSV or parquet file.
            as_text: Further columns to read as text.

        Raises:
            DataError: If the file cannot be read as a table.
            ImportError: If pandas (or pyarrow, for parquet) is not installed.
        """
        texts = [*as_text, *self.encodings.texts, *([self.participant_column] if self.participant_column else [])]
        marks: dict[str, Any] = {"decimal": self.decimal, "max_unpacked": self.max_unpacked}
        frame = read_frame(path, self.separator, texts, **marks)
        if self.rename and self.participant_column in list(frame.columns):
            names = frame[self.participant_column].map(lambda name: self.rename.get(str(name).strip(), name))
            return frame.assign(**{str(self.participant_column): names})
        return frame

    def load(self, participants: tuple[str, ...]) -> FederatedData:
        """Data sets of the participants, each cut by itself.

        Args:
            participants: Names of the federation's participants, of whom none may be left out for its few rows.

        Raises:
            DataError: As for :class:`NamedDataModule`; if one of ``participants`` has fewer than ``min_rows`` rows.
        """
        found = super().load(participants)
        for name in participants:
            self._refuse_left_out(name)
        return found

    def _leave_out_small(self, tables: Tables) -> None:
        self.left_out = {name: len(rows) for name, rows in tables.items() if len(rows) < self.min_rows}
        if not self.left_out:
            return
        listed = ", ".join(f"{name} ({count})" for name, count in self.left_out.items())
        if len(self.left_out) == len(tables):
            raise DataError(f"min_rows={self.min_rows}: all participants have fewer rows: {listed}. Lower it.")
        log.warning(
            "Left out, since they have fewer than %d rows: %d of %d participants, %s.",
            self.min_rows, len(self.left_out), len(tables), listed,
        )  # fmt: skip
        for name in self.left_out:
            del tables[name]

    def _refuse_left_out(self, name: str) -> None:
        if name in self.left_out:
            raise DataError(
                f"min_rows={self.min_rows}: participant {name!r} has {self.left_out[name]} rows and is left out: take "
                "it out of the configuration's participants, or lower min_rows."
            )

    def wanted(self, found: Mapping[str, Dataset[Any]]) -> Mapping[str, Dataset[Any]]:
        """Examples of the participants that are to be read, by name, in order.

        Args:
            found: Examples of all that have enough rows.

        Raises:
            DataError: If one has no data, or too few rows.
        """
        for name in self.names or ():
            self._refuse_left_out(name)
        return super().wanted(found)

    def cut(self, name: str, dataset: Dataset[Any]) -> tuple[Tensor, Tensor, Tensor]:
        """Positions of a participant's training, validation and test rows, in time if there is a ``time_column``.

        Args:
            name: Name of the participant.
            dataset: All of its examples.

        Raises:
            DataError: If they cannot be split.
        """
        times = self._times.get(name)
        if times is None:
            return super().cut(name, dataset)
        if self.split_at is not None:
            return cut_at(name, times, [moment(one) for one in self.split_at])
        if len(times) < sum(share > 0 for share in self.own_fractions):
            return super().cut(name, dataset)
        return cut_in_time(times, self.own_fractions)

    def prepared(self, name: str, dataset: Dataset[Any], trained: Tensor) -> Dataset[Any]:
        """Examples with each gap filled by the mean of its column in the training rows, if ``missing="mean"``.

        Args:
            name: Name of the participant.
            dataset: All of its examples.
            trained: Positions of its training rows, shape ``(n,)``.
        """
        if self.missing != "mean" or not isinstance(dataset, Examples) or not isinstance(dataset.inputs, Tensor):
            return dataset
        schema = self.schemas[name]
        known = self.learned.get(name)
        if known is not None and known.fillings:
            fillings = known.fillings
        else:
            fillings = means_of(dataset.inputs[trained], schema.columns, name)
        schema = self.schemas[name] = replace(schema, fillings=fillings)
        return Examples(schema.filled(dataset.inputs), dataset.targets, rows=dataset.rows)


class SQLDataModule(TableDataModule):
    """Rows of an SQL query, with a column of participants or a database for each; the database is only read.

    Args:
        database: SQLAlchemy URL, such as ``"sqlite:///visits.db"``; or URLs by participant. ``"env:NAME"`` takes it
            from a variable of the environment, as one with a password has to be.
        query: One statement that begins with SELECT or WITH.
        target: Column to predict.
        settings: As for :class:`TableDataModule`, without those of files.
    """

    def __init__(self, database: str | dict[str, str], query: str, target: str, **settings: Any) -> None:
        super().__init__("", target, **settings)
        self.database = database
        self.query = query

    def read(self, options: Mapping[str, Any]) -> Tables:
        """Tables of the rows that the query returns.

        Args:
            options: Settings by name, as for :func:`~hetfed_lightning.data.sources.read_table`.

        Raises:
            DataError: If a query fails, or returns no row.
        """
        known = {key: value for key, value in options.items() if key not in {"separator", "decimal", "max_unpacked"}}
        return read_queries(self.database, self.query, self.target, self.participant_column, **known)


class ImageFolderDataModule(NamedDataModule):
    """Images under ``<folder>/<participant>/<class>/``, opened when they are needed.

    Args:
        folder: The folder of participants.
        image_size: Height and width in pixels to resize to.
        mode: ``"L"`` for one channel, ``"RGB"`` for three.
        classes: Names of all classes, in order; None for the sorted names of all class folders.
        settings: As for :class:`NamedDataModule`.
    """

    def __init__(
        self,
        folder: str,
        *,
        image_size: int | tuple[int, int] | None = None,
        mode: Literal["L", "RGB"] = "RGB",
        classes: list[str] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.folder = folder
        self.image_size = image_size
        self.mode: Literal["L", "RGB"] = mode
        self.classes = classes

    def load_participants(self) -> Mapping[str, Dataset[Any]]:
        """Image files of each participant, by name.

        Raises:
            DataError: If the folder cannot be read.
        """
        classes = self.classes if self.classes is not None else learned_classes(self.learned)
        found = read_image_folder(self.folder, self.image_size, self.mode, classes=classes)
        self.schemas = {name: DataSchema(classes=files.classes) for name, files in found.items()}
        for name, schema in self.learned.items():
            if name in self.schemas:
                refuse_other_meaning(name, schema, self.schemas[name])
        return found
