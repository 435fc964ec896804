"""Events at a site, in plain lines picked from the logs of the engine's processes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from hetfed_lightning.flower.engine.executor import OURS
from hetfed_lightning.flower.engine.site_engine import NODE_LOG, TASKS_LOG

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class Tail:
    """Lines that are added to a file from now on.

    Args:
        path: The file, which may be made later.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = path.stat().st_size if path.is_file() else 0
        self._rest = b""

    def new(self) -> list[str]:
        """Lines completed since the last call."""
        if not self._path.is_file():
            return []
        with self._path.open("rb") as file:
            file.seek(self._at)
            read = file.read()
        self._at += len(read)
        *lines, self._rest = (self._rest + read).split(b"\n")
        return [_COLOURS.sub("", line.decode("utf-8", errors="replace")) for line in lines]


class SiteLog:
    """Sentences on a site's events for its operator; a state that lasts is mentioned once.

    Args:
        folder: Folder of the engine's logs.
        coordinator: ``host:port`` of the coordinator.
    """

    def __init__(self, folder: Path, coordinator: str) -> None:
        self._node, self._tasks = Tail(folder / NODE_LOG), Tail(folder / TASKS_LOG)
        self._coordinator = coordinator
        self._last = ""
        self._was_connected = False

    def new(self) -> Iterator[str]:
        """Sentences on events since the last call."""
        for line in self._node.new():
            sentence = self._of_node(line)
            if sentence and sentence != self._last:
                self._last = sentence
                yield sentence
        for line in self._tasks.new():
            if line.startswith(OURS):
                yield line.removeprefix(OURS)

    def forget(self) -> None:
        """Let the last sentence be repeated if it holds again."""
        self._last = ""

    def _of_node(self, line: str) -> str:
        """Meaning of a line of the SuperNode; empty for most of them."""
        if "SuperNode ID:" in line or "Connection successful" in line:
            if "SuperNode ID:" not in line and not self._was_connected:
                return ""  # Its identity is yet to be checked.
            self._was_connected = True
            return f"Connected with the coordinator at {self._coordinator}."
        if "retrying in" in line:
            state = "is lost" if self._was_connected else "is not there yet"
            return (
                f"The connection with the coordinator at {self._coordinator} {state}; it is tried for again and again."
            )
        if "SSL/TLS handshake error" in line:
            return (
                f"The coordinator at {self._coordinator} is not trusted: its certificate is not of the authority in "
                "ca.pem, has expired, or is for another host than this; or it is no coordinator. It is tried again."
            )
        if "Failed to activate SuperNode" in line or "must be registered" in line:
            return (
                f"The coordinator at {self._coordinator} does not admit this site: its public key is not registered "
                "there, or another process of the site was there until a minute ago. It is tried again."
            )
        return ""
