"""Who takes part in a run and with what, for everything that tells of it: TensorBoard, records, reports."""

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
    from hetfed_lightning.federation.federation import Federation

C = TypeVar("C", bound=L.Callback)


@dataclass(frozen=True)
class Role:
    """One participant's part in a run.

    Attributes:
        name: Its name.
        architecture: Classes of backbone and head.
        optimizer: Classes and learning rates; empty where nothing is trained.
        weights: Number of its parameters.
        shared_bytes: What it averages with others, bytes each way in a round.
        shared_with: With whom, in order of the federation.
        examples: Training examples; 0 of a student, who has none.
        local_epochs: Passes over them in a round.
        joins_at: The round in which it joins.
        task: Kind of its task, e.g. ``"multiclass"``.
        headline: Its headline metric.
        higher_is_better: Whether a larger value of that is better.
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
        """Whether it is the unified model, which has no data."""
        return self.name == STUDENT

    def row(self) -> dict[str, Any]:
        """Everything but the name, as plain data for a run's record."""
        found = asdict(self) | {"shared_with": list(self.shared_with)}
        del found["name"]
        return found


@dataclass(frozen=True)
class Partnership:
    """What one participant averages.

    Attributes:
        size: Bytes each way in a round.
        partners: With whom, in order of the federation; the first ones.
    """

    size: int = 0
    partners: tuple[str, ...] = ()


def partnerships(groups: Iterable[tuple[Sequence[str], int]], limit: int) -> dict[str, Partnership]:
    """Who averages with whom, of those who average something.

    Args:
        groups: Members and bytes of what they share, for every group of every averaging callback.
        limit: How many of a group's members are named as partners, the first ones.
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


def roles(trainer: L.Trainer, federation: Federation, limit: int) -> list[Role]:
    """The first ``limit`` participants and what they do; as it is once a fit has begun."""
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


def label_counts(federation: Federation, limit: int) -> dict[str, Any]:
    """Training examples per class of the first participants whose task knows classes, as arrays by name."""
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
    """The trainer's callbacks of a kind."""
    return [callback for callback in trainer.callbacks if isinstance(callback, kind)]  # type: ignore[attr-defined]
