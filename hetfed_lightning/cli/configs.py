"""Configuration files: read strictly, merged deeply, overridden participant by participant."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hetfed_lightning.checkpointing.harmless import check_harmless
from hetfed_lightning.checkpointing.plugin import intact_files
from hetfed_lightning.checkpointing.reading import UnreadableCheckpointError, refuse_address
from hetfed_lightning.cli.errors import ConfigError
from hetfed_lightning.cli.examples import configuration_path
from hetfed_lightning.cli.forbidden_values import check_values
from hetfed_lightning.cli.forms import check_form
from hetfed_lightning.cli.groups import full_form, short_form, template_of
from hetfed_lightning.cli.merging import merge, with_value
from hetfed_lightning.cli.strict_yaml import read_config, read_yaml
from hetfed_lightning.data.name_checks import did_you_mean

__all__ = ["Arguments", "ConfigError", "check_checkpoint", "load_configs", "read_config", "split_arguments"]

PARTICIPANTS = "model.participants"


@dataclass
class Arguments:
    """A command line, split by the parts that handle it.

    Attributes:
        configs: Configuration files, in order.
        participants: Overrides below ``model.participants``, as (path below it, value as YAML text).
        allow_import: Values of ``--allow_import``.
        method: Value of ``--method``; empty without one.
        method_arguments: Values of ``--method.KEY``, as (key, value as YAML text).
        rest: All other arguments, as given.
    """

    configs: list[str] = field(default_factory=list)
    participants: list[tuple[str, str]] = field(default_factory=list)
    allow_import: list[str] = field(default_factory=list)
    method: str = ""
    method_arguments: list[tuple[str, str]] = field(default_factory=list)
    rest: list[str] = field(default_factory=list)


def split_arguments(arguments: Sequence[str]) -> Arguments:
    """Arguments of a command line, split into those handled here and those for jsonargparse.

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
        elif option == "--method":
            found.method = value if has_value else _value(iterator, option)
        elif option.startswith("--method."):
            found.method_arguments.append(
                (option.removeprefix("--method."), value if has_value else _value(iterator, option))
            )
        elif option.startswith(f"--{PARTICIPANTS}.") and option != f"--{PARTICIPANTS}.help":
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
    """Configuration merged from several files, later over earlier, and participants' overrides over all.

    Groups are merged in their short form (``count`` beside ``class_path``) and returned in the parser's form.

    Args:
        paths: YAML or JSON files, or ``hetfed:NAME`` for one that comes with the package.
        overrides: Pairs such as ``("hospital_a.init_args.local_epochs", "3")``; ``init_args`` may be left out.

    Raises:
        ConfigError: If a file cannot be read or an override names no participant.
        ValueError: If a name looks like a group's member and is none.
    """
    merged: dict[str, Any] = {}
    for path in paths:
        config = _without_empty_arguments(read_config(configuration_path(path)))
        check_form(config, path)
        check_values(config, path)
        merged = merge(merged, short_form(config))
    if len(paths) > 1:  # Settings of one file may have come beside the class of another.
        check_form(merged, " and ".join(paths))
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
        value = read_yaml(text, f"--{PARTICIPANTS}.{dotted}")
        if keys == ["count"] and isinstance(settings, dict):
            participants[name] = settings | {"count": value}
        else:
            participants[name] = with_value(settings, keys, value)
    return full_form(merged)


def _without_empty_arguments(tree: Any) -> Any:
    """The same tree without ``init_args:`` that have nothing below them, meaning no arguments."""
    if isinstance(tree, list):
        return [_without_empty_arguments(one) for one in tree]
    if not isinstance(tree, dict):
        return tree
    return {
        key: _without_empty_arguments(value)
        for key, value in tree.items()
        if not (key == "init_args" and value is None and "class_path" in tree)
    }


def check_checkpoint(path: str, *, resuming: bool = False, trusted: bool = False) -> None:
    """Refuse a checkpoint that is an address, is missing, is damaged, or holds more than weights.

    None of its code runs.

    Args:
        path: The file.
        resuming: True if training goes on from it, or from another one in its folder if it is damaged.
        trusted: True if it may hold code that runs.

    Raises:
        ConfigError: If it is refused; names the file.
    """
    try:
        refuse_address(path)
        if not Path(path).is_file():
            raise ConfigError(f"--ckpt_path: no such file: {path}")
        if not trusted:
            check_harmless(path)
    except ConfigError:
        raise
    except ValueError as error:
        damaged = isinstance(error, UnreadableCheckpointError) and error.is_damaged
        if resuming and damaged and any(intact_files(Path(path).parent, Path(path))):
            return
        raise ConfigError(f"--ckpt_path: {error}") from error
