"""``--method NAME``: another method in place of those of a configuration."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from hetfed_lightning.cli.errors import ConfigError
from hetfed_lightning.cli.groups import full_form, short_form
from hetfed_lightning.cli.known_methods import NamedMethod, known_methods
from hetfed_lightning.methods.method import Method

PACKAGE = "hetfed_lightning"


def with_method(
    config: dict[str, Any], name: str, arguments: Sequence[tuple[str, str]], allowed: Sequence[str] = ()
) -> dict[str, Any]:
    """Configuration whose federated methods are replaced by one; other callbacks stay in their places.

    Participants share what the method's paper has them share, unless it says nothing of that. A unified student, which
    no named method teaches, is left out.

    Args:
        config: Merged configuration; left as it is.
        name: Name of a known method, or the dotted path of a class of a user's own.
        arguments: Pairs of an argument of the method and its value, as YAML text.
        allowed: Values of ``--allow_import``.

    Raises:
        ConfigError: If nobody knows the name, or a value is no YAML.
    """
    method = _named(name)
    made = {**method.init_args, **{key: _value(key, text) for key, text in arguments}}
    trainer = dict(config.get("trainer") or {})
    callbacks = trainer.get("callbacks") or []
    callbacks = list(callbacks) if isinstance(callbacks, list) else [callbacks]
    places = [place for place, one in enumerate(callbacks) if _is_method(one, allowed)]
    kept = [one for place, one in enumerate(callbacks) if place not in places]
    entry = [{"class_path": method.class_path} | ({"init_args": made} if made else {})] if method.class_path else []
    first = places[0] if places else 0
    trainer["callbacks"] = [*kept[:first], *entry, *kept[first:]]
    model = dict(short_form(config).get("model") or {})  # A group has its members' settings beside its count.
    model.pop("student", None)
    if method.shared and isinstance(model.get("participants"), Mapping):
        model["participants"] = {key: _sharing(one, list(method.shared)) for key, one in model["participants"].items()}
    return full_form(config | {"trainer": trainer, "model": model})


def _named(name: str) -> NamedMethod:
    known = known_methods()
    if name.lower() in known:
        return known[name.lower()]
    if "." in name:
        return NamedMethod(name)
    close = difflib.get_close_matches(name.lower(), known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    raise ConfigError(
        f"--method {name}: no method of that name{hint} Known are {', '.join(sorted(known))}; or give the dotted path "
        "of a class of your own."
    )


def _value(key: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--method.{key}: expected a value as YAML, got {text!r}: {error}") from error


def _is_method(entry: Any, allowed: Sequence[str]) -> bool:
    """True for a callback of a configuration that is a federated method, as far as its module may be imported."""
    path = str(entry.get("class_path", "")) if isinstance(entry, Mapping) else str(entry)
    module, _, name = path.rpartition(".")
    root = (module or PACKAGE).partition(".")[0]
    if root != PACKAGE and root not in {one.partition(".")[0] for one in allowed}:
        return False
    try:
        kind = getattr(importlib.import_module(module or PACKAGE), name, None)
    except ImportError:
        return False  # The parser says so.
    return isinstance(kind, type) and issubclass(kind, Method)


def _sharing(participant: Any, shared: list[str]) -> Any:
    if not isinstance(participant, Mapping):
        return participant
    settings = dict(participant.get("init_args") or {})
    return {**participant, "init_args": settings | {"shared": shared}}
