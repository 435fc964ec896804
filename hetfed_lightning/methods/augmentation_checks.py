"""Check of a method's ``public_transform`` before training, on the first public examples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hetfed_lightning.methods.augmentation import PublicTransform, augmented, found_in, name_of
from hetfed_lightning.modes import evaluating
from hetfed_lightning.participants.first_batch import as_trained
from hetfed_lightning.seeding import streams_kept

if TYPE_CHECKING:
    from hetfed_lightning.federation_view import FederationView

SEED = 0
"""Seed of the check's draws."""


def check_public_transform(
    federation: FederationView, transform: PublicTransform, name: str, batch_size: int, who: str
) -> None:
    """Refuse a transform that cannot be applied to a participant's public batches, or not twice alike.

    Args:
        federation: The federation, its transforms fitted.
        transform: The transform.
        name: Name of a participant that learns from public examples, or of the student.
        batch_size: Public examples in its batches, at least 1.
        who: Name of the method's class, for messages.

    Raises:
        ValueError: If it has parameters to train, fails, changes shape or dtype, makes what is not finite of what is,
            has a state that changes, or draws from a generator of its own; if the inputs are no tensor of
            floating-point numbers. Names the participant, the transform, what was found and what to change.
    """
    participant, data = federation[name], federation.federated_data
    where = f"{participant.label}, {who}(public_transform={name_of(transform)})"
    _check_trains_nothing(transform, where)
    first = data.public_inputs(torch.arange(min(batch_size, data.num_public)))
    with streams_kept(federation.device), evaluating(participant), torch.no_grad():
        inputs = participant.transformed(as_trained(participant, first))
        before = _state(transform)
        try:
            one, other = augmented(federation, transform, [inputs, inputs], [SEED, SEED])
        except Exception as error:
            raise ValueError(
                f"{where}: it fails on the first public batch, {found_in(inputs)}: {type(error).__name__}: {error}"
            ) from error
    if bool(inputs.isfinite().all()) and not bool(one.isfinite().all()):
        count = int((~one.isfinite()).sum())
        raise ValueError(
            f"{where}: expected finite numbers from the first public batch, got {count} that are not. Change what it "
            "divides by or takes the logarithm of."
        )
    if changed := [key for key, value in _state(transform).items() if not torch.equal(value, before[key])]:
        raise ValueError(
            f"{where}: its buffer {changed[0]!r} changes with each batch, and neither checkpoints nor other "
            "institutions know of that. Use a transform without a state, or put it into evaluation mode first."
        )
    if not torch.allclose(one, other, equal_nan=True):
        raise ValueError(
            f"{where}: two calls under one seed differ, so that no run could be repeated. Draw from torch, random or "
            "numpy.random, whose seeds are set before each batch, not from a generator of its own."
        )


def _check_trains_nothing(transform: PublicTransform, where: str) -> None:
    if isinstance(transform, nn.Module):
        trainable = [key for key, one in transform.named_parameters() if one.requires_grad]
        if trainable:
            raise ValueError(
                f"{where}: its parameter {trainable[0]!r} requires a gradient, and nothing would train it. Call its "
                "requires_grad_(False), or make it a part of the participants' backbones."
            )


def _state(transform: Any) -> dict[str, Tensor]:
    if not isinstance(transform, nn.Module):
        return {}
    return {key: one.detach().to("cpu", copy=True) for key, one in transform.state_dict().items()}
