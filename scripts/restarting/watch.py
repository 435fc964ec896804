"""Every state that sites save in a run, in the order in which they save them, and whether each follows from another."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, equal

from hetfed_lightning.checkpointing.reading import UnreadableCheckpointError, read_checkpoint
from hetfed_lightning.flower.files.initial_weights import START
from hetfed_lightning.flower.site.site_store import Place, Stage
from hetfed_lightning.logs.run_record import Record, RecordError
from hetfed_lightning.participants.participant import participant_state

Head = dict[str, Tensor]


@dataclass(frozen=True)
class Saved:
    """A state that a site saved.

    Attributes:
        place: Where in the run.
        head: Its personal head.
        began: The head that its round began with.
        steps: Of its optimizer, since the run began.
    """

    place: Place
    head: Head
    began: Head
    steps: int


class Watch:
    """Looks at a run's folder while the run goes on; sites keep the states of two rounds.

    Args:
        run: The folder.
        names: Of the sites.
        deployment: Where the sites' first weights are.
    """

    def __init__(self, run: Path, names: Sequence[str], deployment: Path) -> None:
        self.run = run
        self.saved: dict[str, list[Saved]] = {name: [] for name in names}
        self.start = {name: head_of(load_file(deployment / "sites" / name / START)) for name in names}
        self.closed: dict[int, float] = {}
        """When each round was closed, counted from 0, by the clock of this process."""
        self._known: set[tuple[int, int]] = set()

    def look(self) -> None:
        """Take in what is new."""
        for name in self.saved:
            for _, path in sorted(_files(self.run / "sites" / name)):
                self._take(name, path)
        with suppress(RecordError):
            for one in Record.read(self.run).history:
                self.closed.setdefault(one["round"] - 1, time.monotonic())

    def _take(self, name: str, path: Path) -> None:
        with suppress(OSError, UnreadableCheckpointError):  # Sites delete old ones.
            status = path.stat()
            key = (status.st_ino, status.st_mtime_ns)
            if key not in self._known:
                content = read_checkpoint(path)
                self._known.add(key)
                self.saved[name].append(_saved(name, path, content))

    def reached(self, name: str, place: Place) -> bool:
        """Whether a site has saved a state of this place, or of a later one."""
        return any(one.place >= place for one in self.saved[name])

    def trained(self, name: str) -> list[int]:
        """Rounds whose local steps a site has saved, as often as it has."""
        return [one.place.round_index for one in self.saved[name] if one.place.stage == Stage.TRAINED]

    def breaks(self, name: str) -> list[str]:
        """Where a site's head or its optimizer does not go on from the state before: a sentence for each."""
        found: list[str] = []
        there: dict[Place, Saved] = {}
        for one in self.saved[name]:
            before = max((place for place in there if place < one.place), default=None)
            head, steps = (self.start[name], 0) if before is None else (there[before].head, there[before].steps)
            which = f"{name}, round {one.place.round_index}, {one.place.stage.name.lower()}"
            moved = one.place.stage == Stage.TRAINED
            if not same(one.began if moved else one.head, head) and one.place.stage != Stage.LEARNED:
                told = "the start" if before is None else f"round {before.round_index}, {before.stage.name.lower()}"
                found.append(f"{which}: its head does not go on from that of {told}")
            untouched = same(one.head, self.start[name])
            if moved and (one.steps <= steps or untouched):
                ends = ", and the head of the start" if untouched else ""
                found.append(f"{which}: {one.steps} steps of its optimizer, after {steps}{ends}")
            there = {place: state for place, state in there.items() if place < one.place} | {one.place: one}
        return found


def head_of(state: dict[str, Tensor]) -> Head:
    """Of a participant's tensors those of its head."""
    return {key: tensor for key, tensor in state.items() if key.startswith("head.")}


def same(first: Head, second: Head) -> bool:
    """Whether two heads are equal to the bit."""
    return first.keys() == second.keys() and all(equal(first[key], second[key]) for key in first)


def _files(folder: Path) -> list[tuple[int, Path]]:
    found = []
    for path in folder.glob("*/round-*.ckpt"):
        with suppress(OSError):
            found.append((path.stat().st_mtime_ns, path))
    return found


def _saved(name: str, path: Path, content: dict[str, Any]) -> Saved:
    _, number, stage = path.stem.split("-")
    head = head_of(participant_state(content["state_dict"], name, str(path)))
    safe = content["callbacks"]["SiteRound"]["safe"]
    began = head if safe is None else head_of(safe)
    return Saved(Place(int(number), Stage[stage.upper()]), head, began, content["federation"]["steps"][name])
