"""A SuperNode that looks for messages twice a second: ``python -P supernode.py``, options of flower-supernode.

The engine's own sleeps three seconds between two looks, which every message of a round waits for.

A program, not a module to be imported: the package's own imports would cost its start seconds.
"""

from __future__ import annotations

import os
import sys
import time
from types import SimpleNamespace

from flwr.supercore.inflatable import inflatable_utils
from flwr.supernode import start_client_internal
from flwr.supernode.cli.flower_supernode import flower_supernode

LOST = 1
"""Exit code where the SuperLink has given the node up; the engine's program would stay, connected to nothing."""
LONGEST = 0.25
"""Seconds. Each look costs the SuperLink a signature's check, some milliseconds."""


def main() -> None:
    """Run the SuperNode with a shorter sleep."""
    patient = SimpleNamespace(sleep=lambda seconds: time.sleep(min(seconds, LONGEST)))
    vars(start_client_internal).update(time=patient)
    # A message may be seen a moment before its content has arrived; the engine then waits a second.
    (inflatable_utils.pull_objects.__kwdefaults__ or {}).update(initial_backoff=0.05)
    sys.argv[0] = "flower-supernode"
    flower_supernode()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(LOST)  # a thread of its own server would keep it


if __name__ == "__main__":
    main()
