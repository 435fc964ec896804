"""Every promise by area, and the table of what was tried and what held."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from scripts.promises import inputs, institutions, models, runs, security
from scripts.promises.promise import Promise

AREAS: Mapping[str, tuple[Promise, ...]] = {
    "Models": models.PROMISES,
    "Runs": runs.PROMISES,
    "Inputs": inputs.PROMISES,
    "Security": security.PROMISES,
    "Institutions": institutions.PROMISES,
}


@dataclass
class Tally:
    """How often a promise was put to the test, and how often it held.

    Attributes:
        tried: Faults injected.
        held: Faults that the promise stood.
        failed: Tests that failed, by name.
        skipped: Tests that this machine could not run, by name.
        measured: What tests tell beside the count.
    """

    tried: int = 0
    held: int = 0
    failed: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    measured: tuple[str, ...] = ()


def chosen(only: Iterable[str] = ()) -> dict[str, list[Promise]]:
    """The promises by area, or those of some keys.

    Raises:
        SystemExit: If a key is no promise's.
    """
    known = {one.key for promises in AREAS.values() for one in promises}
    if unknown := sorted(set(only) - known):
        raise SystemExit(f"--only: no promise {', '.join(unknown)}; there are {', '.join(sorted(known))}.")
    keys = set(only) or known
    picked = {area: [one for one in promises if one.key in keys] for area, promises in AREAS.items()}
    return {area: promises for area, promises in picked.items() if promises}


def rows(promises: Iterable[Promise], tallies: Mapping[str, Tally]) -> list[str]:
    """A table in Markdown."""
    lines = ["| promise | injected | tried | held |", "|---|---|--:|--:|"]
    for one in promises:
        tally = tallies.get(one.key, Tally())
        held = f"{tally.held:,}" if tally.tried == tally.held else f"**{tally.held:,}**"
        lines.append(f"| {one.says} | {one.injected} | {tally.tried:,} | {held} |")
    return lines
