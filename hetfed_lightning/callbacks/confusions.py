"""Predictions of trained participants on validation data: confusion matrices, and predicted against true values."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import lightning as L
import torch
from torch import Tensor
from torchmetrics.classification import BinaryConfusionMatrix, MulticlassConfusionMatrix

from hetfed_lightning.batches import split_batch
from hetfed_lightning.data.module import GLOBAL
from hetfed_lightning.modes import evaluating
from hetfed_lightning.participants.participant import OWN, Participant, Scope, output_width

if TYPE_CHECKING:
    from hetfed_lightning.federation_view import FederationView

log = logging.getLogger(__name__)

MAX_CLASSES = 30
"""Largest number of classes of a readable confusion matrix."""

MAX_EXAMINED = 16
"""Participants that are looked at; each picture takes a third of a second, and few would be looked at."""

MAX_POINTS = 400
"""Values of a regression that are kept, evenly spaced over those there are: more dots hide each other."""


@dataclass(frozen=True)
class Examined:
    """Predictions on validation data.

    Attributes:
        confusions: Numbers of examples by true and predicted class, shape ``(C, C)``, by name; of classifiers.
        residuals: True and predicted values, at most ``MAX_POINTS``, by name; of regressions with one value.
        where: Data of the predictions, e.g. ``"own validation set"``.
    """

    confusions: dict[str, Tensor]
    residuals: dict[str, tuple[list[float], list[float]]]
    where: str


@torch.no_grad()
def examine(trainer: L.Trainer, federation: FederationView) -> Examined:
    """Predictions of all participants on validation data.

    Classifiers take one pass over the global validation set if there is one, so that all show all classes, else over
    their own. Regressions, whose units may differ, take their own validation set if they have one. Participants with
    other tasks or more than ``MAX_CLASSES`` classes are left out.

    Args:
        trainer: Trainer at the end of a fit.
        federation: The federation.
    """
    loaders = federation.federated_data.val_dataloader() if trainer.limit_val_batches else {}
    members, joined = federation.members(), federation.joined(federation.current_round - 1)
    classifies = {name: one.task.kind in {"multiclass", "binary"} for name, one in federation.everyone().items()}
    if GLOBAL in loaders and any(classifies.values()):
        names = [name for name in federation.everyone() if name in joined or name not in members]
        work = {GLOBAL: _asked([name for name in names if classifies[name]])}
        where = "everyone's validation set"
    else:
        work = {name: [name] for name in _asked([name for name in joined if name in loaders])}
        where = "own validation set"
    matrices: dict[str, Any] = {}
    values: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for owner, students in work.items():
        for batch in islice(loaders[owner], _limit(trainer, loaders[owner])):
            for name in students:
                scope: Scope = "global" if owner == GLOBAL else "own"
                _ask(trainer, federation[name], batch, scope, matrices, values)
    return Examined(
        {name: matrix.compute().cpu() for name, matrix in matrices.items()},
        {name: _thinned(pairs) for name, pairs in values.items()},
        where,
    )


def _ask(
    trainer: L.Trainer,
    participant: Participant,
    batch: Any,
    scope: Scope,
    matrices: dict[str, Any],
    values: dict[str, list[tuple[Tensor, Tensor]]],
) -> None:
    kind = participant.task.kind
    if kind not in {"multiclass", "binary", "regression"}:
        return
    name = participant.name or ""
    with evaluating(participant), trainer.precision_plugin.forward_context():
        moved = trainer.strategy.batch_to_device(batch, participant.device)
        moved = trainer.precision_plugin.convert_input(moved)
        inputs, target = split_batch(participant.on_after_batch_transfer(moved, 0))
        outputs = participant.outputs_for(scope, participant.outputs_by_model(inputs)[OWN])
    width = output_width(outputs)
    if target is None or width > (1 if kind == "regression" else MAX_CLASSES):
        return
    predictions = participant.task.predictions(outputs)
    if kind == "regression":
        pair = (participant.in_own_unit(one) for one in (participant.task.metric_target(target), predictions))
        true, predicted = (one.flatten().float().cpu() for one in pair)
        values.setdefault(name, []).append((true, predicted))
        return
    if name not in matrices:
        # Other processes do not draw, and setting this later has no effect.
        made = (
            MulticlassConfusionMatrix(width, sync_on_compute=False)
            if kind == "multiclass"
            else BinaryConfusionMatrix(sync_on_compute=False)
        )
        matrices[name] = made.to(participant.device)
    matrices[name].update(predictions, target.reshape(predictions.shape[:1]))


def _thinned(pairs: list[tuple[Tensor, Tensor]]) -> tuple[list[float], list[float]]:
    true, predicted = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    step = -(-len(true) // MAX_POINTS)
    return true[::step].tolist(), predicted[::step].tolist()


def _asked(names: list[str]) -> list[str]:
    if len(names) > MAX_EXAMINED:
        log.info("Confusion matrices are drawn for %d of %d participants.", MAX_EXAMINED, len(names))
    return names[:MAX_EXAMINED]


def _limit(trainer: L.Trainer, loader: Any) -> int | None:
    limit = trainer.limit_val_batches
    if isinstance(limit, int) or limit is None or not hasattr(loader, "__len__"):
        return limit if isinstance(limit, int) else None
    return max(1, int(len(loader) * limit))
