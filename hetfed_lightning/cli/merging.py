"""Merging of configurations, as plain mappings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_SUBCLASS_KEYS = {"class_path", "init_args", "dict_kwargs"}


def merge(base: Any, over: Any) -> Any:
    """``over`` merged over ``base``: mappings key by key, every other value replaced.

    A mapping with another ``class_path`` replaces the whole, since ``init_args`` belong to their class. Only the
    ``count`` of a group is kept.

    Args:
        base: Configuration below.
        over: Configuration whose values win.
    """
    if not isinstance(base, Mapping) or not isinstance(over, Mapping):
        return over
    if "class_path" in over and over["class_path"] != base.get("class_path", over["class_path"]):
        return ({"count": base["count"]} if "count" in base else {}) | dict(over)
    return {
        key: merge(base.get(key), over[key]) if key in over else base[key]
        for key in [*base, *(k for k in over if k not in base)]
    }


def with_value(config: Any, keys: Sequence[str], value: Any) -> Any:
    """Copy of ``config`` with ``value`` merged over the value under a path of keys.

    Args:
        config: Configuration.
        keys: Path of keys; ``init_args`` may be left out.
        value: Value whose parts win.
    """
    if not keys:
        return merge(config, value)
    config = dict(config) if isinstance(config, Mapping) else {} if config is None else {"class_path": config}
    key, *below = keys
    if "class_path" in config and key not in _SUBCLASS_KEYS:
        key, below = "init_args", list(keys)
    config[key] = with_value(config.get(key), below, value)
    return config
