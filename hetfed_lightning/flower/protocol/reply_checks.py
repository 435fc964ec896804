"""Checks of a site's reply before anything is computed from it; a fault costs the round to that site alone.

The tensors that a reply may hold follow from the order and from the site's description before training
(:func:`wanted`). Layouts are compared with that while the reply is read
(:mod:`hetfed_lightning.flower.protocol.messages`), the rest is checked here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hetfed_lightning.finite import is_finite, why_unusable
from hetfed_lightning.flower.protocol.arrays import Layout, travelling_bytes
from hetfed_lightning.flower.protocol.description import Description
from hetfed_lightning.flower.protocol.orders import Order, Reply
from hetfed_lightning.flower.protocol.untrusted import is_name, one_line, shown

if TYPE_CHECKING:
    from hetfed_lightning.methods.method import Method

MOST_METRICS = 1_000
"""Largest number of metrics of one participant in one round."""

LARGEST_FIGURE = 1e38
"""Largest magnitude of a metric; larger ones count as NaN, since charts hold 32-bit numbers and squares 64 bits."""


@dataclass(frozen=True)
class Wanted:
    """Tensors that a reply may hold.

    Attributes:
        messages: Layout of the message by key, for each method by its place.
    """

    messages: Mapping[int, Mapping[str, Layout]]

    @property
    def most_bytes(self) -> int:
        """Largest number of bytes of such a reply's arrays, as they travel."""
        return sum(travelling_bytes(layout) for one in self.messages.values() for layout in one.values())


def wanted(order: Order, description: Description) -> Wanted:
    """Tensors that a site may send in reply to an order, by its own description.

    Args:
        order: The order.
        description: Description of the site.
    """
    return Wanted(
        {
            place: {key: description.offered[place][key] for key in keys} if keys else description.messages[place]
            for place, keys in order.messages.items()
        }
    )


def fault_of(
    reply: Reply,
    order: Order,
    description: Description,
    parameters: Collection[str],
    methods: Mapping[int, Method],
) -> str:
    """Reason why a reply cannot be used; empty if it can.

    Args:
        reply: Reply of a site, of the expected layout.
        order: Order that it answers.
        description: Description of the site before training.
        parameters: Keys that are parameters rather than buffers, as most sites say.
        methods: Methods of the configuration by place among its callbacks.
    """
    if reply.participant != description.participant:
        return f"it answers for {shown(reply.participant)}"
    if reply.quarantined:
        return one_line(reply.quarantined) or "it left itself out, and does not say why"
    return (
        _of_samples(reply, description)
        or _of_metrics(reply)
        or _of_steps(reply, order)
        or _of_messages(reply, order, description.kind, parameters, methods)
    )


def usable_metrics(reply: Reply, description: Description) -> dict[str, float]:
    """Metrics of a reply, empty if they are not its site's own; NaN for those that no chart can hold.

    Args:
        reply: Reply of a site.
        description: Description of the site.
    """
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
    """True if a participant's metric may have the name: one line, no path, no markup, not one of the federation's."""
    parts = name.split("/")
    return is_name(name) and one_line(name) == name and parts[0] not in _NOT_THEIRS and _NO_PATHS.isdisjoint(parts)


_NOT_THEIRS: Collection[str] = frozenset({"federation", "quarantined"})
_NO_PATHS = frozenset({"", ".", ".."})


def _of_steps(reply: Reply, order: Order) -> str:
    is_asked = order.begin is not None or order.learn is not None
    return "it says that it took no step, and nobody asked for one" if reply.idle and not is_asked else ""


def _of_messages(
    reply: Reply, order: Order, kind: str, parameters: Collection[str], methods: Mapping[int, Method]
) -> str:
    for place, keys in order.messages.items():
        if reason := _of_message(reply, place, kind, parameters if keys else None, methods[place]):
            return reason
    return ""


def _of_message(reply: Reply, place: int, kind: str, parameters: Collection[str] | None, method: Method) -> str:
    """Reason why the message of one method cannot be used; ``parameters`` are those of a state, else None."""
    sent = reply.shared.get(place)
    if sent is None:
        is_idle = reply.idle and method.needs_steps
        return "" if is_idle else f"its message of {method.title} is missing"
    if parameters is not None and (reason := why_unusable(sent, parameters)):
        return reason
    if reason := method.fault_of(sent, kind):
        return reason
    strange = next((key for key, tensor in sent.items() if not is_finite([tensor])), None)
    return "" if strange is None else f"its message is not finite at {one_line(strange)}"
