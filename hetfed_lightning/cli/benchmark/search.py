"""Ranges that ``hetfed benchmark --tune`` searches, of arguments and of a configuration's values, and one choice."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hetfed_lightning.cli.errors import ConfigError
from hetfed_lightning.data.name_checks import did_you_mean
from hetfed_lightning.methods.search_space import Range

LEARNING_RATES = "model.participants.*.init_args.optimizer.init_args.lr"
KEYS = ("trials", "seeds", "common", "methods")


COMMON: Mapping[str, Range] = {LEARNING_RATES: Range(low=0.3, high=3.0, log=True, times=True)}
"""Ranges that every row searches unless the suite says otherwise: a factor on all learning rates."""


@dataclass(frozen=True)
class Tuning:
    """Trials by which a benchmark chooses settings before it compares.

    Attributes:
        trials: Trials of each row on each data set; the first is the row as it stands.
        seeds: Seeds of the trials, none of which is compared on.
        common: Ranges of values of the configuration by dotted key, in which ``*`` stands for every entry.
        methods: Ranges of arguments by title of a row, in place of what its method brings.
    """

    trials: int
    seeds: tuple[int, ...]
    common: Mapping[str, Range] = field(default_factory=lambda: COMMON)
    methods: Mapping[str, Mapping[str, Range]] = field(default_factory=dict)


@dataclass(frozen=True)
class Choice:
    """Values that a trial or a tuned row has in place of the suite's.

    Attributes:
        arguments: Arguments of the method by name.
        settings: Values of the configuration by dotted key.
        factors: Factors of the configuration's numbers by dotted key.
    """

    arguments: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    factors: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        changed = (*self.arguments.items(), *self.settings.items())
        told = [f"{key.rpartition('.')[2]} {_told(one)}" for key, one in changed]
        told += [f"{key.rpartition('.')[2]} x {_told(one)}" for key, one in self.factors.items()]
        return ", ".join(told) or "as it stands"


def tuning_of(given: Any, titles: Sequence[str], seeds: Sequence[int], where: str) -> Tuning:
    """Tuning of a suite's key ``tune``.

    Args:
        given: Mapping with ``trials``, and where wanted ``seeds``, ``common`` and ``methods``.
        titles: Titles of the suite's rows.
        seeds: Seeds that are compared on.
        where: What to call the suite in messages.

    Raises:
        ConfigError: If a key or range is of another form, or a seed is compared on as well.
    """
    if not isinstance(given, Mapping):
        raise ConfigError(f"{where}: tune: expected {{trials: N, seeds: [...]}}, got {given!r}.")
    for key in given:
        if key not in KEYS:
            raise ConfigError(f"{where}: tune.{key}: no such key{did_you_mean(str(key), KEYS)}.")
    trials = given.get("trials", 1)
    if type(trials) is not int or trials < 1:
        raise ConfigError(f"{where}: tune.trials: expected an integer of at least 1, got {trials!r}.")
    own = given.get("seeds", [max(seeds) + 1000])
    if not (isinstance(own, list) and own and all(type(one) is int and one >= 0 for one in own)):
        raise ConfigError(f"{where}: tune.seeds: expected a list of integers of at least 0, got {own!r}.")
    if shared := sorted(set(own) & set(seeds)):
        raise ConfigError(
            f"{where}: tune.seeds: {shared} are compared on as well. Settings are chosen on other seeds than are shown."
        )
    methods = given.get("methods") or {}
    for title in methods:
        if title not in titles:
            raise ConfigError(f"{where}: tune.methods.{title}: no such row{did_you_mean(str(title), titles)}.")
    common = given.get("common")
    return Tuning(
        trials,
        tuple(own),
        COMMON if common is None else ranges_of(common, f"{where}: tune.common"),
        {title: ranges_of(one, f"{where}: tune.methods.{title}") for title, one in methods.items()},
    )


def ranges_of(given: Any, where: str) -> dict[str, Range]:
    """Ranges by name.

    Args:
        given: For each name a list of values, or ``{low: ..., high: ...}`` with ``log``, ``whole`` or ``times``.
        where: What to call it in messages.

    Raises:
        ConfigError: If it is of another form.
    """
    if not isinstance(given, Mapping):
        raise ConfigError(f"{where}: expected ranges by name, got {given!r}.")
    return {str(key): _range(one, f"{where}.{key}") for key, one in given.items()}


def replaced(config: dict[str, Any], key: str, value: Any, *, times: bool = False) -> dict[str, Any]:
    """Configuration with a value at a dotted key; the given one is left as it is.

    Args:
        config: The configuration.
        key: Dotted key; ``*`` stands for every entry of a mapping or list.
        value: The value, or the factor of the number that is there.
        times: True to multiply. Where there is no number, nothing changes.
    """
    return dict(_replaced(config, key.split("."), value, times=times))


def _replaced(found: Any, parts: Sequence[str], value: Any, *, times: bool) -> Any:
    if not parts:
        is_number = isinstance(found, int | float) and not isinstance(found, bool)
        return (found * value if is_number else found) if times else value
    first, rest = parts[0], parts[1:]
    if first == "*":
        if isinstance(found, Mapping):
            return {key: _replaced(one, rest, value, times=times) for key, one in found.items()}
        return [_replaced(one, rest, value, times=times) for one in found] if isinstance(found, list) else found
    inside = dict(found) if isinstance(found, Mapping) else {}
    if times and first not in inside:
        return found
    return inside | {first: _replaced(inside.get(first), rest, value, times=times)}


def _range(given: Any, where: str) -> Range:
    if isinstance(given, list) and given:
        return Range(tuple(given))
    known = ("low", "high", "log", "whole", "times")
    if not isinstance(given, Mapping) or not {"low", "high"} <= given.keys() or not given.keys() <= set(known):
        raise ConfigError(f"{where}: expected a list of values or {{low: A, high: B, log: true}}, got {given!r}.")
    low, high = given["low"], given["high"]
    if not all(isinstance(one, int | float) and math.isfinite(one) for one in (low, high)) or not low < high:
        raise ConfigError(f"{where}: expected two finite numbers, low below high, got {low!r} and {high!r}.")
    log = bool(given.get("log", False))
    if log and low <= 0:
        raise ConfigError(f"{where}: a logarithmic range begins above 0, got {low!r}.")
    return Range((), low, high, log, bool(given.get("whole", False)), bool(given.get("times", False)))


def _told(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
