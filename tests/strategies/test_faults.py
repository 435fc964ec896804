"""A rank that dies, raises or is stopped ends the others, which say who it was, whom it trained and in which round."""

import os
import signal
from pathlib import Path
from typing import Any

import lightning as L
import pytest

from hetfed_lightning import BackboneAveraging, FederatedStrategy
from hetfed_lightning.strategies import liveness
from tests.federations import tiny_data, tiny_federation, trainer
from tests.strategies.launching import fork

NAMES = ("a", "b")


class Fault(L.Callback):
    """Happens at the third batch of a rank's second round."""

    def __init__(self, kind: str, rank: int) -> None:
        self.kind = kind
        self.rank = rank

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_rank != self.rank or trainer.current_epoch != 1 or batch_idx != 2:
            return
        if self.kind == "raise":
            raise ArithmeticError("a fault of the test")
        os.kill(os.getpid(), {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}[self.kind])


def train_for_ever(kind: str, faulty: int, stuck_after: float) -> None:
    strategy = FederatedStrategy(stuck_after=stuck_after)
    made = trainer(1_000_000, Fault(kind, faulty), BackboneAveraging(), strategy=strategy, devices=2)
    made.fit(tiny_federation(NAMES), datamodule=tiny_data(NAMES))


@pytest.mark.promise("ranks")
@pytest.mark.parametrize("faulty", [0, 1])
@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("kill", "is dead"),
        ("raise", "raised ArithmeticError: a fault of the test"),
        ("stop", "is stuck: no sign of life"),
    ],
)
def test_the_others_end_and_name_the_rank(
    kind: str, words: str, faulty: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(liveness, "GRACE", 0.3)
    processes = fork(2, tmp_path, lambda rank: train_for_ever(kind, faulty, stuck_after=1.0))
    other = processes[1 - faulty]
    other.join(60)
    try:
        assert other.exitcode == 1
    finally:
        for process in processes:  # SIGKILL reaches one that is stopped as well.
            process.kill()
            process.join()
    said = (tmp_path / f"rank_{1 - faulty}.log").read_text()
    # The first has most examples, and goes to the first rank.
    assert f"rank {faulty} (participants: {NAMES[1 - faulty]}) in round 1 {words}" in said
