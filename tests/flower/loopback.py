"""Whole deployments for tests: the commands that a user types, in processes of their own, beside `hetfed fit`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from hetfed_lightning.checkpointing.reading import read_checkpoint
from hetfed_lightning.flower.engine.marks import MARK, descendants, end
from hetfed_lightning.participants.participant import participant_state

ROOT = Path(__file__).resolve().parents[2]
PARTICIPANT = {
    "class_path": "hetfed_lightning.Participant",
    "init_args": {
        "backbone": {
            "class_path": "hetfed_lightning.backbones.MLPBackbone",
            "init_args": {"hidden": [16], "out_features": 8},
        },
        "head": {"class_path": "torch.nn.Linear", "init_args": {"in_features": 8, "out_features": 10}},
        "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.01}},
    },
}


def write_config(path: Path, names: Sequence[str], rounds: int) -> Path:
    """A federation of tiny participants that average their backbones, as `hetfed fit` takes it."""
    keep = {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": {"filename": "last"}}
    config = {
        "seed_everything": 0,
        "threads": 1,
        "trainer": {
            "max_epochs": rounds,
            "accelerator": "cpu",
            "callbacks": [{"class_path": "hetfed_lightning.BackboneAveraging"}, keep],
        },
        "model": {"seed": 0, "participants": dict.fromkeys(names, PARTICIPANT)},
        "data": {
            "class_path": "hetfed_lightning.showcases.DigitsDataModule",
            "init_args": {"batch_size": 64, "seed": 0},
        },
    }
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return path


def set_server(deployment: Path, settings: Mapping[str, Any]) -> None:
    """Change what the coordinator's file says, by dotted keys."""
    path = deployment / "server" / "server.yaml"
    found = yaml.safe_load(path.read_text(encoding="utf-8"))
    for key, value in settings.items():
        *above, last = key.split(".")
        inner = found
        for one in above:
            inner = inner[one]
        inner[last] = value
    path.write_text(yaml.safe_dump(found, sort_keys=False), encoding="utf-8")


HETFED = (sys.executable, "-c", "import sys; from hetfed_lightning.cli import main; sys.exit(main())")


class Command:
    """A command that runs, all of whose processes can be found by a word in their environment."""

    def __init__(self, folder: Path, *command: str, **variables: str) -> None:
        self.word = uuid.uuid4().hex
        self.said, self.complained = folder / f"{self.word}.out", folder / f"{self.word}.err"
        environment = os.environ | {"PYTHONPATH": str(ROOT), "HETFED_TEST": self.word, **variables}
        environment.pop(MARK, None)
        with self.said.open("wb") as said, self.complained.open("wb") as complained:
            self.process = subprocess.Popen(
                command, stdout=said, stderr=complained, cwd=folder, env=environment
            )  # fmt: skip

    @property
    def output(self) -> str:
        """What it said, and what it complained of."""
        return self.said.read_text(encoding="utf-8") + self.complained.read_text(encoding="utf-8")

    def processes(self) -> dict[int, str]:
        """Whatever of it lives: what it started, or what bears its word; by number, the first words of each."""
        there = {*descendants(self.process.pid), *_bearing(self.word)}
        return {pid: said for pid in there if (said := command_line(pid))}

    def wait(self, seconds: float) -> int:
        """Its exit code."""
        return self.process.wait(seconds)

    def end(self) -> None:
        """Leave nothing behind, whatever the test finds."""
        with suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()
        end(_bearing(self.word))


def _bearing(word: str) -> list[int]:
    """Processes with this value of the tests' variable."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"HETFED_TEST={word}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found


def command_line(pid: int) -> str:
    """A living process's command line; empty if it is gone, or ended and not yet buried."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    return ""


def hetfed(folder: Path, *arguments: str, seconds: float = 120) -> str:
    """What a command of `hetfed` said that went through.

    Raises:
        AssertionError: If it did not.
    """
    command = Command(folder, *HETFED, *arguments)
    try:
        assert command.wait(seconds) == 0, command.output
    finally:
        command.end()
    return command.output


def record_of(run: Path) -> dict[str, Any]:
    """What a run has recorded so far."""
    found: dict[str, Any] = json.loads((run / "record.json").read_text(encoding="utf-8"))
    return found


def state_of_fit(checkpoint: Path, name: str) -> dict[str, Tensor]:
    """A participant's tensors in a checkpoint of `hetfed fit` or of a site."""
    return participant_state(read_checkpoint(checkpoint)["state_dict"], name, str(checkpoint))


def state_of_site(run: Path, name: str) -> dict[str, Tensor]:
    """Where a site stands, from its own disk."""
    return state_of_fit(max((run / "sites" / name).glob("*/*-finished.ckpt"), key=lambda path: path.name), name)


def distance(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> float:
    """The largest difference between two states of the same keys."""
    assert first.keys() == second.keys(), first.keys() ^ second.keys()
    return max(float(torch.max(torch.abs(first[key] - second[key]))) for key in first)
