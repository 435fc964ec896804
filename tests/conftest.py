"""What every test needs: one thread, a folder of its own, silence, examples that chance does not change."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

# Before torch is imported, and for the processes that tests start: OpenMP threads collapse on tiny operations
# when another process competes for the cores, and their number changes the order in which sums are added up.
os.environ["OMP_NUM_THREADS"] = "1"
# Some libraries that tests may start report to their makers by default.
os.environ["DO_NOT_TRACK"] = "1"
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import pytest
import torch
from hypothesis import settings

# No deadline: the first call of an operation is slow. Derandomized: the same examples on every machine.
settings.register_profile("hetfed", deadline=None, derandomize=True)
settings.load_profile("hetfed")


@pytest.fixture(scope="session", autouse=True)
def _single_thread() -> None:
    """Pins torch to one thread in this process too, whoever imported it first."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _quiet_lightning() -> None:
    """Hides what Lightning tells at every fit; its warnings stay.

    The test modules are imported before this runs. Lightning itself is not imported here, though importing it
    later sets the level to INFO again: that takes seconds which tests of pure functions need not wait for.
    """
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)


@pytest.fixture(autouse=True)
def _own_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs each test in an empty folder, so that no log or checkpoint lands in the source tree."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def _process_as_found() -> Iterator[None]:
    """Takes back what a fit with several ranks leaves behind, so that tests pass in any order.

    Lightning keeps the process group, and its address in the environment, until the process ends; a later
    test on one device would take itself for distributed.
    """
    environment = dict(os.environ)
    yield
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    os.environ.update(environment)
