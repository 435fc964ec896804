"""Settings of a site's data, with which it has the same examples as in one process."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from hetfed_lightning.cli.errors import ConfigError
from hetfed_lightning.data import ImageFolderDataModule, PartitionedDataModule, SQLDataModule, TableDataModule
from hetfed_lightning.data.name_checks import of_member
from hetfed_lightning.data.named_participants import NamedDataModule
from hetfed_lightning.data.sources.table import table_files
from hetfed_lightning.flower.files.paths import absolute, paths_in, with_paths
from hetfed_lightning.flower.init.source import Source
from hetfed_lightning.showcases import CarParksDataModule, CitiesDataModule, HospitalsDataModule

PUBLIC = "public.safetensors"
SITE_DATA = "hetfed_lightning.data.SiteDataModule"

SETTINGS_BY_NAME = ("batch_size", "transforms")
"""Arguments of every data module that may be given by participant."""

DEALT = (PartitionedDataModule, HospitalsDataModule, CitiesDataModule, CarParksDataModule)
"""Modules that hold all participants' data; a site takes its own share of it."""

MOST_CLASSES = 1000
"""Largest number of numeric labels that are named as classes."""

_NUMBER = re.compile(r"_\d+$")


def site_data(source: Source, name: str, agreed: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Settings of a site's data module.

    Args:
        source: The federation.
        name: The participant.
        agreed: Settings that must be equal at all sites (:func:`agreed_settings`).
    """
    inner = deepcopy(source.written["data"])
    arguments = inner["init_args"] = dict(inner.get("init_args") or {})
    inner = with_paths(inner, lambda path: absolute(path, Path.cwd()))
    arguments = inner["init_args"]
    alone = not is_dealt(source)
    for key in arguments if alone else SETTINGS_BY_NAME:
        if key in arguments:
            arguments[key] = own_part(arguments[key], name, source.names)
    data = source.data
    if isinstance(data, TableDataModule) and not isinstance(data, SQLDataModule) and data.participant_column is None:
        arguments["path"] = _own_table(data.path, name, data.rename)
        arguments.pop("rename", None)  # The file has the new name above.
    if isinstance(source.data, NamedDataModule):
        arguments["participants"] = [name]
        if source.data.global_sets:
            arguments["global_sets"] = False  # No site has the global test set.
        if source.data.public_size:
            arguments["public_size"] = -(-source.data.public_size // len(source.names))
    arguments |= deepcopy(dict(agreed or {}))
    outer: dict[str, Any] = {"participant": name}
    if not alone:
        outer["everyone"] = list(source.names)
    if source.distils:
        outer["public"] = PUBLIC
    return {"class_path": SITE_DATA, "init_args": outer | {"data": inner}}


def is_dealt(source: Source) -> bool:
    """True if a site reads all participants' data to find its share, as in a trial of a federation."""
    if isinstance(source.data, DEALT):
        return True
    if isinstance(source.data, NamedDataModule):
        return False
    arguments = source.written["data"].get("init_args") or {}
    return not any(_is_by_name(value, source.names) for key, value in arguments.items() if key not in SETTINGS_BY_NAME)


def agreed_settings(source: Source) -> dict[str, Any]:
    """Columns, categories and classes by name and in order, if a site would find others in its own file alone.

    Raises:
        ConfigError: If classes or categories are not given, and the data cannot be read here.
    """
    data = source.data
    if not isinstance(data, TableDataModule | ImageFolderDataModule):
        return {}
    is_table = isinstance(data, TableDataModule)
    wants_classes = data.classes is None and not (isinstance(data, TableDataModule) and data.kind == "value")
    wants_columns = isinstance(data, TableDataModule) and data.features is None
    undeclared = _undeclared(data)
    if not wants_classes and not wants_columns and not undeclared:
        return {}
    try:
        found: Any = data.load_participants()
    except (ValueError, OSError, ImportError) as error:
        if undeclared:
            raise ConfigError(
                f"data.init_args.categories: name the values of column {', '.join(map(repr, undeclared))}, since every "
                f"site would find those of its own file; they could not be read here: {error}"
            ) from error
        if not wants_classes:
            return {}  # The sites tell their columns, and are compared before training.
        raise ConfigError(
            f"data.init_args.classes: name all classes, since every site would number those that it has; they could "
            f"not be read here: {error}"
        ) from error
    agreed: dict[str, Any] = {}
    if undeclared:
        agreed["categories"] = {column: list(values) for column, values in found.vocabularies.items()}
    if wants_columns:
        agreed["features"] = list(next(iter(found.features.values())))
    if wants_classes:
        known = found.classes if is_table else next(iter(found.values())).classes
        if known is None:
            largest = max(int(examples.targets.max()) for examples in found.values())
            known = [str(label) for label in range(largest + 1)] if largest < MOST_CLASSES else None
        if known is not None:
            agreed["classes"] = list(known)
    return agreed


def _undeclared(data: object) -> list[str]:
    """Columns of categories whose values are to be agreed."""
    if not isinstance(data, TableDataModule):
        return []
    return [column for column, values in data.encodings.categories.items() if values is None]


def own_part(value: Any, name: str, everyone: Sequence[str]) -> Any:
    """One participant's part of settings by participant; any other value itself.

    Args:
        value: Value of an argument.
        name: The participant; a group's settings become its own.
        everyone: Names of all participants.
    """
    if not _is_by_name(value, everyone):
        return value
    found = of_member(value, name)
    return {} if found is None else {name: found}


def local_paths(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Paths that hold only on the machine of the deployment's making, after their keys; the public set is left out."""
    return [(key, path) for key, path in paths_in(settings, ("data",)) if path != PUBLIC]


def _is_by_name(value: Any, everyone: Sequence[str]) -> bool:
    """True if all keys of a mapping are names of participants or of their groups."""
    if not isinstance(value, Mapping) or not value:
        return False
    groups = {_NUMBER.sub("", name) for name in everyone}
    return all(key in everyone or key in groups for key in value)


def _own_table(path: Any, name: str, rename: Mapping[str, str]) -> dict[str, str]:
    """Table of one participant, by its name."""
    if isinstance(path, Mapping):
        found = {rename.get(str(key), str(key)): str(one) for key, one in path.items()}
    else:
        try:
            found = {key: str(one) for key, one in table_files(path, rename).items()}
        except ValueError as error:
            raise ConfigError(
                f"data.init_args.path: {error}; name each participant's file, path: {{{name}: patients.csv}}"
            ) from error
    if name not in found:
        raise ConfigError(f"data.init_args.path: there is no table of {name!r}, there are {', '.join(found)}")
    return {name: absolute(found[name], Path.cwd())}
