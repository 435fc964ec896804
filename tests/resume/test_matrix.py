"""Runs of every kind, stopped at every round and at random batches: the same bits, and no batch twice or left out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch

from hetfed_lightning import BackboneAveraging, EnsembleDistillation, FederatedDataModule, Federation
from tests.conftest import Tally
from tests.federations import examples, tiny_data, tiny_participant
from tests.resume.runs import Run, Setup, checkpoints, same_run
from tests.resume.test_exact_resume import (
    AT_EPOCH_END,
    BATCHES,
    EVERY_BATCH,
    FEDERATIONS,
    Noisy,
    adam,
    every_round,
    every_third_step,
    momentum,
    plateau,
)

pytestmark = [
    pytest.mark.promise("resume"),
    # The run that is resumed keeps no checkpoints; the one before it did.
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks:UserWarning"),
]

ROUNDS = 4


class Seen(L.Callback):
    """Notes the samples of everyone's batches."""

    def __init__(self) -> None:
        self.batches: list[dict[str, bytes]] = []

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.batches.append({name: _bytes(own) for name, own in batch.items()})


def _bytes(batch: Any) -> bytes:
    parts = batch if isinstance(batch, (list, tuple)) else [batch]
    return b"".join(part.numpy().tobytes() for part in parts if isinstance(part, torch.Tensor))


def fleet(engine: Any, optimizer: Any) -> Callable[[], Setup]:
    """Participants of one architecture, trained as one computation."""

    def make() -> Setup:
        members = {
            name: tiny_participant(seed=index, optimizer=optimizer, lr_scheduler=scheduler)
            for index, (name, scheduler) in enumerate(zip("abc", (None, every_round, plateau), strict=True))
        }
        federation = Federation(members, seed=3, engine=engine)
        return federation, tiny_data(), [EnsembleDistillation(), BackboneAveraging()]

    return make


def with_momentum() -> Setup:
    members = {
        name: tiny_participant(seed=index, optimizer=momentum, lr_scheduler=every_third_step)
        for index, name in enumerate("abc")
    }
    return Federation(members, seed=3, engine="sequential"), tiny_data(), [BackboneAveraging()]


KINDS: dict[str, Callable[[], Setup]] = {
    "batched fleet, Adam": fleet("batched", adam),
    "distilled, mixed": FEDERATIONS["distilled, mixed"],
    "averaged, momentum": with_momentum,
    "vmapped fleet, momentum": fleet("vmap", momentum),
    "distilled": FEDERATIONS["distilled"],
    "schedulers": FEDERATIONS["schedulers"],
    "accumulated": FEDERATIONS["accumulated"],
    "sampled, one joins late": FEDERATIONS["sampled, one joins late"],
    "with a student": FEDERATIONS["with a student"],
}


def read_by(workers: int, kind: Callable[[], Setup]) -> Callable[[], Setup]:
    """The same run, its data read sample by sample and changed at random on the way; by processes of its own."""

    def make() -> Setup:
        federation, _, callbacks = kind()
        train = {name: Noisy(index, 12 + 4 * index) for index, name in enumerate(federation.members())}
        val = {name: examples(6, seed=100 + index) for index, name in enumerate(federation.members())}
        public = examples(10, seed=300)
        data = FederatedDataModule(train, val=val, public=public, batch_size=4, num_workers=workers)
        return federation, data, callbacks

    return make


def resumed_everywhere(
    make: Callable[[], Setup], folder: Path, rounds: list[int], steps: list[int]
) -> tuple[int, list[str]]:
    """How often a run was resumed, at the end of rounds and after some batches, and where that made a difference."""

    def noted() -> Setup:
        federation, data, callbacks = make()
        return federation, data, [*callbacks, Seen()]

    def seen(run: Run) -> list[dict[str, bytes]]:
        return next(one.batches for one in run.trainer.callbacks if isinstance(one, Seen))  # type: ignore[attr-defined]

    wrong, places = [], {}
    for every, kept in ((AT_EPOCH_END, [BATCHES * number for number in rounds]), (EVERY_BATCH, steps)):
        within = folder / next(iter(every))
        straight = Run(noted, ROUNDS, every=checkpoints(within, **every))
        places[within] = kept
        for step in kept:
            resumed = Run(noted, ROUNDS, resume=within / f"{step:03d}.ckpt")
            wrong += [f"after {step} batches: {line}" for line in same_run(straight, resumed)]
            if seen(resumed) != seen(straight)[step:]:
                wrong.append(f"after {step} batches: other ones were read")
    return sum(map(len, places.values())), wrong


def stops(full: bool) -> tuple[list[int], list[int]]:
    """Rounds and batches at whose end to stop."""
    chance = np.random.default_rng(5)
    steps = [int(step) for step in chance.permutation(np.arange(1, ROUNDS * BATCHES))[: 10 if full else 2]]
    return list(range(1, ROUNDS)) if full else [2], steps


@pytest.mark.parametrize(
    "kind", [*list(KINDS)[:1], *(pytest.param(one, marks=pytest.mark.slow) for one in list(KINDS)[1:])]
)
def test_resumed_anywhere_it_is_the_same_run(kind: str, tmp_path: Path, tally: Tally, full: bool) -> None:
    tried, wrong = resumed_everywhere(KINDS[kind], tmp_path, *stops(full))
    tally(tried=tried, held=tried if not wrong else tried - len({line.partition(":")[0] for line in wrong}))
    assert wrong == []


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["averaged, momentum", "distilled, mixed", "batched fleet, Adam"])
def test_whoever_reads_the_data(workers: int, kind: str, tmp_path: Path, tally: Tally, full: bool) -> None:
    tried, wrong = resumed_everywhere(read_by(workers, KINDS[kind]), tmp_path, *stops(full))
    tally(tried=tried, held=tried if not wrong else tried - len({line.partition(":")[0] for line in wrong}))
    assert wrong == []
