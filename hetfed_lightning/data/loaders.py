"""Batches of a round: for batch index i, one batch from every active participant that still has data.

Every index is drawn from a stream named (seed, round, participant, local epoch), and every sample that is loaded one by
one is seeded by its own name too. So the batches of a round are the same after a resume, with any number of workers,
and with any other participants.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from hetfed_lightning.data.blocks import BlockSource, RoundBatch, alike
from hetfed_lightning.data.collating import Collate, NamedCollate, collated
from hetfed_lightning.data.examples import Examples
from hetfed_lightning.privacy.noise import random_positions
from hetfed_lightning.seeding import seed_sample, stream_generator, stream_seed

Batch = Any


@dataclass(frozen=True)
class LocalWork:
    """Work of a participant in a round: passes over its data and batches beyond, at most ``step_budget`` in all.

    Passes are repeated until they have at least ``min_steps`` batches.

    Where ``poisson``, each example is in a batch on its own, drawn from the system's entropy: DP-SGD counts on it.
    ``without`` are the batches of the round in which nothing is drawn of its own data, ascending.
    """

    local_epochs: int = 1
    step_budget: int | None = None
    poisson: bool = False
    steps: int = 0
    min_steps: int = 0
    without: tuple[range, ...] = ()

    def whole_passes(self, source: TrainingSet) -> int:
        """Number of completed passes over a training set, before ``step_budget``."""
        if not self.min_steps:
            return self.local_epochs
        return max(self.local_epochs, -(-self.min_steps // max(1, source.batches_per_epoch)))

    def before_budget(self, source: TrainingSet) -> int:
        """Number of batches in a round on a training set, before ``step_budget``."""
        return source.batches_per_epoch * self.whole_passes(source) + self.steps

    def batches(self, source: TrainingSet) -> int:
        """Number of batches in a round, with those of other data, before the trainer's limit."""
        return self.own_batches(source) + sum(map(len, self.without))

    def own_batches(self, source: TrainingSet) -> int:
        """Number of batches in a round on a training set, before the trainer's limit."""
        batches = self.before_budget(source)
        return batches if self.step_budget is None else min(batches, self.step_budget)

    def own_index(self, step: int) -> int:
        """Number of batches on its own data before a batch of the round."""
        return step - sum(max(0, min(step, one.stop) - one.start) for one in self.without)

    def has_own(self, step: int) -> bool:
        """True if a batch of the round is of its own data."""
        return not any(step in one for one in self.without)

    def passes(self, source: TrainingSet) -> Fraction:
        """Passes over a training set, those that are not completed as fractions, before ``step_budget``."""
        whole = Fraction(self.whole_passes(source))
        return whole + Fraction(self.steps, max(1, source.batches_per_epoch)) if self.steps else whole


class Hosting(Protocol):
    """Division of the work over processes, seen from this one."""

    def hosts(self, name: str) -> bool:
        """True if a participant trains in this process."""

    def measures(self, name: str) -> bool:
        """True if a participant is evaluated in this process."""

    def share(self, indices: Tensor) -> Tensor:
        """Part of a batch's indices ``(B,)`` that is trained on in this process, shape ``(b,)`` with b in 0 to B."""


class TrainingSchedule(Protocol):
    """Schedule of a federation's rounds, as its loader needs it."""

    seed: int

    @property
    def current_round(self) -> int:
        """Index of the round about to be loaded, from 0."""

    @property
    def batches_done(self) -> int:
        """Number of batches of that round already trained before a resume."""

    def active_names(self, round_index: int) -> list[str]:
        """Names of the participants that take part in a round, in order."""

    def work_of(self, name: str, round_index: int) -> LocalWork:
        """Work of a participant in a round that it takes part in."""

    def rounds_ahead(self) -> Sequence[int]:
        """Rounds in which somebody's work may be another, at least one: the current one alone if it is always equal."""

    def limit_batches(self, batches: int) -> int:
        """Number of batches left of ``batches`` under the trainer's limit."""

    def expect_batches(self, batches: int) -> int:
        """Set the number of batches of the round about to begin, or to be resumed.

        Args:
            batches: Number of batches by the loader's plan.

        Returns:
            The number that the round has in the end.
        """


@dataclass(frozen=True)
class TrainingSet:
    """One participant's training set and its division into batches."""

    dataset: Dataset[Any]
    batch_size: int
    drop_last: bool = False

    @property
    def num_samples(self) -> int:
        """Number of examples in the data set."""
        return len(self.dataset)  # type: ignore[arg-type]

    @property
    def batches_per_epoch(self) -> int:
        """Number of batches in one pass."""
        full, rest = divmod(self.num_samples, self.batch_size)
        return full if self.drop_last or rest == 0 else full + 1

    @property
    def sampling_probability(self) -> float:
        """Probability of an example to be in a Poisson sample of ``batch_size`` on average, in (0, 1]."""
        return min(1.0, self.batch_size / self.num_samples)

    def length_of(self, step: int) -> int:
        """Number of examples in a batch of a round.

        Args:
            step: Index of the batch, from 0 over all passes.
        """
        return min(self.batch_size, self.num_samples - step % self.batches_per_epoch * self.batch_size)


class RoundLoader:
    """Batches of one round at a time: yields ``{participant: batch}``.

    In-memory :class:`Examples` are indexed a whole batch at a time. Other data sets go through one ``DataLoader`` that
    all participants share, so ``num_workers`` counts workers of the federation.

    Args:
        sources: Training set of every participant, by name.
        schedule: Schedule of the rounds; the federation.
        num_workers: Worker processes for data sets that are not in memory.
        collate_fn: Makes a batch of samples; torch's default if None.
        pin_memory: As for ``DataLoader``.
        hosting: Division of the work over processes; None in one process. A batch of which no example is trained on
            here is None.
        home: Device on which in-memory data is to live, and its batches come out; None for the host.
    """

    def __init__(
        self,
        sources: Mapping[str, TrainingSet],
        schedule: TrainingSchedule,
        *,
        hosting: Hosting | None = None,
        num_workers: int = 0,
        collate_fn: Collate | None = None,
        pin_memory: bool = False,
        home: torch.device | None = None,
    ) -> None:
        self.sources = dict(sources)
        self.schedule = schedule
        self.home = home
        self.hosting = hosting
        self.num_workers = num_workers
        self._collate = NamedCollate(collate_fn)
        self._pin_memory = pin_memory
        self._length: int | None = None
        self._round: tuple[int, int] | None = None
        self._queue = _BatchQueue()
        self._sources: list[BlockSource] | None = None
        self._loader: DataLoader[Any] | None = None

    @property
    def sampler(self) -> RoundLoader:
        """The loader itself: Lightning calls ``set_epoch`` of a loader's sampler before every epoch."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Fix the length of the round about to begin, or to be resumed.

        Args:
            epoch: Index of the round, from 0.
        """
        self._round = epoch, self.schedule.expect_batches(self.steps_in(epoch))

    def full_steps_of(self, name: str, round_index: int) -> int:
        """Number of batches of a participant's data and work in a round."""
        return self.schedule.work_of(name, round_index).batches(self.sources[name])

    def steps_of(self, name: str, round_index: int) -> int:
        """Number of batches that a participant trains on in a round, after the trainer's limit."""
        return self.schedule.limit_batches(self.full_steps_of(name, round_index))

    def steps_in(self, round_index: int) -> int:
        """Number of batches of a round, at least 1: the most of any participant in it, in this process or not."""
        active = self.schedule.active_names(round_index)
        return max((self.steps_of(name, round_index) for name in active if name in self.sources), default=1) or 1

    def length_of(self, name: str, step: int) -> int:
        """Number of examples in one of a participant's batches of a round.

        Args:
            name: Name of the participant.
            step: Index of the batch, from 0.
        """
        work = self.schedule.work_of(name, self.schedule.current_round)
        return self.sources[name].length_of(work.own_index(step))

    def __len__(self) -> int:
        # The longest possible round: Lightning checks its settings by it; `set_epoch` gives each round's own length.
        if self._length is None:
            rounds = self.schedule.rounds_ahead()
            steps = (self.full_steps_of(name, round_index) for round_index in rounds for name in self.sources)
            # A run whose first rounds are empty by their plans has rounds all the same.
            self._length = max(steps, default=0) or int(any(one.batches_per_epoch for one in self.sources.values()))
        return self._length

    def __iter__(self) -> Iterator[RoundBatch]:
        # A generator: the round is read when the first batch is asked for, after Lightning has advanced it.
        round_index, start = self.schedule.current_round, self.schedule.batches_done
        active = [name for name in self.schedule.active_names(round_index) if name in self.sources]
        if (hosting := self.hosting) is not None:
            active = list(filter(hosting.hosts, active))
        plans = {name: self._plan(name, round_index)[: self.steps_of(name, round_index)] for name in active}
        if hosting is not None:
            plans = {
                name: [None if indices is None else hosting.share(indices) for indices in plan]
                for name, plan in plans.items()
            }
        loaded = self._loaded(plans, round_index, start)
        blocks, single = self._blocks(plans)
        # Ends with the round: after a resume Lightning would fetch a batch beyond it.
        told, length = self._round or (-1, 0)
        for index in range(start, length if told == round_index else self.steps_in(round_index)):
            batch = RoundBatch()
            for name in single:
                if index >= len(plans[name]) or (own := plans[name][index]) is None:
                    continue
                dataset = self.sources[name].dataset
                if not own.numel():
                    batch[name] = None
                else:
                    batch[name] = dataset.batch(own) if isinstance(dataset, Examples) else next(loaded)
            for source, names in blocks:
                present = {name: plans[name][index] for name in names if index < len(plans[name])}
                indices = {name: own for name, own in present.items() if own is not None}
                if any(not own.numel() for own in indices.values()):
                    batch.update({name: None for name, own in indices.items() if not own.numel()})
                    indices = {name: own for name, own in indices.items() if own.numel()}
                if indices:
                    batch.add(tuple(indices), source.block(indices))
            batch.arrange(plans)
            # Empty if no participant is in the round, or if a resumed round was longer when it began.
            yield batch

    def _blocks(
        self, plans: Mapping[str, Sequence[Tensor | None]]
    ) -> tuple[list[tuple[BlockSource, list[str]]], list[str]]:
        """Block sources with the participants of each, those with most batches first; and all other participants."""
        if self._sources is None:
            datasets = {name: source.dataset for name, source in self.sources.items()}
            groups = alike(datasets, least=2 if self.home is None else 1)
            self._sources = [BlockSource(group, self.home) for group in groups]
        blocks = []
        for source in self._sources:
            names = sorted((name for name in plans if name in source.datasets), key=lambda name: -len(plans[name]))
            blocks.append((source, names))
        together = {name for _, names in blocks for name in names}
        return blocks, [name for name in plans if name not in together]

    def _plan(self, name: str, round_index: int) -> list[Tensor | None]:
        """Indices of a participant's batches in a round, one tensor a batch; None for a batch of other data."""
        source, work = self.sources[name], self.schedule.work_of(name, round_index)
        own = self._own_plan(name, round_index, source, work)
        if not work.without:
            return [*own]
        left = iter(own)
        return [next(left) if work.has_own(step) else None for step in range(work.batches(source))]

    def _own_plan(self, name: str, round_index: int, source: TrainingSet, work: LocalWork) -> list[Tensor]:
        batches: list[Tensor] = []
        if work.poisson:
            steps, total = work.before_budget(source), source.num_samples
            return [random_positions(total, source.sampling_probability) for _ in range(steps)]
        for epoch in range(math.ceil(work.passes(source))):
            generator = stream_generator(self.schedule.seed, "order", round_index, name, epoch)
            order = torch.randperm(source.num_samples, generator=generator)
            batches.extend(order.split(source.batch_size)[: source.batches_per_epoch])
        return batches

    def _loaded(self, plans: Mapping[str, Sequence[Tensor | None]], round_index: int, start: int) -> Iterator[Batch]:
        """Batches of the data sets that are read sample by sample, in the order in which they are needed."""
        plans = {name: plan for name, plan in plans.items() if not isinstance(self.sources[name].dataset, Examples)}
        if not plans:
            return iter(())
        self._queue.batches = [
            [(name, index, self._sample_seed(round_index, name, step, index)) for index in own.tolist()]
            for step in range(start, max(map(len, plans.values())))
            for name, plan in plans.items()
            if step < len(plan) and (own := plan[step]) is not None and len(own)
        ]
        if self._loader is None:
            self._loader = DataLoader(
                _AllSamples({name: source.dataset for name, source in self.sources.items()}),
                batch_sampler=self._queue,
                num_workers=self.num_workers,
                collate_fn=self._collate,
                pin_memory=self._pin_memory,
                persistent_workers=self.num_workers > 0,
            )
        return iter(self._loader)

    def close(self) -> None:
        """End the worker processes and leave the device; both begin again with the next round.

        Left to the garbage collector, torch waits 5 seconds for each process.
        """
        if self.home is not None:
            self._sources = None
        iterator = None if self._loader is None else self._loader._iterator
        self._loader = None
        if self.num_workers and iterator is not None:
            iterator._shutdown_workers()  # type: ignore[attr-defined]

    def _sample_seed(self, round_index: int, name: str, step: int, index: int) -> int:
        return stream_seed(self.schedule.seed, "sample", round_index, name, step, index)

    def state_dict(self) -> dict[str, int]:
        """Round and number of batches done, which Lightning's counters restore; it declares the loader resumable."""
        return {"round": self.schedule.current_round, "batches_done": self.schedule.batches_done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Do nothing: the next iteration reads round and batch from the trainer's restored counters."""


class EvaluationLoader:
    """Batches of an in-memory set in order, the last one as short as it is."""

    def __init__(self, dataset: Examples, batch_size: int) -> None:
        self.dataset = dataset
        self.batch_size = batch_size

    def __len__(self) -> int:
        return math.ceil(len(self.dataset) / self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        for start in range(0, len(self.dataset), self.batch_size):
            yield self.dataset.batch(torch.arange(start, min(start + self.batch_size, len(self.dataset))))

    def view(self, index: int) -> Batch:
        """Batch at ``index``, counted from 0, as views of the set."""
        start = index * self.batch_size
        return self.dataset.part(start, min(start + self.batch_size, len(self.dataset)))


def evaluation_loader(
    dataset: Dataset[Any],
    batch_size: int,
    *,
    num_workers: int = 0,
    collate_fn: Collate | None = None,
    owner: str = "an evaluation set",
) -> EvaluationLoader | DataLoader[Any]:
    """Loader of a set in order: by whole batches where it is in memory, by torch's ``DataLoader`` elsewhere.

    Args:
        dataset: The set.
        batch_size: Examples per batch, at least 1.
        num_workers: Worker processes for a set that is not in memory.
        collate_fn: Makes a batch of samples; torch's default if None.
        owner: Owner of the set, for messages.
    """
    if isinstance(dataset, Examples):
        return EvaluationLoader(dataset, batch_size)
    collate = partial(collated, owner=owner, collate_fn=collate_fn)
    return DataLoader(dataset, batch_size=batch_size, num_workers=num_workers, collate_fn=collate)


class MeasuredLoader:
    """Loader of a set that one process evaluates: it has its length in every process, and batches in that one alone.

    Lightning gives every ``DataLoader`` the sampler of a distributed run; this class keeps the loader out of its sight.

    Args:
        loader: Loader of the whole set.
        owner: Participant that owns the set; None for a set that passes through every process.
        hosting: Division of the work over processes, asked at the beginning of each pass.
    """

    def __init__(self, loader: EvaluationLoader | DataLoader[Any], owner: str | None, hosting: Hosting) -> None:
        self._loader = loader
        self._owner = owner
        self._hosting = hosting

    @property
    def inside(self) -> EvaluationLoader | DataLoader[Any]:
        """Loader of the whole set."""
        return self._loader

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._loader) if self._owner is None or self._hosting.measures(self._owner) else iter(())


class _BatchQueue:
    """Batch sampler whose batches are replaced every round, so that worker processes can live on."""

    def __init__(self) -> None:
        self.batches: list[list[tuple[str, int, int]]] = []

    def __iter__(self) -> Iterator[list[tuple[str, int, int]]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class _AllSamples(Dataset[Any]):
    """Samples of every participant, each drawn under its own seed."""

    def __init__(self, datasets: Mapping[str, Dataset[Any]]) -> None:
        self._datasets = dict(datasets)

    def __getitem__(self, key: tuple[str, int, int]) -> tuple[str, Any]:
        name, index, seed = key
        seed_sample(seed)
        return f"participant {name!r}", self._datasets[name][index]
