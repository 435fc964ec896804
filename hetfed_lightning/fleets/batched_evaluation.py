"""Evaluation of a fleet's members from their outputs: losses, predictions and counts of all members at once."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from hetfed_lightning.fleets.network import mean_loss
from hetfed_lightning.logs.batched_accuracy import count
from hetfed_lightning.participants.batch_result import Evaluated
from hetfed_lightning.tasks import TASKS, Task


def batched_evaluation(
    task: Task, outputs: Tensor, targets: Tensor, mask: Tensor | None, sizes: Sequence[int]
) -> list[Evaluated]:
    """Evaluation of each participant, equal to :meth:`Evaluated.of` up to the rounding of the losses.

    Args:
        task: Task of all participants, with a loss of each example.
        outputs: Shape ``(K, B, C)`` or ``(K, B)``.
        targets: Shape ``(K, B, ...)``.
        mask: True where there is an example, shape ``(K, B)``; None if there is one everywhere.
        sizes: Number of examples of each participant.

    Returns:
        K evaluations, each of as many examples as ``sizes`` has for it.
    """
    shape, width = outputs.shape[:2], 1 if outputs.ndim == 2 else outputs.shape[-1]
    if type(task) not in TASKS.values():  # A user's own task may look at a batch as a whole.
        rows = zip(outputs, targets, sizes, strict=True)
        return [Evaluated.of(task, own[:size], target[:size]) for own, target, size in rows]
    flat, wanted = outputs.flatten(0, 1), targets.flatten(0, 1)
    losses, weights = task.example_losses(flat, wanted)
    means = mean_loss(losses.view(shape), weights.view(shape), mask)
    predictions = task.predictions(flat).unflatten(0, shape)
    counts = count(task.kind, predictions, task.metric_target(wanted).unflatten(0, shape), mask) or [None] * len(sizes)
    return [
        Evaluated(loss, own if mask is None else own[:size], width, counted)
        for loss, own, size, counted in zip(means.unbind(), predictions.unbind(), sizes, counts, strict=True)
    ]
