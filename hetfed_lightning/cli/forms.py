"""Form of a configuration, checked before the parser, whose errors speak of classes and not of the mistake.

Everyday slips are settings beside ``class_path`` instead of below ``init_args``, a misspelled ``class_path``, and
participants beside ``participants`` instead of below. The parser's message names the last alternative it tried.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any

from hetfed_lightning.cli.errors import ConfigError
from hetfed_lightning.data.name_checks import did_you_mean
from hetfed_lightning.federation.federation import Federation

CLASS_KEYS = ("class_path", "init_args", "dict_kwargs")
"""All keys that may stand where a class is named."""

SECTIONS = ("trainer", "data")
OF_CLASSES = ("callbacks", "logger", "plugins")

_MEANT = {
    **dict.fromkeys(("class", "classpath", "class-path", "classPath", "class_name", "cls", "_target_"), "class_path"),
    **dict.fromkeys(("args", "init", "initargs", "init-args", "arguments", "kwargs", "params"), "init_args"),
}
"""Keys of other programs that people write for ``class_path`` and ``init_args``."""

_CLASS = re.compile(r"(?:\w+\.)+[A-Z]\w*")


def check_form(config: Mapping[str, Any], where: str) -> None:
    """Refuse a configuration whose classes and sections are not written as they have to be.

    Args:
        config: Content of a file, or of several of them merged.
        where: The file or files, for messages.

    Raises:
        ConfigError: If one is not; names the file, the key and how to write it.
    """
    for section in SECTIONS:
        found = config.get(section)
        if isinstance(found, list):
            raise ConfigError(f"{where}: {section}: expected settings by name, got a list: leave the dashes out.")
    _check_model(config.get("model"), where)
    _check_trainer(config.get("trainer"), where)
    for keys, settings in _mappings(config, ()):
        _check_class(settings, keys, where)
        _check_slips(settings, keys, where)


def _check_model(model: Any, where: str) -> None:
    """Refuse participants that do not stand below ``participants``."""
    if not isinstance(model, Mapping):
        return
    known = set(inspect.signature(Federation).parameters)
    for key, value in model.items():
        if key not in known and isinstance(value, Mapping) and ("class_path" in value or "init_args" in value):
            hint = did_you_mean(key, known)
            raise ConfigError(
                f"{where}: model.{key}: "
                + (
                    f"a federation has no such setting{hint}"
                    if "did you mean" in hint
                    else "participants stand below model.participants: write that line above them and indent them."
                )
            )


def _check_trainer(trainer: Any, where: str) -> None:
    """Refuse items of a Trainer's lists of objects that are not named by a class."""
    for key in OF_CLASSES if isinstance(trainer, Mapping) else ():
        found = trainer.get(key)
        for place, one in enumerate(found if isinstance(found, list) else [found]):
            at = f"trainer.{key}.{place}" if isinstance(found, list) else f"trainer.{key}"
            if isinstance(one, Mapping) and not {"class_path", *_MEANT} & one.keys() and not _is_class_as_key(one):
                raise ConfigError(
                    f"{where}: {at}: expected class_path and init_args, got the keys {', '.join(map(str, one))}."
                )


def _is_class_as_key(settings: Mapping[Any, Any]) -> bool:
    return len(settings) == 1 and all(_CLASS.fullmatch(str(key)) for key in settings)


def _check_class(settings: Mapping[Any, Any], keys: tuple[str, ...], where: str) -> None:
    """Refuse settings of a class that do not stand below ``init_args``."""
    place = f"{where}: {'.'.join(keys)}" if keys else where
    for written, meant in _MEANT.items():
        beside = "init_args" in settings or (isinstance(settings.get(written), str) and _CLASS.match(settings[written]))
        if written in settings and (beside if meant == "class_path" else "class_path" in settings):
            raise ConfigError(f"{place}: found {written!r}; did you mean {meant!r}?")
    if "class_path" not in settings:
        return
    is_participant = keys[:2] == ("model", "participants") and len(keys) == 3
    allowed = (*CLASS_KEYS, "count") if is_participant else CLASS_KEYS
    extra = [str(key) for key in settings if key not in allowed]
    if extra:
        shown = ", ".join(f"{key}: ..." for key in extra)
        raise ConfigError(
            f"{place}: {', '.join(map(repr, extra))} stand{'s' if len(extra) == 1 else ''} beside class_path; what a "
            f"class is made with stands below init_args: {{class_path: {settings['class_path']}, "
            f"init_args: {{{shown}}}}}."
        )


def _check_slips(settings: Mapping[Any, Any], keys: tuple[str, ...], where: str) -> None:
    """Refuse keys without value that are slips: in YAML's braces every text without ``: `` is such a key."""
    place = f"{where}: {'.'.join(keys)}" if keys else where
    for key, value in settings.items():
        text = str(key)
        if value is None and re.fullmatch(r"\w+[=:]\S.*", text):
            name, rest = re.split("[=:]", text, maxsplit=1)
            raise ConfigError(f"{place}: found the key {text!r} without a value; write {name}: {rest}, with a space.")
        if value is None and text.isdigit():
            raise ConfigError(f"{place}: found the key {text!r} without a value; a decimal point is a point.")
        if _is_class_as_key(settings) and isinstance(value, Mapping | None):
            raise ConfigError(
                f"{place}: found the class {text!r} as a key; write {{class_path: {text}, init_args: {{...}}}}."
            )


def _mappings(value: Any, keys: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Mapping[Any, Any]]]:
    """Every mapping of a configuration with the keys that lead to it, the outermost first."""
    if isinstance(value, Mapping):
        yield keys, value
    inside = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inside:
        yield from _mappings(one, (*keys, str(key)))
