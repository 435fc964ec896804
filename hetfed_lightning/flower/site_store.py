"""A site's own states on its own disk: what it has learned outlives its process, its machine and the engine."""

from __future__ import annotations

import fcntl
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

from hetfed_lightning.checkpointing.sealing import DamagedFileError, is_sealed, write_checkpoint

KEPT_ROUNDS = 2
"""Rounds of which states are kept: a coordinator that was killed goes back by one."""

_NAME = re.compile(r"round-(?P<round>\d+)-(?P<stage>trained|learned|finished)\.ckpt")


class Stage(IntEnum):
    """How far a site has come in a round."""

    TRAINED = 0
    """Its local steps are done."""
    LEARNED = 1
    """It has learned from the ensemble as well."""
    FINISHED = 2
    """It has received what is shared, and was validated."""


@dataclass(frozen=True, order=True)
class Place:
    """Where in a run a state was saved.

    Attributes:
        round_index: The round, from 0.
        stage: How far the site had come in it.
    """

    round_index: int
    stage: Stage


class SiteStore:
    """Checkpoints of one site in one run, each written atomically and sealed with its SHA-256.

    Args:
        folder: The site's ``state-dir``.
        run: Which run; every run has a folder of its own in it, and those of earlier runs stay.
    """

    def __init__(self, folder: str | Path, run: str) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_-]+", run):
            raise ValueError(f"run: expected letters, digits, '_' and '-', got {run!r}.")
        self.folder = Path(folder) / run

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Wait until no other process works on this state: a late order may be at work when the next one comes."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def path_of(self, place: Place) -> Path:
        """The file of a place."""
        return self.folder / f"round-{place.round_index:06d}-{place.stage.name.lower()}.ckpt"

    def places(self) -> list[Place]:
        """Places of which there are files, the newest last; damaged files are none."""
        found = []
        for path in self.folder.glob("*.ckpt"):
            match = _NAME.fullmatch(path.name)
            with suppress(OSError, DamagedFileError):
                if match and is_sealed(path):
                    found.append(Place(int(match["round"]), Stage[match["stage"].upper()]))
        return sorted(found)

    def newest(self, *, before: Place | None = None) -> Place | None:
        """The newest place, of those before another one; None where there is none."""
        found = [place for place in self.places() if before is None or place < before]
        return found[-1] if found else None

    def write(self, place: Place, content: Mapping[str, Any]) -> Path:
        """Save a state, which makes later ones worthless, and forget those of rounds long past.

        Raises:
            OSError: If the disk is full or fails; older states stay.
        """
        path = self.path_of(place)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_checkpoint(dict(content), path)
        for other in self.places():
            if other > place or other.round_index <= place.round_index - KEPT_ROUNDS:
                self.path_of(other).unlink(missing_ok=True)
        return path
