"""Starts a measurement in a process of its own and reads its result."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
MARK = "RESULT "
LINES = 12


class MeasurementError(RuntimeError):
    """A measurement gave no result; the message ends with what it said last."""


def measure(
    job: dict[str, Any],
    module: str = "scripts.benchmark.worker",
    python: str = sys.executable,
    seconds: float = 3600,
) -> dict[str, Any]:
    """The result of a job.

    Args:
        job: What the module takes, JSON.
        module: Run with ``-m``, the repository's root in its path.
        python: Interpreter.
        seconds: After these it is ended.

    Raises:
        MeasurementError: If it ends without a result, or not in time.
    """
    threads = str(job["threads"])
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    # Some peers would report their use to their makers.
    quiet = {"DO_NOT_TRACK": "1", "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
    quiet |= {"RAY_USAGE_STATS_ENABLED": "0"}
    environment = os.environ | quiet | {"PYTHONPATH": path, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    command = [python, "-m", module, json.dumps(job)]
    try:
        done = subprocess.run(  # noqa: S603 - the command is this script's own
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=seconds
        )
    except subprocess.TimeoutExpired as error:
        raise MeasurementError(f"{module} took longer than {seconds:.0f} s.") from error
    found = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    if done.returncode or not found:
        said = "\n".join([*done.stdout.splitlines(), *done.stderr.splitlines()][-LINES:])
        raise MeasurementError(f"{module} ended with {done.returncode} and no result:\n{said}")
    result: dict[str, Any] = json.loads(found[-1].removeprefix(MARK))
    return result
