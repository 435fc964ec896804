"""What a process does beside computing, told by Python's audit events: programs started, sockets, pickles, files."""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

STARTED = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "subprocess.Popen", "pty.spawn")
REACHED = ("socket.connect", "socket.getaddrinfo", "socket.bind", "urllib.Request", "ftplib.connect")
REMOVED = ("os.remove", "os.rmdir", "os.rename", "shutil.rmtree")
HARMLESS = ("import sys, json; print(json.dumps(sys.path))", "ldconfig", "gcc", "/usr/bin/ld")
"""Programs that libraries start to find others, whatever they read."""

_listeners: list[list[str]] = []
_installed: list[bool] = []


@contextmanager
def watched() -> Iterator[list[str]]:
    """Events of this block: programs started, addresses reached, files written or removed elsewhere."""
    if not _installed:  # An audit hook cannot be taken away again.
        sys.addaudithook(_heard)
        _installed.append(True)
    found: list[str] = []
    _listeners.append(found)
    try:
        yield found
    finally:
        _listeners.remove(found)


def _heard(event: str, arguments: tuple[Any, ...]) -> None:
    if not _listeners:
        return
    if event in STARTED or event in REACHED:
        told = f"{event}{arguments!r:.200}"
    elif (event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")) or event in REMOVED:
        told = _outside(event, arguments[0])
    else:
        return
    if told and not any(one in told for one in HARMLESS):
        for listener in _listeners:
            listener.append(told)


def _outside(event: str, path: Any) -> str:
    if not isinstance(path, str | Path) or str(path).startswith(("/dev/", "/proc/")):
        return ""
    where = Path(path).absolute()
    own = (
        where.is_relative_to(Path.cwd()) or where.is_relative_to(tempfile.gettempdir()) or "__pycache__" in where.parts
    )
    return "" if own else f"{event}({where})"
