"""A run where there is no network but loopback, and a list of everything that its processes tried to reach."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hetfed_lightning.flower.engine.settings import SILENT
from tests.flower.engines import ROOT, rounds

pytestmark = [pytest.mark.slow, pytest.mark.promise("identities")]

AUDIT = Path(__file__).with_name("audit")
HERE = re.compile(r"127\.\d+\.\d+\.\d+|::1|localhost|None|0\.0\.0\.0|::|")
"""Addresses of this machine; None and nothing where a port to listen at is looked for."""


def loopback_only() -> list[str]:
    """A command after which there is no network but loopback."""
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        pytest.skip("needs unshare (util-linux) and ip (iproute2)")
    command = ["unshare", "--map-root-user", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    tried = subprocess.run([*command, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"this machine gives no network namespace: {tried.stderr.strip()}")
    return command


def tried_to_reach(file: Path) -> list[str]:
    """Lines of the audit that are not of this machine."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return [line for line in lines if not HERE.fullmatch(line.rpartition(" ")[2])]


def driven(folder: Path, command: list[str], **variables: str) -> str:
    """What a run of an app said, in which no process was told by this one's environment to keep silent."""
    environment = {name: value for name, value in os.environ.items() if name not in SILENT}
    environment |= {"PYTHONPATH": os.pathsep.join([str(AUDIT), str(ROOT)]), "HOME": str(folder), **variables}
    program = [sys.executable, "-m", "tests.flower.drive_engine", str(folder / "deployment"), "encrypted", "rounds=2"]
    ended = subprocess.run(
        [*command, *program], cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=240
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_a_run_needs_no_network_and_asks_for_none(tmp_path: Path) -> None:
    audit = tmp_path / "audit"
    said = driven(tmp_path, loopback_only(), HETFED_AUDIT=str(audit))
    assert [each["answered"] for each in rounds(said)] == [["clinic", "hospital"]] * 2
    lines = audit.read_text(encoding="utf-8").splitlines()
    for program in ("superlink.py", "supernode.py", "engine.executor"):
        assert any(program in line and "starts" in line for line in lines), f"{program} is listened to"
    assert any("socket.connect 127.0.0.1" in line for line in lines)
    assert tried_to_reach(audit) == []


def test_no_system_call_of_a_run_leaves_the_machine(tmp_path: Path) -> None:
    if shutil.which("strace") is None:
        pytest.skip("needs strace")
    calls = tmp_path / "calls"
    driven(
        tmp_path,
        ["strace", "-f", "--seccomp-bpf", "-qq", "-e", "trace=connect,sendto,sendmsg,sendmmsg", "-o", str(calls)],
    )
    addresses = re.findall(r"sin6?_addr.*?\"([^\"]+)\"", calls.read_text(encoding="utf-8"))
    assert "127.0.0.1" in addresses, "connections were seen"
    assert [address for address in addresses if not HERE.fullmatch(address)] == []


def test_the_audit_sees_who_calls_out(tmp_path: Path) -> None:
    audit = tmp_path / "audit"
    environment = os.environ | {"PYTHONPATH": str(AUDIT), "HETFED_AUDIT": str(audit)}
    code = "import socket; socket.getaddrinfo('example.invalid', 80)"
    subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=False)
    assert tried_to_reach(audit) == [f"-c {code} socket.getaddrinfo example.invalid"]
