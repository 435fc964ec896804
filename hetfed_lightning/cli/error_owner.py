"""Errors traced to the participant whose settings cause them, since messages of torch and others do not name it."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from hetfed_lightning.cli.error_messages import explained
from hetfed_lightning.cli.errors import ConfigError
from hetfed_lightning.cli.groups import is_group
from hetfed_lightning.participants.groups import ParticipantGroup
from hetfed_lightning.participants.participant import Participant

FAULTS = (ValueError, TypeError, RuntimeError, LookupError, ArithmeticError, AttributeError, ImportError, MemoryError)
"""Errors that classes raise of arguments that they cannot use."""


@contextmanager
def naming_participants(model: Any) -> Iterator[None]:
    """Context that adds the participant's name to errors of making it.

    Args:
        model: Settings of the federation.

    Raises:
        ConfigError: If a participant cannot be made; names it. Other errors are raised as they are.
    """
    try:
        yield
    except FAULTS as error:
        for name, settings in _everyone(model).items():
            try:
                made(settings)
            except FAULTS as reason:
                message = explained(first_lines(str(reason))) or type(reason).__name__
                empty = ", ".join(_nulls(settings, ()))
                if empty:
                    message = f"null stands under {empty}: give a value, or leave the key out for its default."
                raise ConfigError(f"participant {name!r}: {message}") from error
        raise


def made(settings: Any) -> Any:
    """Participant (or group of them) made of parsed settings."""
    parser = ArgumentParser(exit_on_error=False)
    plain = settings.as_dict() if isinstance(settings, Namespace) else settings
    parser.add_argument("--participant", type=ParticipantGroup if is_group(plain) else Participant)
    return parser.instantiate(parser.parse_object({"participant": plain})).participant


def first_lines(message: str) -> str:
    """Message of an error without the addresses in torch's machine code that follow it."""
    return re.split(r"\n\s*Exception raised from", message, maxsplit=1)[0].rstrip()


def _nulls(settings: Any, above: tuple[str, ...]) -> Iterator[str]:
    """Keys with the value null whose default is another."""
    settings = settings.as_dict() if isinstance(settings, Namespace) else settings
    if not isinstance(settings, Mapping):
        return
    module, _, name = str(settings.get("class_path", "")).rpartition(".")
    arguments = settings.get("init_args")
    if isinstance(arguments, Mapping):
        known = _defaults_of(getattr(sys.modules.get(module), name, None))
        for key, value in arguments.items():
            if value is None and key in known and known[key] is not None:
                yield ".".join((*above, key))
    for key, value in settings.items():
        yield from _nulls(value, above if key == "init_args" else (*above, str(key)))


def _defaults_of(made_by: Any) -> Mapping[str, Any]:
    """Defaults of a class's arguments, by name; empty if they are unknown."""
    try:
        return {name: one.default for name, one in inspect.signature(made_by).parameters.items()}
    except (TypeError, ValueError):
        return {}


def _everyone(model: Any) -> dict[str, Any]:
    plain = model.as_dict() if isinstance(model, Namespace) else model
    if not isinstance(plain, Mapping):
        return {}
    student = {} if plain.get("student") is None else {"student": plain["student"]}
    return {**(plain.get("participants") or {}), **student}
