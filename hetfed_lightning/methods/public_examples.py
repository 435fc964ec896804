"""Public examples as a participant, or the members of a fleet, learn from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hetfed_lightning.data.blocks import StackedBatch, stacked
from hetfed_lightning.data.examples import Examples
from hetfed_lightning.methods.augmentation import augmented
from hetfed_lightning.methods.public_outputs import on_device
from hetfed_lightning.participants.participant import Participant
from hetfed_lightning.supervised import Supervised

if TYPE_CHECKING:
    from hetfed_lightning.federation_view import FederationView, PublicBatch


def public_batch(
    federation: FederationView,
    participant: Participant,
    indices: Tensor,
    augment: Callable[[Any], Any] | None = None,
) -> Supervised:
    """Public examples with a participant's features and outputs; their target is their place in the public set.

    Of a participant with its own ``forward``, features are what its head is given, or of no column, shape ``(B, 0)``,
    if it does not call its head once.

    Args:
        federation: The federation, in a fit.
        participant: Participant that learns.
        indices: Places of the examples, shape ``(B,)``.
        augment: Function of the backbone's inputs that is applied to them before; None to take them as they are.
    """
    inputs = participant.transformed(on_device(federation, indices))
    inputs = inputs if augment is None else augment(inputs)
    target = indices.to(federation.device)
    if type(participant).forward is Participant.forward:
        features = participant.features_of(inputs)
        return Supervised(inputs, features, participant.head(features), target)
    given: list[Any] = []
    with participant.head.register_forward_pre_hook(lambda _, args: given.append(args[0])):
        outputs = participant(inputs)
    features = given[0] if len(given) == 1 and isinstance(given[0], Tensor) else outputs.new_empty(len(target), 0)
    return Supervised(inputs, features, outputs, target)


def stacked_batch(
    federation: FederationView, batches: Sequence[PublicBatch], inputs: Sequence[Any] | None = None
) -> StackedBatch:
    """Public batch of each of several participants, augmented and stacked; targets are places in the public set.

    Args:
        federation: The federation, in a fit.
        batches: Batches of one method, of B examples each, one for each participant.
        inputs: Transformed inputs of each participant; None if no participant has a transform.

    Raises:
        TypeError: If inputs are no tensors, or of different shapes.
    """
    indices = [one.indices for one in batches]
    if inputs is None and (block := _gathered(federation, torch.stack(indices))) is not None:
        return _augmented(federation, batches, block)
    inputs = [on_device(federation, own) for own in indices] if inputs is None else inputs
    targets = [own.to(federation.device) for own in indices]
    found = stacked(list(zip(inputs, targets, strict=True)))
    if found is None or found.mask is not None:
        raise TypeError("public batches of several participants cannot be stacked")
    return _augmented(federation, batches, found)


def _augmented(federation: FederationView, batches: Sequence[PublicBatch], block: StackedBatch) -> StackedBatch:
    """A block as its participants learn from it; itself if their method has no ``public_transform``."""
    if (transform := batches[0].method.public_transform) is None:
        return block
    inputs, seeds = [own for own, _ in block.parts()], [one.transform_seed(federation) for one in batches]
    return replace(block, inputs=torch.stack(augmented(federation, transform, inputs, seeds)))


def _gathered(federation: FederationView, indices: Tensor) -> StackedBatch | None:
    """All batches as one, of which each is a part; None where a batch depends on which examples are together.

    Args:
        federation: The federation, in a fit.
        indices: Shape ``(K, B)``.
    """
    data = federation.federated_data
    if data.collate_fn is not None and not isinstance(data.data.public, Examples):
        return None
    inputs, shape = on_device(federation, indices.flatten()), tuple(indices.shape)
    if isinstance(inputs, Mapping) and all(isinstance(value, Tensor) for value in inputs.values()):
        inputs = {key: value.unflatten(0, shape) for key, value in inputs.items()}
    elif isinstance(inputs, Tensor):
        inputs = inputs.unflatten(0, shape)
    else:
        return None
    return StackedBatch(inputs, indices.to(federation.device), None, (shape[1],) * shape[0])
