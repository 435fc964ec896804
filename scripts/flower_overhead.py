"""Seconds that an empty message takes to every site and back: what the engine costs before anyone learns.

    python scripts/flower_overhead.py                       # Flower as it comes, and as `hetfed deploy local` is
    python scripts/flower_overhead.py --megabytes 1 10 100  # of float32 that travel down and back up
    python scripts/flower_overhead.py --sites 4 --rounds 20 --csv runs/flower_overhead.csv

Arms: `flower` is the engine with its own programs and settings (a program per message, without torch in it);
`flower+torch` the same with a client app that imports this package, as one that trains has to; `ours` is what
`hetfed deploy local` starts, this package imported. All with TLS and keys, on loopback.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # `hetfed_lightning`, from wherever this is started

from hetfed_lightning.flower.deploy.keys import make_keys
from hetfed_lightning.flower.engine.local_engine import LocalEngine
from hetfed_lightning.flower.files.folder import KeyFolder

ROOT = Path(__file__).resolve().parent.parent
APP = ROOT / "scripts" / "empty_app"
ARMS = ("flower", "flower+torch", "ours")
OWN_POLL = 0.0
"""Leaves the looks for answers to the engine."""


def main() -> None:
    """Measure each arm and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS)
    parser.add_argument("--sites", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=10, help="After one that warms up.")
    parser.add_argument("--megabytes", type=float, nargs="+", default=[0.0])
    parser.add_argument("--csv", type=Path, help="Write every round there.")
    options = parser.parse_args()
    rows: list[tuple[str, int, float, int, float]] = []
    print(
        f"{'arm':<14}{'sites':>6}{'MB':>8}{'start':>9}{'median':>9}{'slowest':>9}  (seconds, {options.rounds} rounds)"
    )
    for arm in options.arms:
        for megabytes in options.megabytes:
            start, seconds = measured(arm, options.sites, options.rounds, megabytes)
            rows += [(arm, options.sites, megabytes, number, one) for number, one in enumerate(seconds, start=1)]
            told = f"{start:9.1f}{statistics.median(seconds):9.2f}{max(seconds):9.2f}"
            print(f"{arm:<14}{options.sites:>6}{megabytes:>8g}{told}", flush=True)
    if options.csv:
        options.csv.parent.mkdir(parents=True, exist_ok=True)
        with options.csv.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("arm", "sites", "megabytes", "round", "seconds"), *rows])


def measured(arm: str, sites: int, rounds: int, megabytes: float) -> tuple[float, list[float]]:
    """Seconds until the first answer was there, and of each later round.

    Raises:
        RuntimeError: If the run fails, or a site answers from a process of another kind than meant.
    """
    with tempfile.TemporaryDirectory() as folder:
        names = [f"site_{number}" for number in range(sites)]
        engine = made(arm, Path(folder), names)
        config = {
            "rounds": rounds + 1, "nodes": sites, "megabytes": megabytes, "heavy": arm == "flower+torch",
            "poll": 0.1 if arm == "ours" else OWN_POLL,
        }  # fmt: skip
        started = time.monotonic()
        with engine, engine.control() as control:
            run = control.start_run(APP, config)
            said = ""
            first = None
            for piece in control.logs(run):
                said += piece
                if first is None and "ROUND " in said:
                    first = time.monotonic() - started
            outcome = control.outcome(run)
    if not outcome.is_success or first is None:
        raise RuntimeError(f"{arm}: {outcome.error}\n{said}")
    told = [json.loads(line.removeprefix("ROUND ")) for line in said.splitlines() if line.startswith("ROUND ")]
    if any(one["warm"] != (arm != "flower") or len(one["answered"]) != sites for one in told):
        raise RuntimeError(f"{arm}: not every site answered as meant:\n{said}")
    return first, [one["seconds"] for one in told[1:]]


def made(arm: str, folder: Path, names: Sequence[str]) -> LocalEngine:
    """The engine of an arm, not yet started."""
    for name in names:
        (folder / "sites" / name).mkdir(parents=True)
        (folder / "sites" / name / "site.yaml").touch()
    make_keys(folder)
    variables = {"PYTHONPATH": os.pathsep.join([str(APP), str(ROOT)])}
    if arm != "ours":
        variables["FLWR_SUPEREXEC_TASK_POLL_INTERVAL"] = "1.0"  # the engine's default
    engine = LocalEngine(
        folder / "engine",
        {name: {"participant": name} for name in names},
        keys=KeyFolder(folder / "keys"),
        app="empty_app.client_app:app" if arm == "ours" else None,
        server_app="empty_app.server_app:app" if arm == "ours" else None,
        variables=variables,
    )
    if arm != "ours":
        for node in engine.nodes.values():
            node.program = ["flower-supernode"]
    return engine


if __name__ == "__main__":
    main()
