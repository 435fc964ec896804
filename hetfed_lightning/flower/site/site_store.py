"""A site's own states on its own disk, which outlive its process and the engine."""

from __future__ import annotations

import fcntl
import logging
import re
import secrets
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

from hetfed_lightning.checkpointing.atomic import write_atomically
from hetfed_lightning.checkpointing.sealing import DamagedFileError, is_sealed, write_checkpoint
from hetfed_lightning.flower.protocol.untrusted import shown
from hetfed_lightning.flower.site.order_checks import OrderError

log = logging.getLogger(__name__)

KEPT_ROUNDS = 2
"""Number of rounds whose states are kept: a coordinator that was killed goes back by one."""

MOST_RUNS = 100
"""Largest number of runs whose states a site keeps, since each new one takes more of its disk and its time."""

MOST_RETURNS = 10
"""Largest number of times that a run may go back behind a closed round; the states of each are kept."""

RESERVED = frozenset({"description", "engine"})
"""Names that no run may have: that of a folder beside the runs', and the one that stands for no run."""

_RUN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}")
_REPEATS = "repeats"
_ASIDE = "set_aside"
_WAITING = ".pending"
_STATE = r"round-(?P<round>\d+)-(?P<stage>entered|attended|trained|learned|finished)"
_NAME = re.compile(rf"{_STATE}\.ckpt")
_PENDING = re.compile(rf"{_STATE}\.(?P<mark>[0-9a-f]+){re.escape(_WAITING)}")


class Stage(IntEnum):
    """Progress of a site in a round."""

    ENTERED = 0
    """Round opened: current results received, messages of its start sent."""
    ATTENDED = 1
    """Results of the round's start received, and messages of its end sent, without training in it."""
    TRAINED = 2
    """Local steps done."""
    LEARNED = 3
    """Distillation from the ensemble done as well."""
    FINISHED = 4
    """Shared state received and validated."""


UNTRAINED = frozenset({Stage.ENTERED, Stage.ATTENDED})
"""Stages before the local steps of a round."""


@dataclass(frozen=True, order=True)
class Place:
    """Place in a run at which a state was saved.

    Attributes:
        round_index: The round, from 0.
        stage: Progress of the site in it.
    """

    round_index: int
    stage: Stage


class SiteStore:
    """Checkpoints of one site in one run, each written atomically and sealed with its SHA-256.

    States of closed rounds are never removed when an order goes back behind them, but set aside.

    Args:
        folder: The site's ``state-dir``.
        run: Name of the run; each has a folder of its own.

    Raises:
        OrderError: If the run's name cannot be a folder's.
    """

    def __init__(self, folder: str | Path, run: str) -> None:
        if not _RUN.fullmatch(run) or run.lower() in RESERVED:
            raise OrderError(
                f"run: expected letters, digits, '_' and '-', 64 at most, the first no '-', and none of "
                f"{', '.join(sorted(RESERVED))}, got {shown(run)}."
            )
        self.folder = Path(folder) / run

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Context in which no other process works on this state: a late order may be at work when the next one comes.

        Raises:
            OrderError: If the run is a new one, and the site has states of ``MOST_RUNS`` others.
        """
        if not self.folder.exists():
            others = {path.parent for path in self.folder.parent.glob("*/.lock")}
            if len(others) >= MOST_RUNS:
                raise OrderError(
                    f"run {self.folder.name}: this site keeps states of {len(others)} runs in {self.folder.parent}, "
                    f"and {MOST_RUNS} is the most. Move folders of runs away that are no longer needed."
                )
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def path_of(self, place: Place) -> Path:
        """File of a place."""
        return self.folder / f"round-{place.round_index:06d}-{place.stage.name.lower()}.ckpt"

    def places(self) -> list[Place]:
        """Places with an intact file, the newest last."""
        found = []
        for path in self.folder.glob("*.ckpt"):
            match = _NAME.fullmatch(path.name)
            with suppress(OSError, DamagedFileError):
                if match and is_sealed(path):
                    found.append(Place(int(match["round"]), Stage[match["stage"].upper()]))
        return sorted(found)

    def newest(self, *, before: Place | None = None) -> Place | None:
        """Newest place; None without one.

        Args:
            before: Place before which it has to be; None for no limit.
        """
        found = [place for place in self.places() if before is None or place < before]
        return found[-1] if found else None

    def write(self, place: Place, content: Mapping[str, Any], note: Callable[[str], None] | None = None) -> Path:
        """File of a state, which is saved here; later states are removed, and those of rounds long past.

        Args:
            place: Place of the state in the run.
            content: The checkpoint.
            note: Function called with a mark of the state once it is on the disk but not yet valid. Its entry and the
                state are then both there or neither, whenever the process is killed. None for no entry.

        Raises:
            OSError: If the disk is full or fails; older states stay.
        """
        path = self.path_of(place)
        self.folder.mkdir(parents=True, exist_ok=True)
        if note is None:
            write_checkpoint(dict(content), path)
        else:
            mark = secrets.token_hex(8)
            pending = path.with_suffix(f".{mark}{_WAITING}")
            write_checkpoint(dict(content), pending)
            note(mark)
            pending.replace(path)
        self._settle(place)
        return path

    def take_up(self, noted: Collection[str]) -> None:
        """Validate states that were noted when the process was killed, and remove all other pending ones.

        Args:
            noted: Marks of all noted states.
        """
        for pending in sorted(self.folder.glob(f"*{_WAITING}")):
            match = _PENDING.fullmatch(pending.name)
            if match is None:
                continue
            if match["mark"] not in noted:  # Nothing of it has been sent.
                pending.unlink()
                continue
            place = Place(int(match["round"]), Stage[match["stage"].upper()])
            pending.replace(self.path_of(place))
            self._settle(place)

    def _settle(self, place: Place) -> None:
        self.take_back(place)
        base = self._closed_before(place)  # State that this one has gone on from, however long ago.
        for other in self.places():
            if other < place and other != base and other.round_index <= place.round_index - KEPT_ROUNDS:
                self.path_of(other).unlink(missing_ok=True)

    def check_return(self, place: Place, name: str) -> None:
        """Refuse to go back behind a closed round once more, if that was done often.

        Args:
            place: Place from which the run is to go on.
            name: Name of the participant.

        Raises:
            OrderError: If it was; names participant and round.
        """
        count = len(list((self.folder / _ASIDE).glob("*/")))
        if count >= MOST_RETURNS and self._holds_more(self._later(place)):
            raise OrderError(
                f"participant {name!r}: the coordinator goes back to round {place.round_index + 1} of run "
                f"{self.folder.name}, and has gone back behind a closed round {count} times. What was learned there is "
                f"in {self.folder / _ASIDE}; move it away if the coordinator is to go back once more."
            )

    def take_back(self, place: Place) -> None:
        """Remove later states of a round in progress, which begins again, and set those of closed rounds aside.

        States of closed rounds are kept below ``set_aside``: only the site's operator removes them.
        """
        later = self._later(place)
        if not self._holds_more(later):
            for one in later:
                self.path_of(one).unlink(missing_ok=True)
            return
        aside = self._new_folder()
        for one in later:
            self.path_of(one).rename(aside / self.path_of(one).name)
        log.warning(
            "Run %s goes back to round %d, which the coordinator asks for. What was learned after it is kept in %s.",
            self.folder.name, place.round_index + 1, aside,
        )  # fmt: skip

    def _later(self, place: Place) -> list[Place]:
        return [one for one in self.places() if one > place]

    def _closed_before(self, place: Place) -> Place | None:
        closed = [one for one in self.places() if one < place and one.stage == Stage.FINISHED]
        return closed[-1] if closed else None

    def _holds_more(self, later: Sequence[Place]) -> bool:
        """True if states hold more than the beginning of a round that can begin again from the remaining states."""
        if not later:
            return False
        is_open = all(one.round_index == later[0].round_index and one.stage != Stage.FINISHED for one in later)
        return not is_open or (later[0].round_index > 0 and self._closed_before(later[0]) is None)

    def _new_folder(self) -> Path:
        number = 1
        while True:
            folder = self.folder / _ASIDE / f"{number:04d}"
            try:
                folder.mkdir(parents=True)
            except FileExistsError:
                number += 1
            else:
                return folder

    def check_repeats(self, most: int, name: str) -> None:
        """Refuse an order, if as many before it have brought the run no further.

        Args:
            most: Largest number of such orders.
            name: Name of the participant.

        Raises:
            OrderError: If there were as many.
        """
        if (count := self._repeats()) >= most:
            raise OrderError(
                f"participant {name!r}: the coordinator has sent {count} orders in run {self.folder.name} that bring "
                f"it no further, and this site carries out no more than {most} of them. If it is to be trusted, as "
                f"after many restarts, remove {self.folder / _REPEATS}."
            )

    def note_repeat(self) -> None:
        """Count an order that brings the run no further."""
        write_atomically(self.folder / _REPEATS, f"{self._repeats() + 1}\n")

    def _repeats(self) -> int:
        try:
            return int((self.folder / _REPEATS).read_text(encoding="ascii"))
        except (OSError, ValueError):
            return 0
