"""Checkpoints that leave a file named ``executed`` in the working folder when something in them is run."""

import functools
import io
import os
import pickle
import runpy
import subprocess
import tarfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch

from hetfed_lightning.checkpointing.reading import read_checkpoint

MARK = "executed"
INNER = "inner.pickle"
SCRIPT = "inner.py"


class Calls:
    """Calls a function when it is unpickled."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def codes() -> dict[str, Calls]:
    """Ways to run something; those that need a file have it in the working folder."""
    touch = f"import pathlib; pathlib.Path({MARK!r}).touch()"
    Path(SCRIPT).write_text(touch, encoding="utf-8")
    Path(INNER).write_bytes(pickle.dumps(Calls(Path.touch, Path(MARK))))
    return {
        "os.system": Calls(os.system, f"touch {MARK}"),
        "exec": Calls(exec, touch),
        "subprocess": Calls(subprocess.call, ["touch", MARK]),
        "runpy": Calls(runpy.run_path, SCRIPT),
        "pathlib": Calls(Path.touch, Path(MARK)),
        "torch.load": Calls(functools.partial(torch.load, INNER, weights_only=False)),
    }


def in_zip(path: Path, code: Calls, whole: Path) -> None:
    """As torch writes it now."""
    del whole
    with ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(code, protocol=2))
        file.writestr("archive/version", "3")


def in_legacy(path: Path, code: Calls, whole: Path) -> None:
    """As torch wrote it before 1.6."""
    del whole
    torch.save(code, path, _use_new_zipfile_serialization=False)


def in_tar(path: Path, code: Calls, whole: Path) -> None:
    """As torch wrote it before 0.1.10."""
    del whole
    with tarfile.open(path, "w") as file:
        for name, content in (("storages", code), ("tensors", 0), ("pickle", code), ("sys_info", {})):
            data = pickle.dumps(content, protocol=2)
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            file.addfile(entry, io.BytesIO(data))


def in_real(path: Path, code: Calls, whole: Path) -> None:
    """Inside of what a callback has saved, in a checkpoint that is right otherwise."""
    torch.save(read_checkpoint(whole) | {"callbacks": {"Tracker": code}}, path)


def in_second(path: Path, code: Calls, whole: Path) -> None:
    """In a second entry of the same name, behind the one that is right."""
    path.write_bytes(whole.read_bytes())
    with ZipFile(path, "a") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        name = next(one for one in file.namelist() if one.endswith("data.pkl"))
        file.writestr(name, pickle.dumps(code, protocol=2))


def payloads(whole: Path) -> Iterator[tuple[str, Path]]:
    """Each way to run something in each form of a checkpoint.

    Args:
        whole: A checkpoint that is right.
    """
    for form in (in_zip, in_legacy, in_tar, in_real, in_second):
        for name, code in codes().items():
            path = Path(form.__name__) / f"{name}.ckpt"  # Alone: a damaged one might be taken for another beside it.
            path.parent.mkdir(exist_ok=True)
            form(path, code, whole)
            yield str(path), path
