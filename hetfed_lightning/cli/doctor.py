"""``hetfed doctor``: what is installed, what the machine has, and where data and runs lie, for a report of a fault."""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from hetfed_lightning.cli.errors import ConfigError
from hetfed_lightning.cli.examples import examples, examples_folder

PROJECT = "hetfed-lightning"
RUNS = "runs"
"""Folder that the examples write their runs to, in the folder where a command is started."""

LEFT_OUT = ("all", "dev", "test")
"""Extras that hold others, or are for developers."""

_GIB = 2**30

Rows = Iterator[tuple[str, str]]


def doctor_command(arguments: Sequence[str]) -> None:
    """``hetfed doctor``: versions, devices, extras, threads and places.

    Args:
        arguments: Command line after ``hetfed doctor``.
    """
    parser = argparse.ArgumentParser(
        prog="hetfed doctor",
        description="Prints versions, devices, extras and threads, where data and runs lie, and what is wrong with any "
        "of it. Nothing is changed, and nothing is looked up in a network.",
    )
    parser.parse_args(list(arguments))
    sys.stdout.write(doctor_text())


def doctor_text() -> str:
    """Text of ``hetfed doctor``."""
    needed = [Requirement(line) for line in requires(PROJECT) or ()]
    parts = {
        "Versions": list(_versions(needed)),
        "Extras": list(_extras(needed)),
        "Devices": list(_devices()),
        "Threads": list(_threads()),
        "Places": list(_places()),
    }
    found = []
    for title, rows in parts.items():
        wide = max(len(name) for name, _ in rows) + 2
        found += [title, *(f"  {name.ljust(wide)}{value}" for name, value in rows), ""]
    return "\n".join(found)


def state_of(needed: Requirement) -> str:
    """Installed version of a package, with what is wrong with it.

    Args:
        needed: Package and the versions that are good.
    """
    try:
        found = version(needed.name)
    except PackageNotFoundError:
        return f"missing, expected {needed.specifier or 'any version'}"
    if not needed.specifier.contains(found, prereleases=True):
        return f"{found}, expected {needed.specifier}: pip install '{needed.name}{needed.specifier}'"
    return found


def _extra_of(needed: Requirement) -> str | None:
    found = re.search(r"extra == ['\"]([\w-]+)['\"]", str(needed.marker or ""))
    return found[1] if found else None


def _versions(needed: Sequence[Requirement]) -> Rows:
    yield PROJECT, version(PROJECT)
    yield "Python", f"{platform.python_version()}, {platform.system()} {platform.machine()}"
    for one in needed:
        if _extra_of(one) is None:
            yield one.name, state_of(one)


def _extras(needed: Sequence[Requirement]) -> Rows:
    for extra in metadata(PROJECT).get_all("Provides-Extra") or ():
        if extra in LEFT_OUT:
            continue
        own = [one for one in needed if _extra_of(one) == extra and one.name != PROJECT]
        states = {one.name: state_of(one) for one in own}
        faults = [f"{name} {state}" for name, state in states.items() if not state[0].isdigit() or "," in state]
        if faults:
            yield extra, f"not installed ({'; '.join(faults)}): pip install '{PROJECT}[{extra}]'"
        else:
            yield extra, "installed (" + ", ".join(f"{name} {state}" for name, state in states.items()) + ")"


def _torch() -> Any:
    """torch, or in words why it cannot be imported."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return f"torch cannot be imported: {error}"
    return torch


def _devices() -> Rows:
    yield "CPU", f"{_cores()} of {os.cpu_count()} cores for this process"
    if isinstance(torch := _torch(), str):
        yield "GPU", torch
        return
    if not torch.cuda.is_available():
        built = torch.version.cuda or torch.version.hip
        yield (
            "GPU",
            f"none that torch can use (torch {torch.__version__}, built {f'for {built}' if built else 'for CPUs'})",
        )
    for number in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_properties(number)
        yield f"cuda:{number}", f"{found.name}, {found.total_memory / _GIB:.0f} GiB"
    if torch.backends.mps.is_available():
        yield "mps", "Apple's GPU"


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _threads() -> Rows:
    if not isinstance(torch := _torch(), str):
        count = torch.get_num_threads()
        many = ", more than the cores: give --threads" if count > _cores() else ""
        yield "torch", f"{count}{many}"
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        yield name, os.environ.get(name) or "not set"
    yield "--threads", "1 is fastest for small models, and wherever other programs run"


def _places() -> Rows:
    package = Path(__file__).resolve().parent.parent
    yield "package", str(package)
    yield "program", shutil.which("hetfed") or "hetfed is not in PATH: python -m hetfed_lightning is the same"
    try:
        yield "examples", f"{examples_folder()} ({len(examples())}; `hetfed examples` lists them)"
    except ConfigError as error:
        yield "examples", str(error)
    data = list(package.rglob("*.csv.gz"))
    yield "data", f"{len(data)} files of the examples in {package / 'showcases'}; the digits come with scikit-learn"
    runs = Path(RUNS)
    kept = len({one.parent for one in runs.glob("**/record.json")}) if runs.is_dir() else 0
    yield "runs", f"{runs.absolute()} ({f'{kept} with a record' if runs.is_dir() else 'not there yet'})"
    free = shutil.disk_usage(Path.cwd()).free / _GIB
    allowed = "" if os.access(Path.cwd(), os.W_OK) else ", and nobody may write to it: start in another folder"
    yield "this folder", f"{Path.cwd()}, {free:.0f} GiB free{allowed}"
