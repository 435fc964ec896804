"""What a site says is looked at before anything is made of it: a fault costs the site the round, and nobody else."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from hetfed_lightning.flower.arrays import Layout
from hetfed_lightning.flower.description import Description, layouts
from hetfed_lightning.flower.orders import Order, Reply
from hetfed_lightning.guard import is_finite

MOST_METRICS = 1_000
"""Figures of one participant in one round."""


def fault_of(reply: Reply, order: Order, description: Description) -> str:
    """Why a reply cannot be used; empty where it can.

    Args:
        reply: Of a site.
        order: That it answers.
        description: What the site said of itself before training.
    """
    if reply.participant != description.participant:
        return f"it answers for {reply.participant!r}"
    if reply.quarantined:
        return reply.quarantined
    return (
        _of_samples(reply, description)
        or _of_metrics(reply)
        or _of_answers(reply, order, description)
        or _of_shared(reply, order, description)
    )


def usable_metrics(reply: Reply) -> dict[str, float]:
    """Figures of a reply, if they are its own."""
    return {} if _of_metrics(reply) else dict(reply.metrics)


def _of_samples(reply: Reply, description: Description) -> str:
    if reply.samples != description.samples:
        return f"it claims {reply.samples} training examples, and had {description.samples} before training"
    return ""


def _of_metrics(reply: Reply) -> str:
    if len(reply.metrics) > MOST_METRICS:
        return f"it sends {len(reply.metrics)} figures, more than {MOST_METRICS}"
    for key in reply.metrics:
        if key.rpartition("/")[2] != reply.participant:
            return f"it sends the figure {key!r}, which is not its own"
    return ""


def _of_answers(reply: Reply, order: Order, description: Description) -> str:
    if not (order.answer or order.answer_after):
        return "" if reply.answers is None else "it sends predictions on the public set that nobody asked for"
    if reply.answers is None:
        return "its predictions on the public set are missing"
    expected = (description.public_size, description.width)
    if tuple(reply.answers.shape) != expected or not reply.answers.is_floating_point():
        return (
            f"its predictions on the public set are of shape {tuple(reply.answers.shape)} and {reply.answers.dtype}, "
            f"expected {expected} with a fraction"
        )
    return "" if is_finite([reply.answers]) else "its predictions on the public set are not finite"


def _of_shared(reply: Reply, order: Order, description: Description) -> str:
    if surplus := reply.shared.keys() - order.keys.keys():
        return f"it sends a shared state for callback {min(surplus)}, which nobody asked for"
    for place, keys in order.keys.items():
        expected = {key: description.offered[place][key] for key in keys}
        fault = difference(expected, reply.shared.get(place, {}))
        if fault:
            return f"its shared state has {fault}"
        if not is_finite(reply.shared.get(place, {}).values()):
            return "its weights are not finite"
    return ""


def difference(expected: Mapping[str, Layout], found: Mapping[str, Tensor]) -> str:
    """The first way in which tensors differ from a layout; empty if they do not."""
    here = layouts(found)
    if missing := [key for key in expected if key not in here]:
        return f"no {missing[0]}" + (f" and {len(missing) - 1} more missing" if len(missing) > 1 else "")
    if surplus := [key for key in here if key not in expected]:
        return f"{surplus[0]!r}, which it did not describe"
    for key, layout in expected.items():
        if here[key] != layout:
            return f"{key} of shape {here[key][0]} and {here[key][1]}, and described {layout[0]} and {layout[1]}"
    return ""
