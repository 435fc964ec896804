"""Patterns of a participant's keys: names, prefixes up to a dot, fnmatch patterns, and exclusions with ``!``."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase


def matches(key: str, pattern: str) -> bool:
    """True if a key is the pattern, lies below it, or fits it as an fnmatch pattern.

    Args:
        key: A key of ``state_dict``, such as ``backbone.0.weight``.
        pattern: A name, a prefix up to a dot, or an fnmatch pattern.
    """
    return key == pattern or key.startswith(f"{pattern}.") or fnmatchcase(key, pattern)


def selected(keys: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """Keys that a pattern matches and no exclusion, in their order.

    Args:
        keys: Keys of ``state_dict``.
        patterns: Patterns; one that begins with ``!`` excludes. With exclusions alone all other keys are selected.

    Raises:
        ValueError: If a pattern that excludes nothing matches no key; names it.
    """
    wanted = [one for one in patterns if not one.startswith("!")] or ["*"]
    unwanted = [one[1:] for one in patterns if one.startswith("!")]
    for pattern in wanted:
        if not any(matches(key, pattern) for key in keys):
            found = ", ".join(sorted({key.split(".")[0] for key in keys})) or "nothing"
            raise ValueError(f"{pattern!r} matches none of its keys (which are those of {found})")
    return [
        key
        for key in keys
        if any(matches(key, one) for one in wanted) and not any(matches(key, one) for one in unwanted)
    ]
