"""Roles of the participants in a run, for TensorBoard, records and reports."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import lightning as L
import torch

from hetfed_lightning.batches import split_batch
from hetfed_lightning.methods.averaging.backbone_averaging import BackboneAveraging
from hetfed_lightning.metrics import payload_bytes
from hetfed_lightning.participants.first_batch import first_batch, outputs_of
from hetfed_lightning.participants.participant import STUDENT, Participant, output_width

if TYPE_CHECKING:
    from hetfed_lightning.federation_view import FederationView

C = TypeVar("C", bound=L.Callback)


@dataclass(frozen=True)
class Role:
    """Role of one participant in a run.

    Attributes:
        name: Name of the participant.
        architecture: Classes of backbone and head.
        optimizer: Classes and learning rates; empty if nothing is trained.
        weights: Number of its parameters.
        shared_bytes: Bytes of its averaged tensors, each way in a round.
        shared_with: Names of the others that average them, in order of the federation.
        examples: Number of training examples; 0 for the student.
        local_epochs: Passes over them in a round.
        joins_at: First round of its membership, from 0.
        task: Kind of its task, e.g. ``"multiclass"``.
        headline: Name of its headline metric.
        higher_is_better: True if a larger value of that is better.
    """

    name: str
    architecture: str
    optimizer: str
    weights: int
    shared_bytes: int
    shared_with: tuple[str, ...]
    examples: int
    local_epochs: int
    joins_at: int
    task: str
    headline: str
    higher_is_better: bool

    @property
    def is_student(self) -> bool:
        """True for the unified model, which has no data."""
        return self.name == STUDENT

    def row(self) -> dict[str, Any]:
        """Attributes without the name, as plain data for a run's record."""
        found = asdict(self) | {"shared_with": list(self.shared_with)}
        del found["name"]
        return found


@dataclass(frozen=True)
class Partnership:
    """Averaged tensors of one participant.

    Attributes:
        size: Bytes each way in a round.
        partners: Names of the others that average them, in order of the federation; the first ones.
    """

    size: int = 0
    partners: tuple[str, ...] = ()


def partnerships(groups: Iterable[tuple[Sequence[str], int]], limit: int) -> dict[str, Partnership]:
    """Partnership of each averaging participant, by name.

    Args:
        groups: Members and shared bytes of every group of every averaging callback.
        limit: Largest number of partners listed; the first ones.
    """
    sizes: dict[str, int] = defaultdict(int)
    partners: dict[str, dict[str, None]] = defaultdict(dict)
    for members, size in groups:
        few = dict.fromkeys(members[:limit])
        for name in members:
            sizes[name] += size
            if name in few:
                partners[name] |= few
    return {
        name: Partnership(size, tuple(one for one in partners[name] if one != name)) for name, size in sizes.items()
    }


def roles(trainer: L.Trainer, federation: FederationView, limit: int) -> list[Role]:
    """Roles of the first participants, once a fit has begun.

    Args:
        trainer: Trainer of the fit.
        federation: The federation.
        limit: Largest number of roles.
    """
    groups = [
        (group.members, payload_bytes(federation[group.members[0]].state_of(group.keys)))
        for callback in of_type(trainer, BackboneAveraging)
        for group in callback.sharing.values()
    ]
    averaged = partnerships(groups, limit)
    members, data = federation.members(), federation.federated_data
    return [
        Role(
            name,
            architecture(participant),
            " + ".join(map(_optimizer, federation.local[name].optimizers)) if name in federation.local else "",
            sum(parameter.numel() for parameter in participant.parameters()),
            averaged.get(name, Partnership()).size,
            averaged.get(name, Partnership()).partners,
            data.num_samples(name) if name in members else 0,
            participant.local_epochs,
            participant.joins_at,
            participant.task.kind,
            participant.task.headline,
            participant.task.higher_is_better,
        )
        for name, participant in islice(federation.everyone().items(), limit)
    ]


def architecture(participant: Participant) -> str:
    """Classes of a participant's backbone and head."""
    parts = [participant.backbone, *([] if isinstance(participant.head, torch.nn.Identity) else [participant.head])]
    return " + ".join(type(part).__name__ for part in parts)


def _optimizer(optimizer: torch.optim.Optimizer) -> str:
    rates = dict.fromkeys(f"{group['lr']:g}" for group in optimizer.param_groups)
    return f"{type(optimizer).__name__}, lr {' / '.join(rates)}"


def label_counts(federation: FederationView, limit: int) -> dict[str, Any]:
    """Training examples by class, shape ``(C,)`` by name, of the first participants whose task has classes.

    Args:
        federation: The federation, its data set up.
        limit: Largest number of participants.
    """
    data = federation.federated_data
    counts = {}
    for name, participant in islice(federation.members().items(), limit):
        inputs, target = split_batch(first_batch(data.source(name).dataset, collate_fn=data.collate_fn))
        if target is None:
            continue  # Its own steps take batches of another form.
        width = output_width(outputs_of(participant, inputs, "its training data"))
        found = participant.task.class_counts(data.train_targets(name), width)
        if found is not None:
            counts[name] = found.numpy()
    return counts


def of_type(trainer: L.Trainer, kind: type[C]) -> list[C]:
    """Callbacks of a trainer that are instances of a class.

    Args:
        trainer: Trainer with the callbacks.
        kind: Class.
    """
    return [callback for callback in trainer.callbacks if isinstance(callback, kind)]  # type: ignore[attr-defined]
