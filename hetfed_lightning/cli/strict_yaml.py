"""YAML read strictly: a key stands once, values are what JSON knows too, and no file is larger than it looks.

What YAML makes of text would be found out late and far from its line: a date, a set, a repetition of repetitions that
fills the memory. Here file, line and key are known.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from hetfed_lightning.cli.errors import ConfigError

LARGEST = 10_000_000
"""Bytes of a file."""

MOST = 100_000
"""Values of a configuration, repeated ones counted as often as they are repeated."""

DEEPEST = 50
"""Mappings and lists inside of each other."""


MERGE = "tag:yaml.org,2002:merge"
"""The key ``<<``, whose value's keys are laid below those that stand beside it."""


class StrictLoader(yaml.SafeLoader):
    """YAML in which a key stands once and ``1e-3`` is a number."""

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        """As any YAML loader, telling the line of what cannot be made.

        Raises:
            ConfigError: If a value is not what its form or its tag says.
        """
        try:
            return super().construct_object(node, deep)
        except ConfigError:
            raise
        except (ValueError, TypeError, OverflowError) as error:
            line = node.start_mark.line + 1
            raise ConfigError(f"{self.name}, line {line}: {node.value!r:.60} cannot be read: {error}.") from error

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """As any YAML loader, up to a size: merges of merges multiply.

        Raises:
            ConfigError: If it becomes too large.
        """
        super().flatten_mapping(node)
        if len(node.value) > MOST:
            raise ConfigError(f"{self.name}, line {node.start_mark.line + 1}: more than {MOST} keys are merged here.")


def _construct_mapping(loader: StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: dict[Any, int] = {}
    for key_node, _ in node.value:
        if key_node.tag == MERGE:
            continue
        key = loader.construct_object(key_node, deep=True)
        line = key_node.start_mark.line + 1
        if not isinstance(key, str | int) or isinstance(key, bool):
            raise ConfigError(
                f"{loader.name}, line {line}: expected text as a key, found {key!r:.60}; put it in quotes."
            )
        if key in seen:
            raise ConfigError(f"{loader.name}: the key {key!r} stands in line {seen[key]} and again in line {line}.")
        seen[key] = line
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct_mapping)
StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9_]+)(?:[eE][-+]?[0-9]+)$"),
    list("-+.0123456789"),
)


def read_config(path: str) -> dict[str, Any]:
    """One configuration file.

    Raises:
        ConfigError: If it is missing, is not UTF-8, is not YAML, repeats a key, holds what is neither text nor a
            number, is too large or too deep, or is no mapping.
    """
    file = Path(path)
    if not file.is_file():
        raise ConfigError(f"{path}: no such configuration file.")
    if file.stat().st_size > LARGEST:
        raise ConfigError(f"{path}: expected at most {LARGEST} bytes, found {file.stat().st_size}.")
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: expected UTF-8 text, found byte 0x{error.object[error.start]:02x} at {error.start}."
        ) from error
    config = read_yaml(text, path)
    if not isinstance(config, dict):
        raise ConfigError(f"{path}: expected keys such as trainer, model and data, found {type(config).__name__}.")
    return config


def read_yaml(text: str, name: str) -> Any:
    """What a text holds.

    Args:
        text: One YAML document.
        name: Of the file or option, for messages.

    Raises:
        ConfigError: As for :func:`read_config`.
    """
    try:
        loader = StrictLoader(text)
        loader.name = name
        found = loader.get_single_data()
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: not valid YAML: {error}") from error
    except RecursionError as error:
        raise ConfigError(f"{name}: expected at most {DEEPEST} levels of lists and mappings, found more.") from error
    size, depth = _checked(found, name, (), {})
    if size > MOST or depth > DEEPEST:
        raise ConfigError(
            f"{name}: expected at most {MOST} values in {DEEPEST} levels, found more: its anchors repeat each other."
        )
    return found


def _checked(value: Any, name: str, keys: tuple[str, ...], known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """How many values there are in one, and in how many levels; each of them is of a kind that JSON has too."""
    if id(value) in known:
        return known[id(value)]
    where = f"{name}, {'.'.join(keys)}" if keys else name
    if len(keys) > DEEPEST:
        raise ConfigError(f"{where:.200}: expected at most {DEEPEST} levels of lists and mappings, found more.")
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        found = [_checked(inside, name, (*keys, str(key)), known) for key, inside in pairs]
        known[id(value)] = 1 + sum(size for size, _ in found), 1 + max((depth for _, depth in found), default=0)
        return known[id(value)]
    if value is not None and not isinstance(value, str | bool | int | float):
        kind = type(value).__name__
        raise ConfigError(
            f"{where}: expected text, a number, a list or a mapping, found a {kind} ({value!r:.60}); put it in quotes."
        )
    return 1, 0
