"""`flwr run` with the engine's simulation, as the documentation has it; needs `pip install 'flwr[simulation]'`."""

from __future__ import annotations

import os
import sysconfig
from importlib.util import find_spec
from pathlib import Path

import pytest

from hetfed_lightning.flower.engine.settings import SILENT, free_ports
from tests.flower.deployed import CONFIGS
from tests.flower.loopback import Command, distance, hetfed, record_of, state_of_fit
from tests.flower.test_configurations import ROUNDS, shortened

pytestmark = pytest.mark.slow

SITES = ("hospital_a", "hospital_b", "hospital_c", "hospital_d")


@pytest.mark.skipif(find_spec("ray") is None, reason="needs Ray: pip install 'flwr[simulation]'")
def test_three_rounds_of_digits_are_those_of_one_fit(tmp_path: Path) -> None:
    config = shortened(str(CONFIGS / "digits.yaml"), tmp_path)
    hetfed(tmp_path, "deploy", "init", config, "-o", "deployment")
    deployment = tmp_path / "deployment"
    scripts = sysconfig.get_path("scripts")
    command = Command(
        tmp_path,
        *(f"{scripts}/flwr", "run", str(deployment / "app"), "local", "--stream"),
        *("--federation-config", f"num-supernodes={len(SITES)} client-resources-num-cpus=1"),
        **SILENT,
        PATH=os.pathsep.join([scripts, os.environ["PATH"]]),
        FLWR_HOME=str(tmp_path / "home"),
        FLWR_LOCAL_SUPERLINK_HTTP_API_PORT=str(free_ports(1)[0]),
    )
    try:
        assert command.wait(280) == 0, command.output
    finally:
        command.end()  # The SuperLink that the engine has started as well.
    record = record_of(deployment / "run")
    assert record["finished"], command.output
    assert record["left_out"] == []
    hetfed(tmp_path, "fit", "-c", config)
    (fitted,) = (tmp_path / "runs").rglob("last.ckpt")
    for name in SITES:
        (last,) = (deployment / "sites" / name / "state").glob(f"*/round-{ROUNDS - 1:06d}-finished.ckpt")
        assert distance(state_of_fit(last, name), state_of_fit(fitted, name)) <= 1e-6
