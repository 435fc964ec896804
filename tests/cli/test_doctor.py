"""``hetfed doctor``: what it says of this machine, and of one on which something is missing."""

import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement

from hetfed_lightning.cli import doctor
from hetfed_lightning.cli.doctor import doctor_text, state_of
from tests.cli.commands import hetfed


def rows(text: str) -> dict[str, str]:
    """Values by name."""
    lines = [line for line in text.splitlines() if line.startswith("  ")]
    return {line.split()[0]: line.split(maxsplit=1)[1] for line in lines}


def test_it_says_what_is_here(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MKL_NUM_THREADS", "3")
    (tmp_path / "runs" / "digits" / "version_0").mkdir(parents=True)
    (tmp_path / "runs" / "digits" / "version_0" / "record.json").write_text("{}", encoding="utf-8")
    ended = hetfed(capsys, "doctor")
    found = rows(ended.out)
    assert ended.code == 0
    for name in ("torch", "lightning", "torchmetrics", "jsonargparse"):
        assert f"  {name}".ljust(18) in ended.out
        assert version(name) in ended.out
    assert [line for line in ended.out.splitlines() if line and line[0] != " "] == [
        "Versions",
        "Extras",
        "Devices",
        "Threads",
        "Places",
    ]
    assert found["tables"].startswith(("installed (pandas ", "not installed (pandas missing"))
    assert {"dev", "test", "all"}.isdisjoint(found)
    assert found["MKL_NUM_THREADS"] == "3"
    assert found["torch"].startswith(str(torch.get_num_threads()))  # Of threads, which come after versions.
    assert found["runs"] == f"{tmp_path / 'runs'} (1 with a record)"
    assert not torch.cuda.is_available() or torch.cuda.get_device_name() in ended.out


def test_it_names_what_is_missing_and_what_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    assert state_of(Requirement("no-such-project-of-anybodys>=2")) == "missing, expected >=2"
    assert state_of(Requirement("torch>=2.0")) == version("torch")
    assert state_of(Requirement("PyYAML>=900")) == f"{version('PyYAML')}, expected >=900: pip install 'PyYAML>=900'"
    lines = ["PyYAML>=6", 'no-such-project-of-anybodys>=2; extra == "tables"', 'PyYAML>=900; extra == "plots"']
    monkeypatch.setattr(doctor, "requires", lambda project: lines)
    found = rows(doctor_text())
    assert found["tables"] == (
        "not installed (no-such-project-of-anybodys missing, expected >=2): pip install 'hetfed-lightning[tables]'"
    )
    assert found["plots"].startswith(f"not installed (PyYAML {version('PyYAML')}, expected >=900")


def test_it_answers_where_torch_is_broken(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    ended = hetfed(capsys, "doctor")
    assert ended.code == 0
    assert rows(ended.out)["GPU"].startswith("torch cannot be imported")
