"""What every test needs: one thread, a folder of its own, silence, examples that chance does not change.

Tests of a promise (``@pytest.mark.promise("key")``) are counted by scripts/trust.py.
"""

import functools
import gc
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

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


class Tally(Protocol):
    """Tells how many faults a test injects, how many of them were stood, and what was measured beside that."""

    def __call__(self, *, tried: int, held: int, measured: str = "") -> None: ...


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--full", action="store_true", help="inject faults in full number, as scripts/trust.py --full does"
    )
    parser.addoption("--promises", nargs="+", metavar="KEY", help="run the tests of these promises alone")


def pytest_collection_finish() -> None:
    """Leaves out what importing made, a million objects, where garbage is looked for from here on."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    keys = config.getoption("--promises")
    if keys is None:
        return
    left_out = [one for one in items if not any(mark.args[0] in keys for mark in one.iter_markers("promise"))]
    items[:] = [one for one in items if one not in set(left_out)]
    config.hook.pytest_deselected(items=left_out)


@pytest.fixture
def full(request: pytest.FixtureRequest) -> bool:
    """Whether to inject faults in full number."""
    return bool(request.config.getoption("--full"))


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Tally:
    """What a test that injects many faults calls before its last assertion."""

    def tell(*, tried: int, held: int, measured: str = "") -> None:
        request.node.user_properties += [("tried", tried), ("held", held)]
        if measured:
            request.node.user_properties.append(("measured", measured))

    return tell


@pytest.fixture(autouse=True)
def _promises(request: pytest.FixtureRequest) -> None:
    """Writes into pytest's report which promises a test is of."""
    request.node.user_properties += [("promise", marker.args[0]) for marker in request.node.iter_markers("promise")]


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


@pytest.fixture(scope="session", autouse=True)
def _entry_points_read_once() -> Iterator[None]:
    """Remembers which packages bring callbacks: every Trainer asks, and reads the metadata of all that is installed.

    Like the above, of Lightning that test modules have imported.
    """
    registry = sys.modules.get("lightning.fabric.utilities.registry")
    with pytest.MonkeyPatch.context() as patch:
        if registry is not None:
            patch.setattr(registry, "entry_points", functools.cache(vars(registry)["entry_points"]))
        yield


@pytest.fixture(autouse=True)
def _own_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs each test in an empty folder, so that no log or checkpoint lands in the source tree."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def _logs_as_found() -> Iterator[None]:
    """Takes back what commands and scripts say of the package's logs, which other tests read."""
    yield
    for name, logger in list(logging.root.manager.loggerDict.items()):
        if name.partition(".")[0] == "hetfed_lightning" and isinstance(logger, logging.Logger):
            if logger.level:  # To set it would empty the cache of every logger there is.
                logger.setLevel(logging.NOTSET)
            logger.propagate = True


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
