"""The newest of several checkpoints: told by what they hold, since the times of files change as they are copied.

A run's checkpoints say how far it had come, and which run it is: a folder may hold those of an earlier one that came
further. Between runs the time at which each began decides. Files that say neither, of other programs or earlier
versions, are told apart by the time of their last change, and so are those that have come equally far.
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
"""Of Lightning's loops, those that grow from one checkpoint to the next: rounds, batches, validations, their ends."""


@dataclass(frozen=True)
class _Age:
    """How far a file's run had come, and which it is.

    Attributes:
        run: Its name; empty where the file does not say.
        began: When it did, seconds; of files that do not say, when they were last changed.
        progress: Counters; none of a file that says nothing.
        changed: When the file was, seconds.
    """

    run: str
    began: float
    progress: tuple[int, ...]
    changed: float


def new_run() -> dict[str, Any]:
    """What a run's checkpoints say of which run it is."""
    return {"id": uuid4().hex, "began": time()}


def newest_first(files: Iterable[Path]) -> list[Path]:
    """Checkpoint files, the one that has come furthest in the latest run first.

    Args:
        files: Whole or not; a damaged one stands where the time of its last change puts it.
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
    """How far a checkpoint's run had come: batches, then rounds, validations and their ends; none where it is unknown.

    Args:
        content: Of a checkpoint.
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
    """Which run a checkpoint is of, and when that began, seconds; empty and 0 where it does not say."""
    federation = content.get("federation")
    run = federation.get("run") if isinstance(federation, Mapping) else None
    name, began = (run.get("id"), run.get("began")) if isinstance(run, Mapping) else (None, None)
    return (name, began) if isinstance(name, str) and isinstance(began, float) and isfinite(began) else ("", 0.0)


def _age_of(file: Path) -> _Age:
    changed = 0.0  # A link that leads nowhere is oldest.
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
