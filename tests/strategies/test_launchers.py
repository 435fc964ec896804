"""The ordinary launchers: Lightning's own for one node, torchrun for several."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.strategies.launching import free_port

ROOT = Path(__file__).resolve().parents[2]
COMMAND = ["-m", "hetfed_lightning", "fit", "-c", str(ROOT / "configs" / "digits.yaml")]
SETTINGS = ["--trainer.accelerator", "cpu", "--trainer.max_epochs", "1", "--trainer.devices"]


def finished(commands: list[list[str]], folder: Path) -> list[str]:
    """What processes that run at the same time print, once all have ended well."""
    processes = [
        subprocess.Popen(
            [sys.executable, *command],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for command in commands
    ]
    said = [process.communicate(timeout=200)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(commands), "\n\n".join(said)
    return said


@pytest.mark.slow
def test_lightning_launches_the_second_process(tmp_path: Path) -> None:
    (said,) = finished([[*COMMAND, *SETTINGS, "2"]], tmp_path)
    assert said.count("Validation (own:") == 1
    assert "2 processes:" in said
    assert "terminate" not in said
    assert len(list(tmp_path.glob("runs/digits/*/checkpoints/*.ckpt"))) >= 1
    assert [path.name for path in tmp_path.glob("runs/digits/*")] == ["version_0"]


@pytest.mark.slow
def test_torchrun_launches_two_nodes(tmp_path: Path) -> None:
    nodes = ["-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", "--master-addr", "127.0.0.1"]
    nodes += ["--master-port", str(free_port())]
    fit = [*COMMAND, *SETTINGS, "1", "--trainer.num_nodes", "2"]
    first, second = finished([[*nodes, "--node-rank", str(node), *fit] for node in range(2)], tmp_path)
    assert first.count("Validation (own:") == 1
    assert "Validation (own:" not in second
