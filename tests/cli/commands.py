"""A configuration small enough for a test to train, and ``hetfed`` run in this process."""

import logging
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest
import yaml

from hetfed_lightning.cli.run import run

QUIET: dict[str, Any] = {
    "max_epochs": 1,
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}
CLASSES = 3


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


def hetfed(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> Ended:
    """Run a command; what it printed is taken from ``capsys``."""
    capsys.readouterr()
    # The handler that `run` makes once writes to the standard output of that time, which was another test's.
    package = logging.getLogger("hetfed_lightning")
    package.handlers = [handler for handler in package.handlers if not isinstance(handler, logging.StreamHandler)]
    try:
        code = run([str(argument) for argument in arguments])
    finally:
        package.handlers.clear()
        package.propagate = True
        package.setLevel(logging.NOTSET)
    found = capsys.readouterr()
    return Ended(code, found.out, found.err)


_KEPT: dict[str, Path] = {}


def made_once(name: str, make: Callable[[], None], folders: pytest.TempPathFactory) -> None:
    """Files in the working folder, made by the first test of this process that wants them and copied for the others."""
    if name in _KEPT:
        copytree(_KEPT[name], Path(), dirs_exist_ok=True)
        return
    make()
    kept = folders.mktemp(name) / "files"
    copytree(Path(), kept)
    _KEPT[name] = kept


def participant(**init_args: Any) -> dict[str, Any]:
    """Configuration of a small network for the data of :func:`tiny`."""
    settings: dict[str, Any] = {
        "backbone": {
            "class_path": "hetfed_lightning.backbones.MLPBackbone",
            "init_args": {"in_features": 4, "hidden": [6], "out_features": 5},
        },
        "head": {"class_path": "torch.nn.Linear", "init_args": {"in_features": 5, "out_features": CLASSES}},
        "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}},
    }
    return {"class_path": "hetfed_lightning.Participant", "init_args": settings | init_args}


def tiny(names: Sequence[str] = ("hospital_a", "hospital_b")) -> dict[str, Any]:
    """A federation on 90 random points of three classes, written to the working folder."""
    generator = np.random.default_rng(0)
    labels = np.arange(90) % CLASSES
    points = generator.normal(size=(90, 4)).astype("float32") + 2 * np.eye(4, dtype="float32")[labels]
    np.savez("pool.npz", x=points, y=labels)
    return {
        "trainer": deepcopy(QUIET) | {"callbacks": [{"class_path": "hetfed_lightning.BackboneAveraging"}]},
        "model": {"participants": {name: participant() for name in names}},
        "data": {
            "class_path": "hetfed_lightning.data.NPZDataModule",
            "init_args": {
                "path": "pool.npz",
                "inputs": "x",
                "partition": {"class_path": "hetfed_lightning.data.IID"},
                "public_size": 9,
                "batch_size": 8,
            },
        },
    }


def written(config: Any, name: str = "config.yaml") -> Path:
    """The configuration as a file in the working folder."""
    path = Path(name)
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return path


def member(config: dict[str, Any], name: str = "hospital_a") -> dict[str, Any]:
    """A participant's ``init_args``, to change them."""
    found: dict[str, Any] = config["model"]["participants"][name]["init_args"]
    return found


def put(config: dict[str, Any], dotted: str, value: Any) -> None:
    """Set a key by its path; numbers stand for places in lists."""
    inside: Any = config
    *above, last = dotted.split(".")
    for key in above:
        inside = inside[int(key)] if isinstance(inside, list) else inside.setdefault(key, {})
    inside[int(last) if isinstance(inside, list) else last] = value
