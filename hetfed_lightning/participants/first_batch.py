"""A participant's first batch, asked before the first step: whether it can take it, and what it makes of it."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from hetfed_lightning.data.collating import Collate, batch_of
from hetfed_lightning.modes import evaluating

if TYPE_CHECKING:
    from hetfed_lightning.participants.participant import Participant


def outputs_of(participant: Participant, inputs: Any, what: str) -> Tensor:
    """Outputs for raw inputs in evaluation mode, without gradients.

    Raises:
        ValueError: If the participant cannot take them, naming it, their shapes and the fault.
    """
    try:
        with evaluating(participant), torch.no_grad(), participant.trainer.precision_plugin.forward_context():
            outputs = participant(participant.transformed(as_trained(participant, inputs)))
    except Exception as error:
        hint = ""
        if "dtype" in str(error) and isinstance(inputs, Tensor):
            hint = f" The inputs are {str(inputs.dtype).removeprefix('torch.')}: give float32, or change the precision."
        raise ValueError(
            f"{participant.label} cannot take {what}: inputs of shape {shapes_of(inputs)} fail with "
            f"{type(error).__name__}: {error}.{hint}"
        ) from error
    if not isinstance(outputs, Tensor) or outputs.ndim == 0 or not outputs.is_floating_point():
        raise ValueError(
            f"{participant.label}: expected forward to give a tensor (B, C), got {type(outputs).__name__}."
        )
    return outputs


def check_last_public_batch(participant: Participant, inputs: Any, count: int, batch_size: int, setting: str) -> None:
    """Refuse a public set of which a batch is a single example, for whom that cannot be trained on.

    Args:
        participant: Who learns on it.
        inputs: Of its first example, raw.
        count: Its examples.
        batch_size: Of those who learn on it.
        setting: Where the size is set, such as ``"EnsembleDistillation(batch_size=...)"``.

    Raises:
        ValueError: Naming the participant, both numbers and what to change.
    """
    if batch_size == 1 or count % batch_size == 1:
        check_batch_of_one(
            participant, inputs, f"{count} public examples in batches of {batch_size}",
            f"Change {setting} or the public set's size, or use GroupNorm.",
        )  # fmt: skip


def check_batch_of_one(participant: Participant, inputs: Any, batches: str, remedy: str) -> None:
    """Refuse to train on a batch of a single example, where the network's BatchNorm cannot.

    Args:
        participant: Whose network it is.
        inputs: Of one example, raw.
        batches: Of what sizes, for the message.
        remedy: What to change.

    Raises:
        ValueError: Naming the participant.
    """
    if not any(isinstance(module, _BatchNorm) for module in participant.modules()):
        return
    backbone, head = deepcopy(participant.backbone), deepcopy(participant.head)
    try:
        with torch.no_grad(), participant.trainer.precision_plugin.forward_context():
            head(backbone(participant.transformed(as_trained(participant, inputs))))
    except ValueError as error:
        raise ValueError(
            f"{participant.label}: {batches} leave a batch of one, which its BatchNorm cannot normalise ({error}). "
            f"{remedy}"
        ) from error


def first_batch(dataset: Any, count: int = 1, collate_fn: Collate | None = None) -> Any:
    """A batch of the first ``count`` examples, or of as many as there are."""
    return batch_of(dataset, range(min(count, len(dataset))), collate_fn, "its data set")


def as_trained(participant: Participant, inputs: Any) -> Any:
    """Inputs on the participant's device, in the precision in which the trainer hands them over."""
    moved = participant.transfer_batch_to_device(inputs, participant.device, 0)
    return participant.trainer.precision_plugin.convert_input(moved)


def shapes_of(inputs: Any) -> str:
    """Shapes of inputs as text, those of inputs by name in braces."""
    if isinstance(inputs, dict):
        return "{" + ", ".join(f"{key}: {shapes_of(value)}" for key, value in inputs.items()) + "}"
    return str(tuple(inputs.shape)) if isinstance(inputs, Tensor) else type(inputs).__name__
