"""Configuration files: read strictly, merged deeply, overridden participant by participant."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from hetfed_lightning.checkpointing.plugin import intact_files
from hetfed_lightning.checkpointing.reading import UnreadableCheckpointError, read_checkpoint
from hetfed_lightning.cli.groups import full_form, short_form, template_of
from hetfed_lightning.cli.merging import merge, with_value
from hetfed_lightning.data.names import did_you_mean

PARTICIPANTS = "model.participants"


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names file, participant or key."""


class _StrictLoader(yaml.SafeLoader):
    """YAML in which a key stands once and ``1e-3`` is a number."""


def _construct_mapping(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: dict[Any, int] = {}
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        line = key_node.start_mark.line + 1
        if key in seen:
            raise ConfigError(f"{loader.name}: the key {key!r} stands in line {seen[key]} and again in line {line}.")
        seen[key] = line
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct_mapping)
_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9_]+)(?:[eE][-+]?[0-9]+)$"),
    list("-+.0123456789"),
)


@dataclass
class Arguments:
    """A command line, taken apart.

    Attributes:
        configs: Configuration files, in order.
        participants: Overrides below ``model.participants``, as (path below it, value as YAML text).
        allow_import: What ``--allow_import`` names.
        rest: Everything else, as given.
    """

    configs: list[str] = field(default_factory=list)
    participants: list[tuple[str, str]] = field(default_factory=list)
    allow_import: list[str] = field(default_factory=list)
    rest: list[str] = field(default_factory=list)


def split_arguments(arguments: Sequence[str]) -> Arguments:
    """Separate what this module handles from what jsonargparse does.

    Raises:
        ConfigError: If an option lacks its value.
    """
    found = Arguments()
    iterator = iter(arguments)
    for argument in iterator:
        option, has_value, value = argument.partition("=")
        if option in {"-c", "--config"}:
            found.configs.append(value if has_value else _value(iterator, option))
        elif option == "--allow_import":
            found.allow_import.append(value if has_value else _value(iterator, option))
        elif option.startswith(f"--{PARTICIPANTS}."):
            path = option.removeprefix(f"--{PARTICIPANTS}.")
            found.participants.append((path, value if has_value else _value(iterator, option)))
        else:
            found.rest.append(argument)
    return found


def _value(iterator: Iterator[str], option: str) -> str:
    value = next(iterator, None)
    if value is None:
        raise ConfigError(f"{option}: expected a value after it.")
    return value


def load_configs(paths: Sequence[str], overrides: Sequence[tuple[str, str]] = ()) -> dict[str, Any]:
    """One configuration of several files, later ones over earlier ones, and participants' overrides over all.

    Groups are merged in their short form (``count`` beside ``class_path``) and returned as the parser takes them.

    Args:
        paths: YAML or JSON files.
        overrides: ``("hospital_a.init_args.local_epochs", "3")`` and so on; ``init_args`` may be left out.

    Raises:
        ConfigError: If a file cannot be read or an override names no participant.
        ValueError: If a name looks like a group's member and is none.
    """
    merged: dict[str, Any] = {}
    for path in paths:
        merged = merge(merged, short_form(read_config(path)))
    model = merged.get("model")
    participants = model.get("participants") if isinstance(model, dict) else None
    if isinstance(participants, dict):
        for name in [name for name, value in participants.items() if value is None]:
            if template_of(str(name), participants) is not None:
                raise ConfigError(f"{PARTICIPANTS}.{name}: a member cannot be taken out of its group; lower its count.")
            del participants[name]
    for dotted, text in overrides:
        name, *keys = dotted.split(".")
        settings = participants.get(name) if isinstance(participants, dict) else None
        if isinstance(participants, dict) and (template := template_of(name, participants)) is not None:
            settings = merge(template, settings or {})
        if not isinstance(participants, dict) or settings is None:
            raise ConfigError(
                f"--{PARTICIPANTS}.{dotted}: no participant {name!r}{did_you_mean(name, participants or ())}."
            )
        value = yaml.load(text, _StrictLoader)  # noqa: S506 - a SafeLoader
        if keys == ["count"] and isinstance(settings, dict):
            participants[name] = settings | {"count": value}
        else:
            participants[name] = with_value(settings, keys, value)
    return full_form(merged)


def read_config(path: str) -> dict[str, Any]:
    """One configuration file.

    Raises:
        ConfigError: If it is missing, is not UTF-8, is not YAML, repeats a key, or is no mapping.
    """
    file = Path(path)
    if not file.is_file():
        raise ConfigError(f"{path}: no such configuration file.")
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: expected UTF-8 text, found byte 0x{text_byte(error):02x} at {error.start}."
        ) from error
    try:
        loader = _StrictLoader(text)
        loader.name = path
        config = loader.get_single_data()
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(config, dict):
        raise ConfigError(f"{path}: expected keys such as trainer, model and data, found {type(config).__name__}.")
    return config


def check_checkpoint(path: str, *, resuming: bool = False) -> None:
    """Refuse a checkpoint file that is missing, is not whole, or holds more than weights; none of its code runs.

    Args:
        path: The file.
        resuming: Whether training goes on from it, or from another one in its folder if it is damaged.

    Raises:
        ConfigError: Naming the file.
    """
    if not Path(path).is_file():
        raise ConfigError(f"--ckpt_path: no such file: {path}")
    try:
        read_checkpoint(path, map_location="meta", mmap=True)  # The index alone, not the tensors.
    except UnreadableCheckpointError as error:
        if resuming and error.is_damaged and any(intact_files(Path(path).parent, Path(path))):
            return
        raise ConfigError(f"--ckpt_path: {error}") from error


def text_byte(error: UnicodeDecodeError) -> int:
    """The byte at which decoding failed."""
    return error.object[error.start]
