"""Found by every Python process that has this folder in PYTHONPATH: writes down whom it tries to reach."""

import os
import sys
from typing import Any

LOOKUPS = ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr")
ADDRESSED = ("socket.connect", "socket.sendto", "socket.sendmsg")


def note(event: str, arguments: tuple[Any, ...]) -> None:
    """Write down what may leave the machine, its address last."""
    if event in LOOKUPS:
        address = arguments[0]
    elif event in ADDRESSED and isinstance(arguments[-1], tuple):
        address = arguments[-1][0]
    else:
        return
    write(f"{event} {address}")


def write(line: str) -> None:
    """Add a line to the file of all processes, after the program's own command."""
    with open(os.environ["HETFED_AUDIT"], "a", encoding="utf-8") as file:  # noqa: PTH123  # pathlib is not imported yet
        file.write(f"{' '.join(sys.orig_argv[1:4])} {line}\n")


if "HETFED_AUDIT" in os.environ:
    write("starts None")
    sys.addaudithook(note)
