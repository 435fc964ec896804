"""Order of checkpoints by age, from their content, since the times of files change when they are copied.

A checkpoint holds its run's name and progress: a folder may hold files of an earlier run that came further. Runs are
ordered by the time at which they began. Files without these entries, of other programs or earlier versions, are ordered
by the time of their last change, as are files of equal progress.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from time import time
from typing import Any
from uuid import uuid4

from hetfed_lightning.checkpointing.reading import UnreadableCheckpointError, read_content

_COUNTERS = (
    ("fit_loop", "epoch_progress", "total", "processed"),
    ("fit_loop", "epoch_loop.batch_progress", "total", "completed"),
    ("fit_loop", "epoch_loop.val_loop.batch_progress", "total", "completed"),
    ("fit_loop", "epoch_progress", "total", "completed"),
)
"""Counters of Lightning's loops that grow from one checkpoint to the next: rounds, batches, validations, their ends."""


@dataclass(frozen=True)
class _Age:
    """Run and progress of a checkpoint file.

    Attributes:
        run: Name of its run; empty if the file has none.
        began: Time at which the run began, seconds; for files without one, the time of their last change.
        progress: Counters; empty if the file has none.
        changed: Time of the file's last change, seconds.
    """

    run: str
    began: float
    progress: tuple[int, ...]
    changed: float


def new_run() -> dict[str, Any]:
    """Name and begin of a new run, as its checkpoints hold them."""
    return {"id": uuid4().hex, "began": time()}


def newest_first(files: Iterable[Path]) -> list[Path]:
    """Checkpoint files, the one with the most progress in the latest run first.

    Args:
        files: Files, whole or not; a damaged one is placed by the time of its last change.
    """
    ages = {file: _age_of(file) for file in files}
    began: defaultdict[str, float] = defaultdict(float)
    for age in ages.values():
        if age.run:
            began[age.run] = max(began[age.run], age.began)

    def key(file: Path) -> tuple[Any, ...]:
        age = ages[file]
        return began[age.run] if age.run else age.began, age.run, age.progress, age.changed

    return sorted(ages, key=key, reverse=True)


def progress_of(content: Mapping[str, Any]) -> tuple[int, ...]:
    """Progress of a checkpoint's run: batches, then rounds, validations and their ends; empty if unknown.

    Args:
        content: Content of a checkpoint.
    """
    steps = content.get("global_step")
    found: list[int] = [steps] if isinstance(steps, int) else []
    for keys in _COUNTERS if found else ():
        inside: Any = content.get("loops")
        for key in keys:
            inside = inside.get(key) if isinstance(inside, Mapping) else None
        found.append(inside if isinstance(inside, int) else 0)
    return tuple(found)


def run_of(content: Mapping[str, Any]) -> tuple[str, float]:
    """Name of a checkpoint's run and the time at which it began, in seconds; empty and 0 if unknown."""
    federation = content.get("federation")
    run = federation.get("run") if isinstance(federation, Mapping) else None
    name, began = (run.get("id"), run.get("began")) if isinstance(run, Mapping) else (None, None)
    return (name, began) if isinstance(name, str) and isinstance(began, float) and isfinite(began) else ("", 0.0)


def _age_of(file: Path) -> _Age:
    changed = 0.0  # A broken link counts as the oldest file.
    with contextlib.suppress(OSError):
        changed = file.stat().st_mtime
    try:
        content = read_content(file)
    except (OSError, UnreadableCheckpointError):
        content = None
    if not isinstance(content, Mapping):
        return _Age("", changed, (), changed)
    run, began = run_of(content)
    return _Age(run, began if run else changed, progress_of(content), changed)
