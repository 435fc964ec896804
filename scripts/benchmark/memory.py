"""Memory: of one run in a process of its own, against the number of participants, and over many rounds.

On a GPU it is that of the GPU, which also holds the data of either program.
"""

from __future__ import annotations

import statistics
import tempfile
from dataclasses import replace
from typing import Any

import lightning as L

# Loaded at a first fit otherwise, and counted as what training holds.
import tensorboard.summary  # noqa: F401
from torch.utils.tensorboard import SummaryWriter

from hetfed_lightning import FederatedDataModule, Federation, Participant, ParticipantGroup
from hetfed_lightning.data import Examples
from hetfed_lightning.plots import matrices as figures
from scripts.benchmark.hardware import forget_peak, held, most_held
from scripts.benchmark.ours import How, callbacks_of, data_of, federation_of, train
from scripts.benchmark.plain import PlainLoop
from scripts.benchmark.rounds import SETTLED, Record
from scripts.benchmark.workloads import WORKLOADS, Workload

ACTIVE = 100
"""Participants that train in a round of a crowd."""


def draw_one_figure() -> None:
    """Load what drawing loads, as above."""
    with tempfile.TemporaryDirectory() as folder, SummaryWriter(folder) as writer:
        writer.add_figure("figure", figures.label_distribution({"a": [1, 2], "b": [2, 1]}))


def measure_ours(workload: Workload, how: How) -> Record:
    """Peak of ours, its networks included, its data not (on a GPU, its data too)."""
    data = data_of(workload)
    draw_one_figure()
    before = forget_peak(how.device)
    record = train(federation_of(workload, how.engine), data, callbacks_of(workload), how).record
    record.memory = most_held(how.device) - before
    return record


def measure_plain(workload: Workload, how: How) -> Record:
    """Peak of the plain loop, its networks included, its data not (on a GPU, its data too)."""
    data = workload.data()
    before = forget_peak(how.device)
    loop = PlainLoop.of(workload, device=how.device, data=data)
    for index in range(how.rounds):
        loop.round(index)
    return Record(memory=most_held(how.device) - before)


def crowd(participants: int, how: How) -> dict[str, Any]:
    """Seconds per round and megabytes of a federation of the 784-200-10 MLP, of whom ``ACTIVE`` train in a round.

    Everybody's data lies in one pool, 10 batches each, so that what grows is the federation.
    """
    workload = replace(WORKLOADS["mlp-100"], participants=participants, examples=320)
    inputs, targets = workload.drawn(workload.examples * 100, 4)
    parts = zip(inputs.split(workload.examples), targets.split(workload.examples), strict=True)
    sets = [Examples(*part) for part in parts]
    before = forget_peak(how.device)
    federation = crowd_of(workload, how.engine)
    made = held(how.device)
    data = FederatedDataModule({name: sets[index % len(sets)] for index, name in enumerate(federation.participants)})
    clock = train(federation, data, callbacks_of(workload), how)
    return {
        "participants": participants,
        "active": min(ACTIVE, participants),
        "seconds": statistics.median(clock.record.seconds),
        "started": clock.record.started,
        "made_mb": made - before,
        "peak_mb": most_held(how.device) - before,
        "parameters_mb": participants * 4 * sum(p.numel() for p in workload.architectures[0]().parameters()) / 2**20,
    }


def crowd_of(workload: Workload, engine: str | None) -> Federation:
    """A federation of many of one recipe, of whom a share is active."""
    network = workload.architectures[0]()
    one = Participant(network.backbone, network.head, optimizer=workload.optimizer)
    settings: dict[str, Any] = {} if engine is None else {"engine": engine}
    share = min(1.0, ACTIVE / workload.participants)
    return Federation({"p": ParticipantGroup(workload.participants, one)}, participation=share, **settings)


class Watch(L.Callback):
    """Notes what the process, or the GPU, holds at every round's start."""

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        self.megabytes: list[float] = []

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Note it."""
        del trainer, pl_module
        self.megabytes.append(held(self.device))


def soak(how: How) -> dict[str, Any]:
    """Growth of memory over many short rounds, as a fraction of what is held once settled.

    Returns:
        ``megabytes`` by round; ``growth``, the rise of the straight line through all rounds after ``SETTLED``, from
        its first to its last, as a fraction of its first.
    """
    workload = replace(WORKLOADS["tabular-20"], examples=96)
    watch = Watch(how.device)
    train(federation_of(workload, how.engine), data_of(workload), [*callbacks_of(workload), watch], how)
    settled = watch.megabytes[SETTLED:]
    line = statistics.linear_regression(range(len(settled)), settled)
    return {"megabytes": watch.megabytes, "growth": line.slope * (len(settled) - 1) / line.intercept}
