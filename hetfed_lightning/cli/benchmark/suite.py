"""A benchmark's suite: data sets, their partitions, methods and seeds, and the cells that these make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from hetfed_lightning.cli.benchmark.search import Choice, Tuning, replaced, tuning_of
from hetfed_lightning.cli.configs import load_configs
from hetfed_lightning.cli.errors import ConfigError
from hetfed_lightning.cli.examples import PREFIX
from hetfed_lightning.cli.groups import full_form, short_form
from hetfed_lightning.cli.method_option import with_method
from hetfed_lightning.cli.strict_yaml import read_config
from hetfed_lightning.data.name_checks import did_you_mean

LOCAL, CENTRALISED, LINEAR, MAJORITY, CONFIGURED = "local", "centralised", "linear", "majority", "configured"
REFERENCES = (LOCAL, CENTRALISED, LINEAR, MAJORITY)
"""Rows of every benchmark: nothing shared, all data in one place, simplest models on each one's own data."""

KEYS = ("data", "methods", "seeds", "output", "threads", "references", "allow_import", "tune")


@dataclass(frozen=True)
class DataSet:
    """A configuration that methods are compared on.

    Attributes:
        config: Its file.
        partition: Name of its partition; empty for the file's own.
        settings: Values by dotted key that replace the file's, such as ``{"trainer.max_epochs": 5}``.
        target: Validation figure that "rounds to target" counts to; None to leave that out.
        leave_out: Titles of rows that mean nothing on it, such as data pooled from several units.
    """

    config: str
    partition: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    target: float | None = None
    leave_out: Sequence[str] = ()


@dataclass(frozen=True)
class Row:
    """A method of a suite.

    Attributes:
        method: Name as for ``--method``, one of :data:`REFERENCES`, or ``"configured"`` for the file's own methods.
        arguments: Arguments of the method.
    """

    method: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Suite:
    """Data sets, methods and seeds that a benchmark compares.

    Attributes:
        data: Data sets by title.
        methods: Rows by title, the references among them.
        seeds: Seeds of weights, split and batches; one cell for each.
        output: Folder of cells and tables.
        threads: Threads of torch in every cell, whatever runs beside it: sums depend on them in the last bit.
        allow_import: Packages that configurations may import from.
        tuning: How rows are tuned before they are compared; None for not at all.
        chosen: What rows have in place of their own values, by titles of data set and row.
    """

    data: Mapping[str, DataSet]
    methods: Mapping[str, Row]
    seeds: Sequence[int]
    output: str = "runs/benchmark"
    threads: int = 1
    allow_import: Sequence[str] = ()
    tuning: Tuning | None = None
    chosen: Mapping[tuple[str, str], Choice] = field(default_factory=dict)


@dataclass(frozen=True)
class Cell:
    """One training of a benchmark.

    Attributes:
        data: Title of the data set.
        method: Title of the row.
        seed: Seed.
    """

    data: str
    method: str
    seed: int

    def __str__(self) -> str:
        return f"{self.data}, {self.method}, seed {self.seed}"


def read_suite(path: str) -> Suite:
    """Suite of a YAML file; paths in it count from the file's folder.

    Args:
        path: The file: ``data`` and ``methods``, and where wanted ``seeds`` (5), ``output``, ``threads``,
            ``references``, ``allow_import`` and ``tune``.

    Raises:
        ConfigError: If the file cannot be read or has other keys; names the key.
    """
    found = read_config(path)
    return suite_of(found, Path(path).parent, path)


def suite_of(settings: Mapping[str, Any], folder: Path = Path(), where: str = "suite") -> Suite:
    """Suite of settings in the form of a suite's file.

    Args:
        settings: The settings.
        folder: Folder that paths of configurations count from.
        where: What to call the settings in messages.

    Raises:
        ConfigError: If a key is missing, unknown or of another form.
    """
    for key in settings:
        if key not in KEYS:
            raise ConfigError(f"{where}: {key}: a suite has no such key{did_you_mean(str(key), KEYS)}.")
    for key in ("data", "methods"):
        if not settings.get(key):
            raise ConfigError(f"{where}: {key}: expected at least one entry.")
    seeds = settings.get("seeds", 5)
    chosen = list(range(seeds)) if isinstance(seeds, int) else seeds
    if not (isinstance(chosen, list) and chosen and all(type(one) is int and one >= 0 for one in chosen)):
        raise ConfigError(f"{where}: seeds: expected their number or a list of integers of at least 0, got {seeds!r}.")
    if len(set(chosen)) < len(chosen):
        raise ConfigError(f"{where}: seeds: a seed stands twice in {chosen}; a cell is run once.")
    references = settings.get("references", list(REFERENCES))
    for one in references:
        if one not in REFERENCES:
            raise ConfigError(f"{where}: references: no row {one!r}{did_you_mean(str(one), REFERENCES)}.")
    rows = {one: Row(one) for one in references}
    rows |= _rows(settings["methods"], where)
    return Suite(
        _data_sets(settings["data"], folder, where, list(rows)),
        rows,
        chosen,
        str(settings.get("output", "runs/benchmark")),
        int(settings.get("threads", 1)),
        tuple(settings.get("allow_import", ())),
        tuning_of(settings["tune"], list(rows), chosen, where) if settings.get("tune") is not None else None,
    )


def with_trials(suite: Suite, trials: int) -> Suite:
    """Suite with another number of trials for every row.

    Args:
        suite: The suite.
        trials: Number of trials, at least 1.

    Raises:
        ConfigError: If the number is none.
    """
    found = suite.tuning or tuning_of({}, list(suite.methods), suite.seeds, "suite")
    if trials < 1:
        raise ConfigError(f"--tune: expected at least 1 trial, got {trials}.")
    return replace(suite, tuning=replace(found, trials=trials))


def cells_of(suite: Suite) -> list[Cell]:
    """Cells of a suite, in the order in which they are run: seed by seed, so that a stopped one compares alike."""
    return [
        Cell(data, method, seed)
        for seed in suite.seeds
        for data, one in suite.data.items()
        for method in suite.methods
        if method not in one.leave_out
    ]


def base_config(data: DataSet) -> dict[str, Any]:
    """Configuration of a data set with its replaced values.

    Raises:
        ConfigError: If the file cannot be used.
    """
    config = short_form(load_configs([data.config]))
    for key, value in data.settings.items():
        config = replaced(config, key, value)
    return full_form(config)


def config_of(suite: Suite, cell: Cell) -> dict[str, Any]:
    """Configuration that a cell is trained by, with its seed and threads.

    Raises:
        ConfigError: If the file cannot be used, or nobody knows the method.
    """
    config = base_config(suite.data[cell.data])
    row = suite.methods[cell.method]
    choice = suite.chosen.get((cell.data, cell.method), Choice())
    config = short_form(config)
    for key, value in choice.settings.items():
        config = replaced(config, key, value)
    for key, factor in choice.factors.items():
        config = replaced(config, key, factor, times=True)
    config = full_form(config)
    if row.method not in (*REFERENCES, CONFIGURED):
        arguments = [(key, yaml.safe_dump(value)) for key, value in {**row.arguments, **choice.arguments}.items()]
        config = with_method(config, row.method, arguments, suite.allow_import)
    return config | {"seed_everything": cell.seed, "threads": suite.threads}


def _rows(methods: Any, where: str) -> dict[str, Row]:
    if isinstance(methods, list):
        methods = {str(one): one for one in methods}
    if not isinstance(methods, Mapping):
        raise ConfigError(f"{where}: methods: expected a list of names, or titles with methods, got {methods!r}.")
    rows = {}
    for title, given in methods.items():
        settings = {"method": given} if isinstance(given, str) else given
        if not isinstance(settings, Mapping) or not isinstance(settings.get("method"), str):
            raise ConfigError(f"{where}: methods.{title}: expected a name or {{method: NAME, ARGUMENT: value}}.")
        rows[str(title)] = Row(settings["method"], {key: one for key, one in settings.items() if key != "method"})
    return rows


def _data_sets(given: Any, folder: Path, where: str, rows: Sequence[str]) -> dict[str, DataSet]:
    if not isinstance(given, Mapping):
        raise ConfigError(f"{where}: data: expected configurations by title, got {given!r}.")
    found: dict[str, DataSet] = {}
    known = ("config", "set", "partitions", "target", "leave_out")
    for title, one in given.items():
        settings: Any = {"config": one} if isinstance(one, str) else one
        if not isinstance(settings, Mapping) or not isinstance(settings.get("config"), str):
            raise ConfigError(f"{where}: data.{title}: expected a file or {{config: FILE, set: ..., partitions: ...}}.")
        for key in settings:
            if key not in known:
                raise ConfigError(f"{where}: data.{title}.{key}: no such key{did_you_mean(str(key), known)}.")
        left_out = tuple(settings.get("leave_out") or ())
        for row in left_out:
            if row not in rows:
                raise ConfigError(f"{where}: data.{title}.leave_out: no row {row!r}{did_you_mean(str(row), rows)}.")
        file, values = settings["config"], dict(settings.get("set") or {})
        path = file if file.startswith(PREFIX) else str(folder / file)
        target = settings.get("target")
        for name, partition in (settings.get("partitions") or {"": None}).items():
            dealt = values if partition is None else values | {"data.init_args.partition": partition}
            found[f"{title} {name}".strip()] = DataSet(path, str(name), dealt, target, left_out)
    return found
