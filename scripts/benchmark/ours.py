"""Ours, through ``Trainer.fit`` with Lightning's defaults; the plain loop trains the same round after each of its own.

TensorBoard logger, checkpoint of every round, progress bar and our monitor are on, as a user has them who sets
nothing; ``bare`` takes them away. The clock of a round runs from its first hook to the next round's, so that the
checkpoint and the logs are in it.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch

from hetfed_lightning import BackboneAveraging, EnsembleDistillation, FederatedDataModule, Federation, Participant
from hetfed_lightning.data import Examples
from hetfed_lightning.seeding import stream_generator
from scripts.benchmark.plain import DISTILLATION_BATCH, TEMPERATURE, Order, PlainLoop
from scripts.benchmark.rounds import PairClock, Record
from scripts.benchmark.workloads import Workload

MakeLoop = Callable[[Any], PlainLoop]
"""Makes the plain loop of a federation that is about to train."""


@dataclass(frozen=True)
class How:
    """What may be varied about a run.

    Attributes:
        rounds: Timed, after ``warm`` that are not.
        warm: Rounds that warm up.
        device: ``"cpu"`` or ``"cuda"``.
        processes: More than one trains with ``strategy="federated"``.
        engine: Of ``Federation``; None leaves its default.
        bare: Whether logger, checkpoints, progress bar and summary are off.
    """

    rounds: int
    warm: int = 1
    device: str = "cpu"
    processes: int = 1
    engine: str | None = None
    bare: bool = False


def order_of(seed: int) -> Order:
    """The order in which a federation of this seed reads its data."""
    return lambda stream, count: torch.randperm(count, generator=stream_generator(seed, *stream))


def federation_of(workload: Workload, engine: str | None = None, **settings: Any) -> Federation:
    """The workload's participants."""
    if engine is not None:
        settings["engine"] = engine
    return Federation(
        {
            name: Participant(network.backbone, network.head, optimizer=workload.optimizer, shared=(workload.shared,))
            for name, network in workload.networks().items()
        },
        **settings,
    )


def data_of(workload: Workload) -> FederatedDataModule:
    """The workload's data."""
    train = {name: Examples(inputs, targets) for name, (inputs, targets) in workload.data().items()}
    public = Examples(workload.public()) if workload.distils else None
    return FederatedDataModule(train, public=public, batch_size=workload.batch_size)


def callbacks_of(workload: Workload) -> list[L.Callback]:
    """What its participants do together."""
    averaging = BackboneAveraging()
    if not workload.distils:
        return [averaging]
    return [EnsembleDistillation(temperature=TEMPERATURE, batch_size=DISTILLATION_BATCH), averaging]


def trainer_of(callbacks: list[L.Callback], folder: str, how: How) -> L.Trainer:
    """A Trainer with Lightning's defaults, but for validation, of which there is none."""
    settings: dict[str, Any] = {"default_root_dir": folder, "limit_val_batches": 0, "max_epochs": how.rounds + how.warm}
    if how.bare:
        for switch in ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"):
            settings[switch] = False
    if how.processes > 1:
        settings |= {"strategy": "federated", "devices": how.processes}
    accelerator = "gpu" if how.device == "cuda" else "cpu"
    return L.Trainer(callbacks=callbacks, accelerator=accelerator, **({"devices": 1} | settings))


class Interleaved(L.Callback):
    """Times each round, then the same round by hand.

    Args:
        make_loop: Makes the plain loop from the federation before its first round; None times ours alone.
        how: The run's settings.
    """

    changes_participants = False  # Fleets need not look for changes before each step.

    def __init__(self, make_loop: MakeLoop | None, how: How) -> None:
        self.record = Record(workers=how.processes)
        self.clock = PairClock(self.record, how.warm, how.device)
        self.called = time.perf_counter()
        self._make_loop = make_loop
        self._several = how.processes > 1

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Make the plain loop, on the process that leads."""
        if self._make_loop is not None and trainer.is_global_zero:
            self.clock.loop = self._make_loop(pl_module)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Stop the last round's clock, train it by hand, start the next clock."""
        del pl_module
        self.clock.close()
        if self._several:
            trainer.strategy.barrier()  # The others must not train while the plain loop runs.
        self.clock.open()

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Note when the first batch begins."""
        del trainer, pl_module, batch
        if self.clock.rounds == 0 and batch_idx == 0:
            self.record.started = time.perf_counter() - self.called

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Stop the last clock, and compare."""
        del trainer
        self.clock.close()
        if self.clock.loop is not None:
            self.record.difference = difference(pl_module, self.clock.loop)


def difference(federation: Federation, loop: PlainLoop) -> float:
    """Largest absolute difference between two equally named weights."""
    largest = 0.0
    for name, participant in federation.members().items():
        own = participant.state_dict()
        for key, tensor in loop.networks[name].state_dict().items():
            largest = max(largest, (own[key] - tensor).abs().max().item())
    return largest


def train(
    federation: Federation,
    data: FederatedDataModule,
    callbacks: list[L.Callback],
    how: How,
    make_loop: MakeLoop | None = None,
) -> Interleaved:
    """Train a federation, a plain loop beside it if there is one, and return the clock with its record."""
    with tempfile.TemporaryDirectory() as folder:
        clock = Interleaved(make_loop, how)
        trainer = trainer_of([*callbacks, clock], folder, how)
        clock.called = time.perf_counter()
        trainer.fit(federation, datamodule=data)
    return clock


def train_pair(workload: Workload, how: How) -> Record:
    """Ours and the plain loop on a workload."""
    federation = federation_of(workload, how.engine)
    clock = train(
        federation,
        data_of(workload),
        callbacks_of(workload),
        how,
        lambda host: PlainLoop.of(workload, order_of(host.seed), how.device),
    )
    loop = clock.clock.loop
    if loop is not None:
        networks = [member.to(how.device).eval() for member in federation.members().values()]
        clock.record.accuracy = workload.accuracy(networks, how.device)
        clock.record.plain_accuracy = workload.accuracy(loop.networks.values(), how.device)
    return clock.record
