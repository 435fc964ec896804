"""The account of a site's releases under DP-SGD, which no order, run or restart turns back.

A state of a run is written anew when a coordinator asks for a round again, and another run has states of its own. A
message that was sent stays sent: each noised training of a round is a line of one file in the site's state folder. The
line is on the disk before anything of the round leaves, and is never removed.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hetfed_lightning.checkpointing.atomic import write_atomically
from hetfed_lightning.checkpointing.reading import read_checkpoint
from hetfed_lightning.checkpointing.sealing import DamagedFileError
from hetfed_lightning.privacy import PrivacyAccount

if TYPE_CHECKING:
    from hetfed_lightning.participants.participant import Participant

log = logging.getLogger(__name__)

ACCOUNT, HEAD, _LOCK = "privacy.jsonl", "privacy.head", "privacy.lock"
"""Files of the account: its lines; their number and the hash of the last, so that a cut is seen; and the lock."""

_START = 64 * "0"
"""Text that stands for the line before the first."""

_WAY_OUT = (
    f"No private round is trained until that is settled: bring {ACCOUNT} and {HEAD} back from a backup of the state "
    "folder. If there is none, `hetfed deploy site ... --begin_account` begins an account with what the states in the "
    "folder and the lines that can be read say at least, and sets the old files aside."
)


class AccountError(RuntimeError):
    """An account that is missing, damaged or another participant's; the message names the file and the way out."""


class AccountFile:
    """Releases of a participant's examples in all runs of a site, read from its state folder and added to.

    Args:
        folder: The site's ``state-dir``.
        participant: Participant with the examples.

    Raises:
        AccountError: If it is damaged or another participant's, or missing though states tell of releases.
    """

    def __init__(self, folder: str | Path, participant: str) -> None:
        self._folder = Path(folder)
        self._participant = participant
        self._path = self._folder / ACCOUNT
        self._lines, self._whole = _lines_of(self._path)
        self._last = _START
        self.ledger = PrivacyAccount()
        """All releases so far."""
        self.states: set[str] = set()
        """Marks of the states that the releases have made."""
        self._read()

    def _read(self) -> None:
        count, last = self._head()
        if len(self._lines) < count:
            raise self._fault(f"it has {len(self._lines)} lines, and had {count}")
        for number, line in enumerate(self._lines, start=1):
            entry = _entry_of(line)
            if entry is None or entry["before"] != self._last:
                raise self._fault(f"line {number} was altered, or does not follow the one before it")
            if entry["participant"] != self._participant:
                raise AccountError(
                    f"{self._path}: this is the account of {entry['participant']!r}, and the site's participant is "
                    f"{self._participant!r}. Give each site a state folder of its own (--state)."
                )
            self._last = hashlib.sha256(line).hexdigest()
            if number == count and self._last != last:
                raise self._fault(f"line {number} was altered")
            _add(self.ledger, entry["releases"])
            self.states.add(entry["state"])
        if len(self._lines) != count:  # The process was killed between writing a line and counting it.
            self._write_head()

    def _head(self) -> tuple[int, str]:
        path = self._folder / HEAD
        try:
            count, last = path.read_text(encoding="ascii").split()
            return int(count), last
        except FileNotFoundError:
            if self._path.exists():
                raise self._fault(f"{HEAD}, which says how many lines it has, is missing") from None
            states = released_in_states(self._folder, self._participant)
            if any(one.releases for one in states.values()):
                raise self._fault(
                    "there is none, though states in this folder come from private steps, as those of older versions"
                ) from None
            if states:
                log.warning(
                    "participant %r: %d earlier runs in %s were trained without noise. What they sent tells of its "
                    "examples without a bound, and is not in the account that begins here.",
                    self._participant, len(states), self._folder,
                )  # fmt: skip
            self._write_head()
            return 0, _START
        except (OSError, ValueError) as error:
            raise self._fault(f"{HEAD} cannot be read ({error})") from error

    def _fault(self, found: str) -> AccountError:
        return AccountError(
            f"participant {self._participant!r}: the account of its privacy, {self._path}, cannot be relied on: "
            f"{found}. {_WAY_OUT}"
        )

    def take_up(self, participant: Participant) -> None:
        """Give a participant, whose state was read from a file, the account of all runs.

        Args:
            participant: Participant in a fit that has begun.

        Raises:
            AccountError: If its state tells of releases that are not in the account.
        """
        if more := participant.ledger.since(self.ledger).releases:
            raise self._fault(f"a state in this folder tells of {more} releases that are not in it")
        participant.ledger = PrivacyAccount(self.ledger.state())

    def note(self, run: str, round_index: int, releases: PrivacyAccount, state: str) -> None:
        """Add a line, which is on the disk when this returns.

        Args:
            run: Name of the run.
            round_index: The round, from 0; -1 for none.
            releases: New releases, without earlier ones.
            state: Mark of the state that they have made.

        Raises:
            OSError: If it cannot be written; nothing may be sent then.
        """
        entry = {
            "participant": self._participant,
            "run": run,
            "round": round_index,
            "state": state,
            "releases": releases.state(),
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "before": self._last,
        }
        line = json.dumps(entry, allow_nan=False).encode()
        with self._path.open("ab") as file:
            file.truncate(self._whole)  # A line begun by a killed process, of which nothing was sent.
            file.write(line + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self._lines.append(line)
        self._whole += len(line) + 1
        self._last = hashlib.sha256(line).hexdigest()
        self._write_head()
        _add(self.ledger, releases.state())
        self.states.add(state)

    def _write_head(self) -> None:
        write_atomically(self._folder / HEAD, f"{len(self._lines)} {self._last}\n")


@contextmanager
def opened_account(folder: str | Path, participant: str) -> Iterator[AccountFile]:
    """Context with a site's account, for one process at a time.

    Args:
        folder: The site's ``state-dir``.
        participant: Participant with the examples.

    Raises:
        AccountError: As for :class:`AccountFile`.
    """
    with _alone(folder):
        yield AccountFile(folder, participant)


def check_noise(folder: str | Path, participant: str) -> None:
    """Refuse training without noise if an account says that all training had noise.

    Args:
        folder: The site's ``state-dir``.
        participant: Participant without privacy settings.

    Raises:
        AccountError: If there is an account.
    """
    path = Path(folder) / ACCOUNT
    if path.exists():
        raise AccountError(
            f"participant {participant!r}: site.yaml trains it without privacy, and {path} is an account of private "
            "rounds, which one round without noise would make worthless. Put privacy=DPSGD(...) back, or give runs "
            "without it a state folder of their own (--state)."
        )


def check_account(folder: str | Path, participant: str) -> None:
    """Refuse an account that cannot be relied on, if there is one.

    Args:
        folder: The site's ``state-dir``.
        participant: Participant with the examples.

    Raises:
        AccountError: As for :class:`AccountFile`.
    """
    if any((Path(folder) / name).exists() for name in (ACCOUNT, HEAD)):
        with opened_account(folder, participant):
            pass


def begin_account(folder: str | Path, participant: str) -> PrivacyAccount:
    """Releases with which a new account begins, in place of a missing or damaged one.

    For each kind of release these are as many as in the readable lines of the old one, or as in the newest states of
    all runs together if those are more. Releases beyond them cannot be known here. The old files stay under other
    names.

    Args:
        folder: The site's ``state-dir``.
        participant: Participant with the examples.
    """
    folder = Path(folder)
    with _alone(folder):
        known = PrivacyAccount()
        for run in released_in_states(folder, participant, damaged=True).values():
            _add(known, run.state())
        said = PrivacyAccount()
        for line in _lines_of(folder / ACCOUNT)[0]:
            entry = _entry_of(line)
            if entry is not None and entry["participant"] == participant:
                _add(said, entry["releases"])
        known = known.at_least(said)
        stamp = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{os.getpid()}"
        for name in (ACCOUNT, HEAD):
            if (folder / name).exists():
                (folder / name).rename(folder / f"{name}.{stamp}")
        write_atomically(folder / HEAD, f"0 {_START}\n")
        account = AccountFile(folder, participant)
        if known.releases:
            account.note("", -1, known, "")
        return known


def released_in_states(folder: Path, participant: str, *, damaged: bool = False) -> dict[str, PrivacyAccount]:
    """Largest number of releases in any state of a run, by run.

    Args:
        folder: The site's ``state-dir``.
        participant: Name of the participant.
        damaged: True to skip states that cannot be read.

    Raises:
        AccountError: If a state cannot be read.
    """
    found: dict[str, PrivacyAccount] = {}
    for path in sorted([*folder.glob("*/round-*.ckpt"), *folder.glob("*/set_aside/*/round-*.ckpt")]):
        try:
            saved = read_checkpoint(path).get("federation", {}).get("privacy", {})
        except (OSError, DamagedFileError, ValueError, RuntimeError) as error:
            if damaged:
                continue
            raise AccountError(
                f"participant {participant!r}: there is no account of its privacy in {folder}, and whether {path} "
                f"comes from private steps cannot be told ({error}). Remove that file, or: {_WAY_OUT}"
            ) from error
        run = path.relative_to(folder).parts[0]
        found[run] = PrivacyAccount(saved.get(participant, [])).at_least(found.get(run, PrivacyAccount()))
    return found


@contextmanager
def _alone(folder: str | Path) -> Iterator[None]:
    Path(folder).mkdir(parents=True, exist_ok=True)
    with (Path(folder) / _LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _lines_of(path: Path) -> tuple[list[bytes], int]:
    """Whole lines, and their length; a last one without a line break counts as not written, and was not sent."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return [], 0
    whole = content.rpartition(b"\n")[0]
    return (whole.split(b"\n"), len(whole) + 1) if whole else ([], 0)


def _entry_of(line: bytes) -> dict[str, Any] | None:
    """Entry of a line; None if it is none."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(entry, Mapping) or not all(
        isinstance(entry.get(key), str) for key in ("participant", "run", "state", "before")
    ):
        return None
    releases = entry.get("releases")
    if not isinstance(releases, list) or not all(map(_is_release, releases)):
        return None
    return dict(entry)


def _is_release(one: Any) -> bool:
    """True for a list of a sampling probability, a noise multiplier and a count."""
    if not isinstance(one, list) or len(one) != 3 or not all(type(value) in {int, float} for value in one):
        return False
    probability, multiplier, count = one
    return 0 < probability <= 1 and 0 < multiplier < math.inf and isinstance(count, int) and 0 <= count < 2**53


def _add(ledger: PrivacyAccount, releases: Any) -> None:
    for probability, multiplier, count in releases:
        ledger.add(multiplier, count, probability=probability)
