"""A run that is told to end saves a checkpoint at its next batch, ends with 143, and goes on to the same bits."""

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.callbacks import ModelCheckpoint

from hetfed_lightning import BackboneAveraging, EnsembleDistillation, FederatedCallback, FederatedStrategy, Federation
from hetfed_lightning.checkpointing.sealing import is_sealed
from tests.cli.commands import hetfed, put, tiny, written
from tests.conftest import Tally
from tests.federations import state_of, tiny_data, tiny_federation, tiny_participant, trainer
from tests.resume.runs import Run, Setup, differences, same_run
from tests.strategies.launching import codes, fork

pytestmark = [
    pytest.mark.promise("sigterm"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning"),
    # The run that is resumed was told nothing.
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks:UserWarning"),
]

ROUNDS, BATCHES = 3, 5
TERMINATED = 128 + signal.SIGTERM


class Told(FederatedCallback):
    """Receives a signal at a moment of the run: when a hook is called for the n-th time."""

    def __init__(self, hook: str, count: int, signum: int = int(signal.SIGTERM), rank: int = 0) -> None:
        def call(trainer: L.Trainer, *arguments: Any, **settings: Any) -> None:
            self.left -= 1
            if self.left == 0 and trainer.global_rank == rank:
                os.kill(os.getpid(), signum)

        self.left = count
        setattr(self, hook, call)


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=0.01)


def make(*callbacks: Callable[[], L.Callback]) -> Callable[[], Setup]:
    def made() -> Setup:
        members = {name: tiny_participant(seed=index, optimizer=adam) for index, name in enumerate("abc")}
        federation = Federation(members, seed=3, engine="sequential")
        together = [EnsembleDistillation(mode="mixed"), BackboneAveraging()]
        return federation, tiny_data(), [*together, *(callback() for callback in callbacks)]

    return made


def interrupted(folder: Path, told: Callable[[], L.Callback], **settings: Any) -> Path:
    """The checkpoint of a run that was told to end; it ends with 143."""
    with pytest.raises(SystemExit) as ended:
        Run(make(told), ROUNDS, every=ModelCheckpoint(folder, save_last=True), **settings)
    assert ended.value.code == TERMINATED
    assert is_sealed(folder / "last-interrupted.ckpt")
    return folder / "last-interrupted.ckpt"


def batches_of(path: Path) -> int:
    return int(torch.load(path, weights_only=True)["global_step"])


@pytest.fixture(scope="module")
def straight() -> Run:
    return Run(make(), ROUNDS)


def test_the_next_batch_is_saved_wherever_the_run_is(straight: Run, tmp_path: Path, tally: Tally, full: bool) -> None:
    steps = np.random.default_rng(0).permutation(np.arange(1, ROUNDS * BATCHES))[: 10 if full else 3]
    lost = []
    for step in map(int, steps):
        folder = tmp_path / f"step_{step}"
        path = interrupted(folder, lambda step=step: Told("on_train_batch_start", step))  # type: ignore[misc]
        resumed = Run(make(), ROUNDS, resume="last", every=ModelCheckpoint(folder, save_last=True))
        if batches_of(path) != step or same_run(straight, resumed):
            lost.append(step)
    tally(tried=len(steps), held=len(steps) - len(lost))
    assert lost == []


@pytest.mark.parametrize(
    ("hook", "count", "saved"),
    [
        ("on_round_end", 2, 10),  # The batch is the last of the second round, and its validation is still to come.
        ("on_validation_start", 1, 5),  # After validation, which is not cut short.
        ("on_train_epoch_end", 1, 6),
        ("on_train_start", 1, 1),
        ("on_train_epoch_end", ROUNDS, 15),  # Training is over; the program that goes on from it was told to end.
    ],
)
def test_at_other_moments(hook: str, count: int, saved: int, straight: Run, tmp_path: Path) -> None:
    path = interrupted(tmp_path, lambda: Told(hook, count))
    assert batches_of(path) == saved
    assert same_run(straight, Run(make(), ROUNDS, resume=path)) == []


def test_a_run_may_be_told_twice(straight: Run, tmp_path: Path) -> None:
    first = interrupted(tmp_path / "one", lambda: Told("on_train_batch_start", 3))
    second = interrupted(tmp_path / "two", lambda: Told("on_train_batch_start", 4), resume=first)
    assert batches_of(second) == 7
    assert same_run(straight, Run(make(), ROUNDS, resume=second)) == []


def test_what_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "hetfed_lightning.federation.preemption"):
        path = interrupted(tmp_path, lambda: Told("on_train_batch_start", 3))
        with pytest.raises(SystemExit):
            Run(make(lambda: Told("on_train_batch_start", 3)), ROUNDS)
    assert caplog.messages == [
        f"SIGTERM: the run ends. Trainer.fit(ckpt_path='{path}') goes on with its next batch.",
        "SIGTERM: the run ends. There is no ModelCheckpoint that says where to save it.",
    ]


@pytest.mark.parametrize("method", ["validate", "test"])
def test_evaluation_ends_with_the_same_code(method: str) -> None:
    federation = tiny_federation("abc")
    made = trainer(1, Told(f"on_{'validation' if method == 'validate' else method}_batch_start", 1))
    with pytest.raises(SystemExit) as ended:
        getattr(made, method)(federation, datamodule=tiny_data())
    assert ended.value.code == TERMINATED


# Programs


PROGRAM = """
import os, signal, sys
from pathlib import Path
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from hetfed_lightning import BackboneAveraging
from tests.federations import fit, tiny_data, tiny_federation

class Tell(Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == 6:
            print("here", flush=True)
            sys.stdin.readline()

fit(tiny_federation("ab"), tiny_data("ab"), 3, BackboneAveraging(), Tell(), ModelCheckpoint("kept"),
    enable_checkpointing=True)
print("fit has ended")
"""


@pytest.mark.slow
def test_a_program_ends_with_143_and_does_nothing_more(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    program = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(root)}, cwd=tmp_path,
    )  # fmt: skip
    assert program.stdout is not None
    assert program.stdout.readline() == "here\n"
    program.send_signal(signal.SIGTERM)
    said, _ = program.communicate("\n", timeout=60)
    assert program.returncode == TERMINATED
    assert "fit has ended" not in said
    assert batches_of(tmp_path / "kept" / "last-interrupted.ckpt") == 7


def test_the_command_line_says_how_to_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tiny()
    put(config, "trainer.enable_checkpointing", True)
    logger = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "runs"}}
    put(config, "trainer.logger", logger)
    told = {"class_path": "tests.resume.test_signals.Told", "init_args": {"hook": "on_train_batch_start", "count": 2}}
    config["trainer"]["callbacks"].append(told)
    arguments: list[str | Path] = ["-c", written(config), "--allow_import", "tests"]
    with pytest.raises(SystemExit) as ended:
        hetfed(capsys, "fit", *arguments)
    assert ended.value.code == TERMINATED
    said = capsys.readouterr().out
    command = said.partition("To go on:\n  hetfed ")[2].splitlines()[0]
    path = next(Path("runs").rglob("last-interrupted.ckpt"))
    assert command == f"fit -c {path.parents[1] / 'config.yaml'} --ckpt_path {path}"
    assert hetfed(capsys, *command.split(), "--trainer.callbacks", "[]", "--allow_import", "tests").code == 0


# Several processes


@pytest.mark.parametrize(
    ("hook", "count", "told"),
    [
        ("on_train_batch_start", 7, 1),
        ("on_validation_start", 1, 0),
        pytest.param("on_train_batch_start", 7, 0, marks=pytest.mark.slow),
        pytest.param("on_validation_start", 1, 1, marks=pytest.mark.slow),
    ],
)
def test_all_ranks_stop_where_one_is_told(hook: str, count: int, told: int, tmp_path: Path) -> None:
    straight = Run(make(), ROUNDS)

    def run(rank: int) -> None:
        logging.getLogger("hetfed_lightning").addHandler(logging.StreamHandler(sys.stderr))
        settings: dict[str, Any] = {"strategy": FederatedStrategy(), "devices": 2}
        Run(make(lambda: Told(hook, count, rank=told)), ROUNDS, every=ModelCheckpoint(tmp_path / "kept"), **settings)

    processes = fork(2, tmp_path, run)
    ended = codes(processes)
    said = [(tmp_path / f"rank_{rank}.log").read_text() for rank in range(2)]
    assert ended == [TERMINATED, TERMINATED], "\n".join(said)
    path = tmp_path / "kept" / "last-interrupted.ckpt"
    assert count <= batches_of(path) < ROUNDS * BATCHES
    assert differences(state_of(straight.federation), state_of(Run(make(), ROUNDS, resume=path).federation)) == []
    assert ["goes on with its next batch" in one for one in said] == [True, False]


# SLURM


def test_slurm_is_asked_to_start_the_job_again(straight: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"JOB_ID": "7", "JOB_NAME": "train", "NTASKS": "1", "PROCID": "0", "LOCALID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    asked = tmp_path / "bin" / "scontrol"
    asked.parent.mkdir()
    asked.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\n')
    asked.chmod(0o755)
    monkeypatch.setenv("PATH", f"{asked.parent}:{os.environ['PATH']}")
    settings: dict[str, Any] = {"plugins": [SLURMEnvironment(auto_requeue=True)], "default_root_dir": tmp_path / "root"}
    with pytest.raises(SystemExit) as ended:
        Run(make(lambda: Told("on_train_batch_start", 8, signal.SIGUSR1)), ROUNDS, **settings)
    assert ended.value.code == 128 + signal.SIGUSR1
    assert (tmp_path / "asked").read_text() == "requeue 7\n"
    again = Run(make(), ROUNDS, **settings)  # Finds it by itself.
    assert again.trainer.ckpt_path == str(tmp_path / "root" / "hpc_ckpt_1.ckpt")
    assert same_run(straight, again) == []
