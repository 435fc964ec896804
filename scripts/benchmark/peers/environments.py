"""An environment for every peer, outside ours: peers pin what we do not, and each other's versions disagree.

Made once below ``.bench-venv`` with the Python that runs the benchmark and the torch that it has.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from scripts.benchmark.processes import ROOT

FOLDER = ROOT / ".bench-venv"
LONGEST = 300


class PeerError(RuntimeError):
    """A peer cannot be measured here; the message says why."""


PEERS = {
    "pfl": "pfl[pytorch]==0.6.0",
    "fluke": "fluke-fl==0.8.1",
    "flower": "flwr[simulation]==1.42.0",
}
"""What to install for each, its version pinned; the adapter is the module of this folder that bears the name."""

LEFT_OUT = {
    "blazefl": "every release asks for Python 3.12 or later, and this benchmark is run with 3.11; no adapter yet"
}
"""Peers that are not measured, and why."""


def interpreter(name: str, say: Callable[[str], None]) -> Path:
    """The Python of a peer's environment, which is made if it is not there.

    Args:
        name: One of ``PEERS``.
        say: Told what takes long.

    Raises:
        PeerError: If it cannot be installed.
    """
    requirement = PEERS[name]
    folder = FOLDER / name
    python, stamp = folder / "bin" / "python", folder / "installed.txt"
    # The part after `+` names a build, which another index may not have.
    wanted = [f"torch=={torch.__version__.split('+')[0]}", requirement]
    if stamp.exists() and stamp.read_text(encoding="utf-8").split() == wanted:
        return python
    say(f"installing {requirement} into {folder.relative_to(ROOT)}: minutes, once")
    _run(sys.executable, "-m", "venv", "--clear", str(folder))
    for one in wanted:  # torch alone and first, lest a peer choose another
        _run(str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", one)
    stamp.write_text("\n".join(wanted), encoding="utf-8")
    return python


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - from the table above
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if re.search("error", line, re.IGNORECASE)]
        raise PeerError(f"cannot be installed: {' '.join(errors or done.stderr.splitlines()[-2:])[:LONGEST]}")
