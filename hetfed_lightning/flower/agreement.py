"""Whether sites can work together, found out before anything is trained: a table of who differs in what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from hetfed_lightning.callbacks.ensemble_distillation import EnsembleDistillation
from hetfed_lightning.flower.arrays import Layout
from hetfed_lightning.flower.description import Description
from hetfed_lightning.rounds import FederatedCallback

SHORT = 12
"""Digits of a hash that tell it from another one for people."""


class DisagreementError(RuntimeError):
    """Sites that cannot work together; the message is a table."""


def disagreements(
    descriptions: Mapping[str, Description],
    callbacks: Sequence[FederatedCallback],
    seed: int,
    expected: Mapping[str, Mapping[str, Layout]],
) -> dict[str, dict[str, str]]:
    """What is to be the same and is not: by subject, what each site has.

    Args:
        descriptions: By participant.
        callbacks: Of the coordinator's configuration.
        seed: Of the coordinator's.
        expected: Layouts of shared states as the configuration promised them, by participant; who is not in it may
            bring any.
    """
    found: dict[str, dict[str, str]] = {}

    def same(subject: str, values: Mapping[str, str], wanted: str | None = None) -> None:
        wanted = _most_common(values) if wanted is None else wanted
        if any(value != wanted for value in values.values()):
            found[subject] = ({} if wanted in values.values() else {"coordinator": wanted}) | dict(values)

    def of_all(get: str) -> dict[str, str]:
        return {name: str(getattr(one, get)) for name, one in descriptions.items()}

    same("hetfed-lightning", {name: one.versions.get("hetfed-lightning", "?") for name, one in descriptions.items()})
    same("seed", of_all("seed"), str(seed))
    kinds = ", ".join(type(one).__name__ for one in callbacks)
    same("callbacks", {name: ", ".join(one.callbacks) for name, one in descriptions.items()}, kinds)
    if any(isinstance(one, EnsembleDistillation) for one in callbacks):
        public = {name: f"{one.public_size} x {one.public_hash[:SHORT]}" for name, one in descriptions.items()}
        same("public set", {name: value if value != "0 x " else "none" for name, value in public.items()})
        readers = {name: f"{one.width} {one.kind}" for name, one in descriptions.items() if one.reads_public}
        same("outputs", readers)
    for name, layout in expected.items():
        if name in descriptions:
            found |= _shared(descriptions[name], layout)
    return found


def refuse_disagreements(found: Mapping[str, Mapping[str, str]]) -> None:
    """End with a table.

    Raises:
        DisagreementError: If there is something to tell.
    """
    if found:
        raise DisagreementError(
            "The sites do not fit together; nothing was trained.\n"
            + table(found)
            + "\nBring the sites' configurations, data or versions to agree and start again."
        )


def table(found: Mapping[str, Mapping[str, str]]) -> str:
    """Subjects in rows, sites in columns, as text."""
    names = list(dict.fromkeys(name for values in found.values() for name in values))
    rows = [["", *names], *([subject, *(values.get(name, "-") for name in names)] for subject, values in found.items())]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _shared(description: Description, expected: Mapping[str, Layout]) -> dict[str, dict[str, str]]:
    """Keys in which a site's shared state is not what the configuration promised."""
    offered = {key: layout for one in description.offered.values() for key, layout in one.items()}
    return {
        f"shared {key}": {"coordinator": _said(expected.get(key)), description.participant: _said(offered.get(key))}
        for key in dict.fromkeys([*expected, *offered])
        if expected.get(key) != offered.get(key)
    }


def _said(layout: Layout | None) -> str:
    return "none" if layout is None else f"{tuple(layout[0])} {layout[1]}"


def _most_common(values: Mapping[str, str]) -> str:
    return Counter(values.values()).most_common(1)[0][0] if values else ""
