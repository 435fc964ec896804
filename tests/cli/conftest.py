"""Takes back what a command leaves in the process, so that tests pass in any order."""

import logging
import sys
import warnings
from collections.abc import Iterator
from copy import deepcopy

import pytest
import torch
from jsonargparse import _common as jsonargparse_common


@pytest.fixture(autouse=True)
def _process_before_a_command(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Import policy of jsonargparse, filters of warnings and logs, threads and generator."""
    settings = deepcopy(jsonargparse_common.parsing_settings)
    lightning = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    filters, threads, generator = list(lightning.filters), torch.get_num_threads(), torch.get_rng_state()
    path = list(sys.path)
    monkeypatch.delenv("HETFED_DEBUG", raising=False)
    with warnings.catch_warnings():
        yield
    jsonargparse_common.parsing_settings.clear()
    jsonargparse_common.parsing_settings.update(settings)
    lightning.filters[:] = filters
    for quietened in ("callbacks", "methods", "fleets", "federation.preflight", "logs.undefined"):  # By `compare`.
        logging.getLogger(f"hetfed_lightning.{quietened}").setLevel(logging.NOTSET)
    package = logging.getLogger("hetfed_lightning")
    package.handlers.clear()
    package.propagate = True
    package.setLevel(logging.NOTSET)
    sys.path[:] = path
    torch.set_num_threads(threads)
    torch.set_rng_state(generator)
