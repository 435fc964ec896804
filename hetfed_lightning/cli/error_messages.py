"""jsonargparse's messages, with the participant's name before them and the key that was probably meant after."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable
from copy import deepcopy
from typing import Any

import lightning as L
from jsonargparse import ArgumentError, ArgumentParser

from hetfed_lightning.cli.allowlist import ALLOWED
from hetfed_lightning.cli.configs import ConfigError
from hetfed_lightning.cli.groups import is_group
from hetfed_lightning.data import FederatedDataModule
from hetfed_lightning.data.name_checks import did_you_mean
from hetfed_lightning.federation.federation import Federation
from hetfed_lightning.participants.participant import Participant

_UNKNOWN = re.compile(
    r"Option '(\w+)' is not accepted|does not accept option '([\w.]+)'|[Kk]ey [\"']([\w.]+)[\"'] is not expected"
    r"|[Uu]nrecognized arguments?: --([\w.]+)"
)
_CLASS_PATH = re.compile(r"class_path[= ]'([\w.]+)'")
_GIVEN = re.compile(r"[^\n]*?Got value: Namespace\(class_path='([\w.]+)'")
_NO_ATTRIBUTE = re.compile(r"module '([\w.]+)' has no attribute '(\w+)'")
_NOT_TEXT = re.compile(r"Expected a <class 'str'>.{0,9}(?:Got|Given) value: (?:True|False|[-+.\d]+)\b", re.DOTALL)
_UNION = "Does not validate against any of the Union subtypes"
_SHORT = 60
_NOT_MEANT = ("Expected a <class 'NoneType'>", "Not a valid subclass of")
_DENIED = re.compile(r"Importing '([\w.]+)' is not allowed")


def check_participants(config: dict[str, Any]) -> None:
    """Refuse a configuration of a participant that the parser cannot use.

    Raises:
        ConfigError: If there is one; names the participant and the key.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--participant", type=Participant)
    sound: set[str] = set()
    for label, settings in labelled_participants(config):
        if repr(settings) in sound:  # As with YAML anchors, which repeat one.
            continue
        try:
            # A copy: jsonargparse writes into dictionaries of modules, such as `branches`, that it is given.
            parser.parse_object({"participant": deepcopy(settings)})
        except ArgumentError as error:
            raise ConfigError(f"{label}: {explained(str(error))}") from error
        sound.add(repr(settings))


def labelled_participants(config: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Settings of each participant, a group's one of all its members, after the words that name it in a message.

    Raises:
        ConfigError: If a participant is none by its form: no mapping, no ``class_path``, a group of no integer's size.
    """
    model = config.get("model") or {}
    if not isinstance(model, dict):
        raise ConfigError(f"model: expected participants and so on, got {type(model).__name__}.")
    participants = model.get("participants") or {}
    if not isinstance(participants, dict):
        raise ConfigError(f"model.participants: expected participants by name, got {type(participants).__name__}.")
    everyone = dict(participants)
    if model.get("student") is not None:
        everyone["student"] = model["student"]
    labelled = []
    for name, settings in everyone.items():
        label = f"participant {name!r}"
        if is_group(settings):
            label = f"participant {name!r} (a group)"
            count, settings = settings["init_args"].get("count"), settings["init_args"].get("participant")  # noqa: PLW2901
            if isinstance(count, bool) or not isinstance(count, int) or count < 1:
                raise ConfigError(f"{label}: expected count to be an integer of at least 1, got {count!r}.")
        if not isinstance(settings, dict):
            raise ConfigError(f"{label}: expected class_path and init_args, got {settings!r}.")
        if "init_args" not in settings and "class_path" not in settings:
            raise ConfigError(
                f"{label}: expected class_path: hetfed_lightning.Participant and init_args, "
                f"got the keys {', '.join(map(str, settings))}."
            )
        labelled.append((label, settings))
    return labelled


def condensed(message: str) -> str:
    """A parser's message without the alternatives that were not meant, and without a long value.

    jsonargparse reports every alternative of a parameter, though a reader has one in mind, and repeats the value, which
    for data or callbacks is a page.
    """
    lines = message.split("\n")
    start = next((i for i, line in enumerate(lines) if _UNION in line), None)
    errors = next((i for i, line in enumerate(lines) if i > (start or 0) and line.strip() == "Errors:"), None)
    if start is None or errors is None:
        return message
    margin = len(lines[errors]) - len(lines[errors].lstrip())
    items: list[list[str]] = []
    for line in lines[errors + 1 :]:
        depth = len(line) - len(line.lstrip())
        if line.strip() and depth <= margin:
            break
        if depth == margin + 2 and line.lstrip().startswith("- "):
            items.append([line.lstrip()[2:]])
        elif items:
            items[-1].append(line[margin + 4 :])
    meant = ["\n".join(item) for item in items if not item[0].startswith(_NOT_MEANT)]
    if not meant:
        return message
    # The text before names the key; the text after the alternatives is the value, shown if it is short.
    before = [line.strip() for line in lines[:start] if line.strip()]
    before += [lines[start].split(_UNION)[0].strip()] if lines[start].split(_UNION)[0].strip() else []
    after = [line.strip() for line in lines[errors:] if line.strip().startswith("Given value: ")]
    after = [line for line in after if len(line) <= _SHORT]
    return "\n  ".join([*before, *(line for item in meant for line in condensed(item).split("\n")), *after])


def explained(message: str, option: str = "--allow_import ") -> str:
    """A parser's message, shortened, with the key or option that was probably meant.

    Args:
        message: Message of jsonargparse.
        option: Option that allows a name denied to configurations.
    """
    full, message = message, condensed(message)
    hint = _hint(full, option)
    if hint is None and _NOT_TEXT.search(message):
        hint = "; YAML takes words such as yes, no, on and off, and digits, for other than text: put them in quotes"
    return message if hint is None else hint if hint.startswith("'") else f"{message}{hint}"


def _hint(message: str, option: str) -> str | None:
    """Key or option that was probably meant, to be added to a message; a whole sentence if an import is denied."""
    denied = _DENIED.search(message)
    if denied:
        return (
            f"{denied[1]!r} may not be named by a configuration, which could run any code by it. If you trust it, "
            f"pass {option}{_least(denied[1])}."
        )
    missing = _NO_ATTRIBUTE.search(message)
    if missing:
        return did_you_mean(missing[2], _public_names(missing[1]))
    unknown = _UNKNOWN.search(message)
    if unknown:
        key = next(group for group in unknown.groups() if group).split(".")[-1]
        hint = did_you_mean(key, _parameters_near(message, unknown))
        return hint if "did you mean" in hint else None
    return None


def _least(path: str) -> str:
    """Least path to allow: the user's own package as a whole, but of a package that is open in part only this name."""
    package = path.split(".", maxsplit=1)[0]
    return path if package in {one.split(".", maxsplit=1)[0] for one in ALLOWED} else package


def _parameters_near(message: str, unknown: re.Match[str]) -> list[str]:
    """Arguments of the class that was given an unknown key; a message names it behind the key, or last before."""
    paths = _CLASS_PATH.findall(message[: unknown.start()])[-1:]
    if behind := _GIVEN.match(message, unknown.end()):
        paths = [behind[1]]
    classes = [found for path in paths if (found := _known_class(path))]
    # Without a class in the message the key is one of the three that every configuration has.
    classes = classes or [L.Trainer, Federation, FederatedDataModule]
    return list(dict.fromkeys(name for one in classes for name in _parameters(one)))


def _parameters(one: type) -> Iterable[str]:
    for base in inspect.getmro(one):
        if "__init__" in vars(base):
            yield from (name for name in inspect.signature(base.__init__).parameters if name != "self")  # type: ignore[misc]


def _known_class(path: str) -> type | None:
    """Class that is imported already; a class that a configuration names is never imported here."""
    module, _, name = path.rpartition(".")
    found = getattr(sys.modules.get(module), name, None)
    return found if isinstance(found, type) else None


def _public_names(module: str) -> list[str]:
    return [name for name in dir(sys.modules.get(module)) if not name.startswith("_")]
