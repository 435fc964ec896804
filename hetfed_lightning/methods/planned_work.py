"""Steps that a method plans beside the local ones: once a result was received, for newcomers, after the last round."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import torch

from hetfed_lightning.data.collating import batch_of
from hetfed_lightning.federation_view import PublicLoss, PublicShape
from hetfed_lightning.local_training.local_step import learn, take_step
from hetfed_lightning.methods.plan_checks import Planner, planned
from hetfed_lightning.methods.plans import Moment, Part, Span, spans
from hetfed_lightning.methods.public_batches import PublicBatch, PublicOrders
from hetfed_lightning.methods.public_phase import PublicPhase
from hetfed_lightning.methods.to_device import to_device
from hetfed_lightning.participants.participant import STUDENT
from hetfed_lightning.privacy.noise import random_positions
from hetfed_lightning.seeding import seed_sample, stream_generator, stream_seed

if TYPE_CHECKING:
    from torch import Tensor

    from hetfed_lightning.data.loaders import TrainingSet
    from hetfed_lightning.federation_view import FederationView
    from hetfed_lightning.participants.participant import Participant


class Working(Planner, PublicShape, Protocol):
    """A method, as far as its plans are worked on."""

    def is_ready(self, federation: FederationView, participant: Participant) -> bool:
        """True if a participant may learn on public data."""


def work_on_plans(
    federation: FederationView, method: Working, names: Sequence[str], moment: Moment, round_index: int
) -> None:
    """Have participants take the steps that a method plans for them; those on public data a fleet's members together.

    What a step draws depends on (seed, moment, method, round, participant, batch) alone.

    Args:
        federation: In a round, before its validation.
        method: The method that plans.
        names: Participants to ask for, and the student; those that another process hosts work there.
        moment: The moment.
        round_index: The round.
    """
    plans: dict[str, tuple[Part, ...]] = {}
    for name in names:
        parts = planned(federation, method, name, moment, round_index)
        if any(part.on != "own" for part in parts) and not method.is_ready(federation, federation[name]):
            parts = tuple(part for part in parts if part.on == "own")
        if sum(_lengths(federation, name, parts)):
            plans[name] = parts
    here = {name: parts for name, parts in plans.items() if federation.ranks.hosts(name)}
    done = _together(federation, method, here, moment, round_index)
    for name, parts in here.items():
        if done.get(name, 0) < sum(_lengths(federation, name, parts)):
            _work(federation, method, name, parts, moment, round_index, done.get(name, 0))
        federation.local[name].leave()
    if plans:
        federation.ranks.synchronise(list(plans))


def work_alone(
    federation: FederationView, method: PublicLoss, name: str, parts: Sequence[Part], moment: Moment, round_index: int
) -> None:
    """Take the steps of a plan with one participant of this process.

    Args:
        federation: In a round.
        method: Whose loss public batches have.
        name: The participant.
        parts: Its plan.
        moment: The moment.
        round_index: The round.
    """
    _work(federation, method, name, parts, moment, round_index, 0)
    federation.local[name].leave()


def _together(
    federation: FederationView,
    method: Working,
    plans: Mapping[str, tuple[Part, ...]],
    moment: Moment,
    round_index: int,
) -> dict[str, int]:
    """Number of steps that members of fleets have taken at once, by name; of those whose plans are alike and public."""
    alike: dict[tuple[Part, ...], list[str]] = defaultdict(list)
    for name, parts in plans.items():
        if all(part.on == "public" for part in parts):
            alike[parts].append(name)
    done: dict[str, int] = {}
    for parts, names in alike.items():
        phase = PublicPhase(federation, method, parts, method.public_stream(moment), round_index)
        for fleet in federation.fleets.learners(names):
            done |= dict.fromkeys([one.name for one in fleet.members], phase.together(fleet))
    return done


def _lengths(federation: FederationView, name: str, parts: Sequence[Part]) -> list[int]:
    """Number of batches of each part."""
    own = 0 if name == STUDENT else federation.federated_data.source(name).batches_per_epoch
    public = federation.federated_data.num_public
    return [part.batches(own, public) for part in parts]


def _work(
    federation: FederationView,
    method: PublicLoss,
    name: str,
    parts: Sequence[Part],
    moment: Moment,
    round_index: int,
    done: int,
) -> None:
    """Take the steps of one participant's plan, but for the first ``done``, taken already."""
    federation.materialise(name)  # It may have been lent what it has received.
    local, size = federation.local[name], federation.federated_data.num_public
    if local.private is not None:
        federation.plans.check_losses(federation, name)
    own = 0 if name == STUDENT else federation.federated_data.source(name).batches_per_epoch
    stream = (moment, method.title, round_index, name)
    batches, public = (
        _OwnBatches(federation, name, stream),
        _PublicBatches(federation, method, name, moment, round_index),
    )
    for span in spans(parts, own, sum(_lengths(federation, name, parts)), size):
        counted = local.landed, local.rates, local.skipped
        for batch_idx in range(max(done, span.start), span.stop):
            if span.part.on == "public":
                place = span.place(batch_idx, size)
                names = (method.public_stream(moment), name, round_index, *place)
                learn(federation, name, public.at(span, batch_idx), span, batch_idx, *names)
                continue
            batch = batches.at(batch_idx)
            with federation.trainer.precision_plugin.train_step_context():
                take_step(federation, name, batch, batch_idx, span, public.at(span, batch_idx), *stream, batch_idx)
        if span.part.on == "public" and span.part.optimizer is not None:
            # Steps of another optimizer on other data are no local work, which messages may depend on.
            local.landed, local.rates, local.skipped = counted


class _PublicBatches:
    """Public batches of one participant's plan for a moment."""

    def __init__(
        self, federation: FederationView, method: PublicLoss, name: str, moment: Moment, round_index: int
    ) -> None:
        self._federation, self._method, self._name, self._round = federation, method, name, round_index
        self._stream, self._orders = method.public_stream(moment), PublicOrders()

    def at(self, span: Span, batch_idx: int) -> list[PublicBatch]:
        """Public batch of a step; empty for one on own data."""
        if span.part.on == "own":
            return []
        place = span.place(batch_idx, self._federation.federated_data.num_public)
        size = span.part.batch_size
        federation, name = self._federation, self._name
        return [self._orders.batch(federation, self._method, self._stream, name, self._round, size, place)]


class _OwnBatches:
    """Batches of a participant's own data for a moment's plan, one after another, drawn when they are needed."""

    def __init__(self, federation: FederationView, name: str, stream: tuple[str | int, ...]) -> None:
        self._federation, self._name, self._stream = federation, name, stream
        self._places = self._orders() if federation.local[name].private is None else self._samples()

    def at(self, batch_idx: int) -> object:
        """The next batch, on the device and before any transform; None without an example on this rank."""
        federation, name = self._federation, self._name
        indices = federation.ranks.share(next(self._places))
        if not indices.numel():
            return None
        seed_sample(stream_seed(federation.seed, "sample", *self._stream, batch_idx))
        source = federation.federated_data.source(name)
        batch = batch_of(source.dataset, indices.tolist(), federation.federated_data.collate_fn, federation[name].label)
        return to_device(federation, batch)

    def _samples(self) -> Iterator[Tensor]:
        """Indices of one Poisson sample after another, as DP-SGD counts on it in local steps too, shape ``(n,)``."""
        source: TrainingSet = self._federation.federated_data.source(self._name)
        while True:
            yield random_positions(source.num_samples, source.sampling_probability)

    def _orders(self) -> Iterator[Tensor]:
        """Indices of one batch after another, shape ``(B,)``, pass after pass, each in an order of its own."""
        source: TrainingSet = self._federation.federated_data.source(self._name)
        for epoch in itertools.count():
            generator = stream_generator(self._federation.seed, "order", *self._stream, epoch)
            order = torch.randperm(source.num_samples, generator=generator)
            yield from order.split(source.batch_size)[: source.batches_per_epoch]


def own_batches(federation: FederationView, method: Planner, name: str, moment: Moment, round_index: int) -> int:
    """Batches of a participant's own data in its plan for a moment other than the local one, whatever the optimizer.

    Args:
        federation: In a fit, its data set up.
        method: The method that plans.
        name: The participant.
        moment: The moment.
        round_index: The round.
    """
    parts = planned(federation, method, name, moment, round_index)
    return sum(_lengths(federation, name, [part for part in parts if part.on != "public"]))


def planned_steps(federation: FederationView, method: Planner, name: str, moment: Moment, round_index: int) -> int:
    """Optimizer steps of a participant's plan for a moment other than the local one, by its own optimizer.

    Args:
        federation: In a fit, its data set up.
        method: The method that plans.
        name: The participant, or the student.
        moment: The moment.
        round_index: The round.
    """
    parts = planned(federation, method, name, moment, round_index)
    accumulated = federation[name].accumulate_grad_batches
    lengths = _lengths(federation, name, parts)
    return sum(-(-own // accumulated) for part, own in zip(parts, lengths, strict=True) if part.optimizer is None)
