"""Engines for tests: the real processes, carrying an app that learns nothing."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hetfed_lightning.flower.deploy.keys import make_keys
from hetfed_lightning.flower.engine.local_engine import LocalEngine
from hetfed_lightning.flower.files.folder import KeyFolder
from tests.flower.deployments import empty_deployment

ROOT = Path(__file__).resolve().parents[2]
EMPTY_APP = ROOT / "scripts" / "empty_app"
CLIENT_APP = "empty_app.client_app:app"
SERVER_APP = "empty_app.server_app:app"
IMPORTED_FROM = os.pathsep.join([str(EMPTY_APP), os.environ.get("PYTHONPATH") or str(ROOT)])


def empty_engine(
    folder: Path, *sites: str, encrypted: bool = True, app: str | None = CLIENT_APP, **variables: str
) -> LocalEngine:
    """An engine whose sites answer with what they are sent.

    Args:
        folder: Of the deployment, which is made.
        sites: Their names.
        encrypted: With TLS and keys.
        app: None to have the engine start a program per message.
        variables: Of the environment of all processes.
    """
    keys = None
    if encrypted:
        make_keys(empty_deployment(folder, *sites))
        keys = KeyFolder(folder / "keys")
    told = {name: {"participant": name} for name in sites}
    variables = {"PYTHONPATH": IMPORTED_FROM, **variables}
    return LocalEngine(folder / "engine", told, keys=keys, app=app, server_app=SERVER_APP, variables=variables)


def rounds(said: str) -> list[dict[str, Any]]:
    """What the app told of each round."""
    return [json.loads(line.removeprefix("ROUND ")) for line in said.splitlines() if line.startswith("ROUND ")]


def run_to_end(engine: LocalEngine, **config: str | float | bool) -> str:
    """What the app said in a run that went through."""
    with engine.control() as control:
        run = control.start_run(EMPTY_APP, config)
        said = "".join(control.logs(run))
        outcome = control.outcome(run)
    assert outcome.is_success, (outcome, said)
    return said


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait for what has to come about.

    Raises:
        AssertionError: If it does not.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.1)
