"""Many rounds of everything at once: memory, open files and logs do not grow."""

import gc
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger

from hetfed_lightning import BackboneAveraging, EnsembleDistillation, FederatedCallback, Federation, FederationView
from scripts.promises.soak import SETTLED, growth
from tests.federations import fit, tiny_data, tiny_federation, tiny_participant

ROOT = Path(__file__).resolve().parents[1]
TWENTY = tuple(f"p{index}" for index in range(20))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.promise("flat")
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells what a process holds")
def test_nothing_grows_over_many_rounds(full: bool, tally: Any) -> None:
    rounds = 500 if full else 2 * SETTLED
    command = [sys.executable, str(ROOT / "scripts" / "promises" / "soak.py"), str(rounds)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(ended.stdout.splitlines()[-1])
    assert all(len(values) == rounds for values in found.values())
    written = [later - earlier for earlier, later in zip(found["log_bytes"], found["log_bytes"][1:], strict=False)]
    start, end = (sorted(part)[10] for part in (found["seconds"][SETTLED:][:20], found["seconds"][-20:]))
    flat = [
        growth(found["megabytes"]) < 0.01,
        found["files"][-1] <= found["files"][SETTLED],
        max(written[SETTLED:]) < 1.1 * min(written[SETTLED:]),
    ]
    tally(
        tried=rounds,
        held=rounds if all(flat) else 0,
        measured=f"{rounds} rounds: memory {found['megabytes'][SETTLED]:.0f} MB after {SETTLED} rounds, "
        f"{found['megabytes'][-1]:.0f} MB at the end, growth of the line through all between "
        f"{growth(found['megabytes']):.2%}; {found['files'][SETTLED]:.0f} and {found['files'][-1]:.0f} open files; "
        f"{written[SETTLED]:,.0f} and {written[-1]:,.0f} bytes of logs a round; {start:.3f} and {end:.3f} s a round",
    )
    assert flat == [True, True, True]


class Tensors(FederatedCallback):
    """Counts the tensors that are alive as two rounds begin."""

    def __init__(self) -> None:
        self.counts: list[int] = []

    def on_round_start(self, trainer: Any, federation: FederationView, round_index: int) -> None:
        if round_index not in {3, 6}:
            return
        gc.collect()
        self.counts.append(sum(issubclass(type(one), torch.Tensor) for one in gc.get_objects()))


@pytest.mark.promise("flat")
def test_no_tensor_is_left_over_from_a_round(tmp_path: Path) -> None:
    counted = Tensors()
    fit(
        tiny_federation(engine="sequential"), tiny_data(), 7, EnsembleDistillation(batch_size=5), BackboneAveraging(),
        ModelCheckpoint(tmp_path, save_last=True), counted, enable_checkpointing=True,
    )  # fmt: skip
    assert counted.counts[0] == counted.counts[1]


def logged(folder: Path, batch_size: int, rounds: int = 2) -> tuple[int, int]:
    """Bytes of the logs of twenty participants, and the number of figures that a round brings."""
    federation = Federation({name: tiny_participant() for name in TWENTY}, engine="sequential")
    logger = TensorBoardLogger(folder, name="logs")
    data = tiny_data(TWENTY, batch_size=batch_size, evaluated=False)
    trained = fit(federation, data, rounds, BackboneAveraging(), logger=logger, log_every_n_steps=1)
    return sum(path.stat().st_size for path in folder.rglob("events.out.tfevents.*")), len(trained.logged_metrics)


@pytest.mark.promise("logs")
def test_logs_grow_with_rounds_and_not_with_steps(tmp_path: Path) -> None:
    of_many_steps, _ = logged(tmp_path / "many", 1)  # up to 88 steps a round
    of_few, figures = logged(tmp_path / "few", 100)  # one
    assert abs(of_many_steps - of_few) < 0.1 * of_few
    of_more_rounds, _ = logged(tmp_path / "more", 100, rounds=6)
    assert (of_more_rounds - of_few) / 4 < 48 * figures  # bytes a round: what a scalar of its own would take
