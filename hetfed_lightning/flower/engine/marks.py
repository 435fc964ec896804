"""Search for all processes that an engine has started, under any parent, and their end with the engine.

Every process carries a mark in its environment, which its children inherit. As a program, ``python -P marks.py MARK``,
this waits until its standard input ends, as it does when the process at the other end dies. Then it ends every process
with the mark.

It imports nothing beyond Python itself, since it has to start in a moment.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

MARK = "HETFED_ENGINE"
"""Variable that holds the mark."""
DONE = b"done"
"""Message to the program that nothing is left to end."""


def marked(mark: str) -> list[int]:
    """Numbers of all living processes started under a mark, without this one."""
    entry = f"{MARK}={mark}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if entry in (folder / "environ").read_bytes().split(b"\0") and int(folder.name) != os.getpid():
                found.append(int(folder.name))
    return found


def end_marked(mark: str, patience: float = 5.0) -> list[int]:
    """Numbers of the processes started under a mark that were still alive; they are killed.

    Args:
        mark: Value of the variable.
        patience: Seconds after which processes that the kernel cannot end are given up.
    """
    there: set[int] = set()
    deadline = time.monotonic() + patience
    while found := marked(mark):
        there.update(found)
        end(found)
        if time.monotonic() > deadline:
            break
        time.sleep(0.02)
    return sorted(there)


def descendants(pid: int) -> list[int]:
    """Numbers of the children of a process, their children, and so on."""
    parents: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError):
            # "PID (NAME) STATE PARENT ...", in which a name may hold anything.
            parent = int((folder / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
            parents.setdefault(parent, []).append(int(folder.name))
    found, waiting = [], [pid]
    while waiting:
        children = parents.get(waiting.pop(), [])
        found += children
        waiting += children
    return found


def end(pids: Iterable[int]) -> None:
    """Kill processes; those that are gone are skipped."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def main(mark: str) -> None:
    """Wait for the end of the process that started this one, then end every process with the mark."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if sys.stdin.buffer.read() != DONE:
        end_marked(mark)


if __name__ == "__main__":
    main(sys.argv[1])
