"""Compatibility of sites, checked before anything is trained: a table of their differences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hetfed_lightning.data.sources.classes import shifted
from hetfed_lightning.distillation import Ensemble
from hetfed_lightning.federated_callback import FederatedCallback
from hetfed_lightning.flower.protocol.arrays import Layout
from hetfed_lightning.flower.protocol.deployable import carried_methods, kind_of
from hetfed_lightning.flower.protocol.description import Description
from hetfed_lightning.flower.protocol.untrusted import one_line, shown
from hetfed_lightning.methods.averaging.backbone_averaging import BackboneAveraging
from hetfed_lightning.methods.averaging.column_checks import averages_backbone
from hetfed_lightning.methods.distillation.ensemble_distillation import OUTPUTS, EnsembleDistillation

ANSWERED = ("float32", "float64")
"""Dtypes of answers to the public set."""

PLACES = 5
"""Largest number of differing places of lists in the table."""

SHORT = 12
"""Digits of a hash in the table, enough for people to tell it from another."""

CELL = 120
"""Largest number of characters of a cell of the table."""

ROWS = 20
"""Largest number of rows of the table; a site that differs in one tensor often differs in hundreds."""


class DisagreementError(RuntimeError):
    """Sites that cannot work together; the message is a table."""


@dataclass(frozen=True)
class Difference:
    """A property that has to be equal at all sites and is not.

    Attributes:
        values: Value at each site, by name.
        wanted: Value in the coordinator's configuration; None if only the sites have to agree.
    """

    values: Mapping[str, str]
    wanted: str | None = None

    def odd_ones(self) -> set[str]:
        """Sites that differ from the wanted value, or else from the majority; all of them without a majority."""
        wanted = self.wanted
        if wanted is None:
            common, count = Counter(self.values.values()).most_common(1)[0]
            if 2 * count <= len(self.values):
                return set(self.values)
            wanted = common
        return {name for name, value in self.values.items() if value != wanted}

    def row(self) -> dict[str, str]:
        """Cells of the table by column."""
        is_told = self.wanted is None or self.wanted in self.values.values()
        return ({} if is_told else {"coordinator": str(self.wanted)}) | dict(self.values)


def impossible(description: Description, callbacks: Sequence[FederatedCallback]) -> str:
    """Contradiction between a site's description and the callbacks that it names; empty without one.

    Args:
        description: Description of a site.
        callbacks: Callbacks of the coordinator's configuration.
    """
    if list(description.callbacks) != [kind_of(one) for one in callbacks]:
        return ""  # Another configuration, which the table shows.
    methods = carried_methods(callbacks)
    places = {place for place, one in methods.items() if isinstance(one, BackboneAveraging)}
    offering = places | {place for place, one in methods.items() if one.sends_state}
    if description.offered.keys() != offering:
        offers = sorted(description.offered)
        return f"offers layouts for the callbacks {offers}, and those that send state are {sorted(offering)}"
    if strange := sorted(description.foundations.keys() - places):
        return f"tells frozen weights for the callbacks {strange}, and those that average are {sorted(places)}"
    distilling = {place: one for place, one in methods.items() if isinstance(one, EnsembleDistillation)}
    return (
        _of_methods(description, callbacks)
        or _of_ensembles(description, [one.ensemble for one in distilling.values()])
        or next(filter(None, (_of_answers(description, place, one) for place, one in distilling.items())), "")
    )


def _of_answers(description: Description, place: int, distillation: EnsembleDistillation) -> str:
    """Whatever a site tells of its answers' layout, they are of a row for each public example."""
    if not description.reads_public:
        return "tells a layout of answers to a public set that it does not read" if description.messages[place] else ""
    width = distillation.ensemble.message_width(description.width, description.kind)
    expected = {OUTPUTS: (description.public_size, width)}
    told = {key: tuple(shape) for key, (shape, _) in description.messages[place].items()}
    if told == expected and all(dtype in ANSWERED for _, dtype in description.messages[place].values()):
        return ""
    return f"tells answers of {shown(told)} for callback {place}, expected {expected} in {' or '.join(ANSWERED)}"


def _of_ensembles(description: Description, ensembles: Sequence[Ensemble]) -> str:
    if description.reads_public and any(description.kind not in one.kinds for one in ensembles):
        return f"tells outputs of kind {shown(description.kind)}, which no ensemble here combines"
    weighs = any("class_counts" in one.needs for one in ensembles)
    classes = (2 if description.kind == "binary" else description.width) if weighs else 0
    fits = not description.reads_public or len(description.class_counts) == classes
    return "" if fits else f"tells examples of {len(description.class_counts)} classes, expected {classes}"


def _of_methods(description: Description, callbacks: Sequence[FederatedCallback]) -> str:
    methods = carried_methods(callbacks)
    made = {place for place, one in methods.items() if not one.sends_state}
    for what, told, places in (
        ("descriptions", description.about, {*methods}),
        ("messages", description.messages, made),
    ):
        if told.keys() != places:
            return f"tells {what} for the callbacks {sorted(told)}, and the methods are {sorted(places)}"
    return ""


def disagreements(
    descriptions: Mapping[str, Description],
    callbacks: Sequence[FederatedCallback],
    seed: int,
    expected: Mapping[str, Mapping[str, Layout]],
) -> dict[str, Difference]:
    """Differences between sites, or from the configuration, by subject.

    Args:
        descriptions: Descriptions of the sites, by participant.
        callbacks: Callbacks of the coordinator's configuration.
        seed: Seed of the coordinator's configuration.
        expected: Layouts of shared states in the configuration, by participant; participants without one may have any.
    """
    found: dict[str, Difference] = {}

    def same(subject: str, values: Mapping[str, str], wanted: str | None = None) -> None:
        if len({*values.values(), *([] if wanted is None else [wanted])}) > 1:
            found[subject] = Difference(values, wanted)

    def of_all(get: str) -> dict[str, str]:
        return {name: str(getattr(one, get)) for name, one in descriptions.items()}

    same("hetfed-lightning", {name: one.versions.get("hetfed-lightning", "?") for name, one in descriptions.items()})
    same("seed", of_all("seed"), str(seed))
    kinds = ", ".join(map(kind_of, callbacks))
    same("callbacks", {name: ", ".join(one.callbacks) for name, one in descriptions.items()}, kinds)
    if any(isinstance(one, EnsembleDistillation) for one in callbacks):
        public = {name: f"{one.public_size} x {one.public_hash[:SHORT]}" for name, one in descriptions.items()}
        same("public set", {name: value if value != "0 x " else "none" for name, value in public.items()})
        readers = {name: f"{one.width} {one.kind}" for name, one in descriptions.items() if one.reads_public}
        same("outputs", readers)
    found |= _columns(descriptions) | _classes(descriptions)
    for name, layout in expected.items():
        if name in descriptions:
            found |= _shared(descriptions[name], layout)
    return found


def odd_ones(found: Mapping[str, Difference]) -> set[str]:
    """Sites that would have to leave for the others to agree."""
    return set().union(*(one.odd_ones() for one in found.values()))


def refuse_disagreements(found: Mapping[str, Difference]) -> None:
    """Refuse sites with differences.

    Raises:
        DisagreementError: If there is one; the message is a table.
    """
    if found:
        raise DisagreementError(
            "The sites do not fit together; nothing was trained.\n"
            + table(found)
            + "\nBring the sites' configurations, data or versions to agree and start again."
        )


def table(found: Mapping[str, Difference]) -> str:
    """Text of the table with subjects in rows and sites in columns, cut to ``ROWS`` rows."""
    shown = {subject: one.row() for subject, one in list(found.items())[:ROWS]}
    names = list(dict.fromkeys(name for values in shown.values() for name in values))
    rows = [["", *names], *([subject, *(values.get(name, "-") for name in names)] for subject, values in shown.items())]
    rows = [[one_line(cell, CELL) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines + ([f"and {len(found) - ROWS} more"] if len(found) > ROWS else []))


def _columns(descriptions: Mapping[str, Description]) -> dict[str, Difference]:
    """Places in which columns differ between sites that average whole backbones of equal width."""
    by_width: dict[int, dict[str, tuple[str, ...]]] = {}
    for name, one in descriptions.items():
        offered = {key for layout in one.offered.values() for key in layout}
        if one.columns and averages_backbone(offered, one.parameters):
            by_width.setdefault(len(one.columns), {})[name] = one.columns
    differing = [_places("column", width, lists) for width, lists in by_width.items()]
    return {subject: one for found in differing for subject, one in found.items()}


def _classes(descriptions: Mapping[str, Description]) -> dict[str, Difference]:
    """Places in which vocabularies differ, numeric labels outside of them, and numbers that begin elsewhere."""
    named = {name: one.classes for name, one in descriptions.items() if one.classes}
    numbered = {name: one.labels for name, one in descriptions.items() if one.labels}
    found = _places("class", max(map(len, named.values()), default=0), named)
    for name, labels in numbered.items():
        for other, classes in named.items():
            if classes != tuple(map(str, range(len(classes)))) or not set(labels) <= set(classes):
                found["classes"] = Difference({other: ", ".join(classes), name: f"numbers {', '.join(labels)}"})
    pair = shifted({name: {int(one) for one in labels if one.isdecimal()} for name, labels in numbered.items()})
    if pair is not None:
        alike = {numbered[name] for name in pair}
        found["labels"] = Difference({name: ", ".join(own) for name, own in numbered.items() if own in alike})
    return found


def _places(what: str, count: int, lists: Mapping[str, tuple[str, ...]]) -> dict[str, Difference]:
    """First places, from 1, in which lists of names differ, with the name that each site has there."""
    found: dict[str, Difference] = {}
    for place in range(count if len(set(lists.values())) > 1 else 0):
        values = {name: repr(names[place]) if place < len(names) else "none" for name, names in lists.items()}
        if len(set(values.values())) > 1:
            found[f"{what} {place + 1} of {count}"] = Difference(values)
        if len(found) == PLACES:
            break
    return found


def _shared(description: Description, expected: Mapping[str, Layout]) -> dict[str, Difference]:
    """Keys whose layout in a site's shared state is not that of the configuration."""
    offered = {key: layout for one in description.offered.values() for key, layout in one.items()}
    return {
        f"shared {key}": Difference({description.participant: _said(offered.get(key))}, _said(expected.get(key)))
        for key in dict.fromkeys([*expected, *offered])
        if expected.get(key) != offered.get(key)
    }


def _said(layout: Layout | None) -> str:
    return "none" if layout is None else f"{tuple(layout[0])} {layout[1]}"
