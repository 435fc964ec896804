"""What a site says is looked at before anything is made of it: a fault costs the site the round, and nobody else.

What a reply may hold follows from what was asked and from what the site said of itself before training
(:func:`wanted`). Layouts are compared with that while the reply is read
(:mod:`hetfed_lightning.flower.protocol.messages`), the rest is looked at here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from hetfed_lightning.finite import why_not_heard, why_unusable
from hetfed_lightning.flower.protocol.arrays import Layout, travelling_bytes
from hetfed_lightning.flower.protocol.description import Description
from hetfed_lightning.flower.protocol.orders import Order, Reply
from hetfed_lightning.flower.protocol.untrusted import is_name, one_line, shown

MOST_METRICS = 1_000
"""Figures of one participant in one round."""

LARGEST_FIGURE = 1e38
"""Figures beyond it are as good as none: charts hold numbers of 32 bits, and squares of such are none of 64."""


@dataclass(frozen=True)
class Wanted:
    """What a reply may hold.

    Attributes:
        answers: Shape of the answers to the public set, ``(P, C)``; None where nobody asked.
        shared: Layout by key of what is shared, for each averaging callback by its place.
    """

    answers: tuple[int, int] | None
    shared: Mapping[int, Mapping[str, Layout]]

    @property
    def most_bytes(self) -> int:
        """Bytes of arrays that such a reply has at most, as they travel."""
        answers = [] if self.answers is None else [(self.answers, "float64")]
        layouts = [*answers, *(layout for one in self.shared.values() for layout in one.values())]
        return sum(travelling_bytes(layout) for layout in layouts)


def wanted(order: Order, description: Description) -> Wanted:
    """What a site may answer to an order, as it described itself."""
    return Wanted(
        (description.public_size, description.width) if order.answer or order.answer_after else None,
        {place: {key: description.offered[place][key] for key in keys} for place, keys in order.keys.items()},
    )


def fault_of(reply: Reply, order: Order, description: Description, parameters: Collection[str]) -> str:
    """Why a reply cannot be used; empty where it can.

    Args:
        reply: Of a site, of the layout that was wanted.
        order: That it answers.
        description: What the site said of itself before training.
        parameters: Keys that are parameters rather than buffers, by the word of most.
    """
    if reply.participant != description.participant:
        return f"it answers for {shown(reply.participant)}"
    if reply.quarantined:
        return one_line(reply.quarantined) or "it left itself out, and does not say why"
    return (
        _of_samples(reply, description)
        or _of_metrics(reply)
        or _of_answers(reply, order, description)
        or _of_shared(reply, order, parameters)
    )


def usable_metrics(reply: Reply, description: Description) -> dict[str, float]:
    """Figures of a reply, if they are its site's own; NaN for those that no chart holds."""
    if reply.participant != description.participant or _of_metrics(reply):
        return {}
    return {key: value if abs(value) <= LARGEST_FIGURE else float("nan") for key, value in reply.metrics.items()}


def _of_samples(reply: Reply, description: Description) -> str:
    if reply.samples != description.samples:
        claimed = shown(reply.samples)
        return f"it claims {claimed} training examples, and had {description.samples} before training"
    return ""


def _of_metrics(reply: Reply) -> str:
    if len(reply.metrics) > MOST_METRICS:
        return f"it sends {len(reply.metrics)} figures, more than {MOST_METRICS}"
    for key in reply.metrics:
        metric, _, owner = key.rpartition("/")
        if owner != reply.participant:
            return f"it sends the figure {shown(key)}, which is not its own"
        if not _is_metric(metric):
            return f"it sends the figure {shown(key)}, which is no name of a metric"
    return ""


def _is_metric(name: str) -> bool:
    """Whether a participant may call a figure so: on one line, no path, no markup, and none of the federation's."""
    parts = name.split("/")
    return is_name(name) and one_line(name) == name and parts[0] not in _NOT_THEIRS and _NO_PATHS.isdisjoint(parts)


_NOT_THEIRS: Collection[str] = frozenset({"federation", "quarantined"})
_NO_PATHS = frozenset({"", ".", ".."})


def _of_answers(reply: Reply, order: Order, description: Description) -> str:
    if reply.answers is None:
        missing = order.answer or order.answer_after
        return "its predictions on the public set are missing" if missing else ""
    return why_not_heard(reply.answers, description.kind)


def _of_shared(reply: Reply, order: Order, parameters: Collection[str]) -> str:
    if reply.idle and order.begin is None and order.learn is None:
        return "it says that it took no step, and nobody asked for one"
    if reply.idle and reply.shared:
        return "it sends a shared state, and took no step"
    return next(filter(None, (why_unusable(state, parameters) for state in reply.shared.values())), "")
