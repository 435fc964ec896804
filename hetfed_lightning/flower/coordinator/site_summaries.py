"""Summaries of sites for records and pages, from their own descriptions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hetfed_lightning.callbacks.headline_metrics import Headline
from hetfed_lightning.callbacks.participant_summary import Partnership, Role, partnerships
from hetfed_lightning.federated_callback import FederatedCallback
from hetfed_lightning.flower.protocol.description import Description, empty_state
from hetfed_lightning.flower.protocol.untrusted import one_line
from hetfed_lightning.methods.averaging.backbone_averaging import BackboneAveraging
from hetfed_lightning.metrics import payload_bytes

MAX_TEXT = 200
"""Largest number of characters of a site's text in one cell of a table."""


def roles_of(
    descriptions: Mapping[str, Description], callbacks: Sequence[FederatedCallback], limit: int
) -> dict[str, Role]:
    """Roles of the first ``limit`` participants, by name.

    Args:
        descriptions: Descriptions of the sites, by name.
        callbacks: Callbacks of the configuration that act between participants, with their groups.
        limit: Largest number of participants, and of partners that are named for each.
    """
    averaged = partnerships(_shared(descriptions, callbacks), limit)
    return {
        name: _role(name, descriptions[name], averaged.get(name, Partnership())) for name in [*descriptions][:limit]
    }


def headlines_of(descriptions: Mapping[str, Description]) -> dict[str, Headline]:
    """Headline metric of every participant that names one, by name."""
    return {
        name: Headline(metric, one.role.get("higher_is_better") is not False, _text(one.kind))
        for name, one in descriptions.items()
        if (metric := _text(one.role.get("headline")))
    }


def label_counts_of(descriptions: Mapping[str, Description], limit: int) -> dict[str, list[int]]:
    """Training examples per class by name, for the first participants that have described them.

    Args:
        descriptions: Descriptions of the sites, by name.
        limit: Largest number of participants.
    """
    return {
        name: [_whole(count) for count in descriptions[name].class_counts]
        for name in [*descriptions][:limit]
        if descriptions[name].class_counts
    }


def _shared(
    descriptions: Mapping[str, Description], callbacks: Sequence[FederatedCallback]
) -> list[tuple[Sequence[str], int]]:
    """Members of every group and the bytes of their shared state, by the description of one of them."""
    found: list[tuple[Sequence[str], int]] = []
    for place, callback in enumerate(callbacks):
        for group in callback.sharing.values() if isinstance(callback, BackboneAveraging) else ():
            for offered in (descriptions[name].offered for name in group.members if name in descriptions):
                layout = offered.get(place, {})
                if all(key in layout for key in group.keys):
                    state = empty_state({key: layout[key] for key in group.keys})
                    found.append((group.members, payload_bytes(state)))
                    break
    return found


def _role(name: str, described: Description, averaged: Partnership) -> Role:
    told = described.role
    return Role(
        _text(name),
        _text(told.get("architecture")),
        _text(told.get("optimizer")),
        _whole(told.get("weights")),
        averaged.size,
        averaged.partners,
        _whole(described.samples),
        _whole(told.get("local_epochs")),
        _whole(described.joins_at),
        _text(described.kind),
        _text(told.get("headline")),
        told.get("higher_is_better") is not False,
    )


def _text(value: Any) -> str:
    """A site's text, made fit for a cell."""
    return one_line(value, MAX_TEXT)


def _whole(value: Any) -> int:
    """A site's whole number; 0 if it is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0
