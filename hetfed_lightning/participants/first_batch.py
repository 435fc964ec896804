"""A participant's first batch, passed through its network before training to find misfits early."""

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
    """Outputs for raw inputs, shape ``(B, C)``, in evaluation mode and without gradients.

    Args:
        participant: Participant whose network is run.
        inputs: Raw inputs of B examples.
        what: Source of the inputs in error messages.

    Raises:
        ValueError: If the network cannot take the inputs; names the participant, the shapes and the fault.
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
    """Refuse a public set whose last batch is a single example, where the network's BatchNorm cannot train on it.

    Args:
        participant: Participant that learns on the public set.
        inputs: Raw inputs of the first public example.
        count: Number of public examples.
        batch_size: Public examples per batch.
        setting: Setting that holds the batch size, such as ``"EnsembleDistillation(batch_size=...)"``.

    Raises:
        ValueError: If it cannot; names the participant, both numbers and what to change.
    """
    if batch_size == 1 or count % batch_size == 1:
        check_batch_of_one(
            participant, inputs, f"{count} public examples in batches of {batch_size}",
            f"Change {setting} or the public set's size, or use GroupNorm.",
        )  # fmt: skip


def check_batch_of_one(participant: Participant, inputs: Any, batches: str, remedy: str) -> None:
    """Refuse to train on a batch of a single example, where the network's BatchNorm cannot.

    Args:
        participant: Participant whose network it is.
        inputs: Raw inputs of one example.
        batches: Batch sizes, as text for the message.
        remedy: What to change, as text for the message.

    Raises:
        ValueError: If it cannot; names the participant.
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
    """Batch of the first ``count`` examples, or of as many as there are.

    Args:
        dataset: Data set with at least one example.
        count: Number of examples, at least 1.
        collate_fn: Makes a batch of samples; torch's default if None.
    """
    return batch_of(dataset, range(min(count, len(dataset))), collate_fn, "its data set")


def as_trained(participant: Participant, inputs: Any) -> Any:
    """Inputs on the participant's device, in the trainer's precision.

    Args:
        participant: Participant that takes them.
        inputs: Tensor, or nested collection of tensors, of any shapes.
    """
    moved = participant.transfer_batch_to_device(inputs, participant.device, 0)
    return participant.trainer.precision_plugin.convert_input(moved)


def shapes_of(inputs: Any) -> str:
    """Shapes of inputs as text; of inputs by name, in braces."""
    if isinstance(inputs, dict):
        return "{" + ", ".join(f"{key}: {shapes_of(value)}" for key, value in inputs.items()) + "}"
    return str(tuple(inputs.shape)) if isinstance(inputs, Tensor) else type(inputs).__name__
