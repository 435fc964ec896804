"""Steps that a method plans beside the local ones: once a result was received, for newcomers, after the last round."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from hetfed_lightning.data.collating import batch_of
from hetfed_lightning.local_training.local_step import take_step
from hetfed_lightning.methods.plan_checks import Planner, planned
from hetfed_lightning.methods.plans import Moment, Part, spans
from hetfed_lightning.seeding import seed_sample, stream_generator, stream_seed

if TYPE_CHECKING:
    from torch import Tensor

    from hetfed_lightning.data.loaders import TrainingSet
    from hetfed_lightning.federation_view import FederationView


def work_on_plans(
    federation: FederationView, method: Planner, names: Sequence[str], moment: Moment, round_index: int
) -> None:
    """Have participants take the steps that a method plans for them, on their own data.

    What a step draws depends on (seed, moment, method, round, participant, batch) alone.

    Args:
        federation: In a round, before its validation.
        method: The method that plans.
        names: Participants to ask for; those that another process hosts work there.
        moment: The moment.
        round_index: The round.
    """
    worked = []
    for name in names:
        parts = planned(method, federation[name], moment, round_index)
        if parts and any(part.batches(federation.federated_data.source(name).batches_per_epoch) for part in parts):
            worked.append(name)
            if federation.ranks.hosts(name):
                _work(federation, name, parts, (moment, method.title, round_index, name))
    if worked:
        federation.ranks.synchronise(worked)


def _work(federation: FederationView, name: str, parts: Sequence[Part], stream: tuple[str | int, ...]) -> None:
    federation.materialise(name)  # It may have been lent what it has received.
    source, local, trainer = federation.federated_data.source(name), federation.local[name], federation.trainer
    total = sum(part.batches(source.batches_per_epoch) for part in parts)
    places = _orders(federation, source, stream)
    for span in spans(parts, source.batches_per_epoch, total):
        for batch_idx in range(span.start, span.stop):
            batch = _batch(federation, name, source, federation.ranks.share(next(places)), (*stream, batch_idx))
            with trainer.precision_plugin.train_step_context():
                take_step(federation, name, batch, batch_idx, span, *stream, batch_idx)
    local.leave()


def _orders(federation: FederationView, source: TrainingSet, stream: tuple[str | int, ...]) -> Iterator[Tensor]:
    """Indices of one batch after another, shape ``(B,)``, pass after pass, each in an order of its own."""
    for epoch in itertools.count():
        generator = stream_generator(federation.seed, "order", *stream, epoch)
        order = torch.randperm(source.num_samples, generator=generator)
        yield from order.split(source.batch_size)[: source.batches_per_epoch]


def _batch(
    federation: FederationView, name: str, source: TrainingSet, indices: Tensor, stream: tuple[str | int, ...]
) -> object:
    """A batch on the device, before any transform; None without an example."""
    if not indices.numel():
        return None
    seed_sample(stream_seed(federation.seed, "sample", *stream))
    batch = batch_of(source.dataset, indices.tolist(), federation.federated_data.collate_fn, federation[name].label)
    moved = federation.trainer.strategy.batch_to_device(batch, federation.device)
    return federation.trainer.precision_plugin.convert_input(moved)


def planned_steps(federation: FederationView, method: Planner, name: str, moment: Moment, round_index: int) -> int:
    """Optimizer steps of a participant's plan for a moment other than the local one, by its own optimizer.

    Args:
        federation: In a fit, its data set up.
        method: The method that plans.
        name: The participant.
        moment: The moment.
        round_index: The round.
    """
    participant = federation[name]
    per_epoch = federation.federated_data.source(name).batches_per_epoch
    return sum(
        -(-part.batches(per_epoch) // participant.accumulate_grad_batches)
        for part in planned(method, participant, moment, round_index)
        if part.optimizer is None
    )
