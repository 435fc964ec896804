"""Modules of methods that a round's losses leave unused: without a gradient, an optimizer does not step them.

A method may use a module from some round on, or once something was received. A gradient of zero is not the same as
none: momentum, weight decay and the step count of Adam would go on.
"""

from __future__ import annotations

from collections.abc import Hashable
from functools import partial

import torch

from hetfed_lightning.data.blocks import StackedBatch
from hetfed_lightning.fleets.fleet import Fleet
from hetfed_lightning.fleets.reference import loss_of, own_batch
from hetfed_lightning.fleets.rehearsal import layouts_by_row


def unused_keys(fleet: Fleet, batch: StackedBatch) -> list[frozenset[str]]:
    """Keys of parameters in methods' modules without a gradient in this round, for each of the first K members.

    One backward pass for each layout of the methods' contexts. Random streams are restored.

    Args:
        fleet: Fleet with its members enlisted, in a round.
        batch: One batch of each of the first K members.
    """
    rows = layouts_by_row(fleet)[: batch.count]
    if not rows:
        return [fleet.of_methods] * batch.count
    device = next(iter(fleet.members[0].parameters.values())).device
    found: dict[Hashable, frozenset[str]] = {}
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        for place, layout in enumerate(rows):
            if layout not in found:
                found[layout] = _unused_in(fleet, batch, place)
    return [found[layout] for layout in rows]


def _unused_in(fleet: Fleet, batch: StackedBatch, place: int) -> frozenset[str]:
    own = {key: one.detach().requires_grad_() for key, one in fleet.members[place].parameters.items()}
    of_methods = {key: one for key, one in own.items() if key in fleet.of_methods}
    loss = fleet.network.under(own, partial(loss_of, fleet, place, fleet.network, own, *own_batch(batch, place)))
    gradients = torch.autograd.grad(loss, list(of_methods.values()), allow_unused=True)
    return frozenset(key for key, gradient in zip(of_methods, gradients, strict=True) if gradient is None)
