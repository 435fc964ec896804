"""Runs the tests of promises and counts what they injected."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.etree.ElementTree import Element, parse

from scripts.promises.table import Tally

ROOT = Path(__file__).resolve().parents[2]

NO_TESTS = 5
"""What pytest ends with where nothing was selected."""


def run_tests(keys: Sequence[str], *, full: bool) -> dict[str, Tally]:
    """Run the tests of some promises, those marked slow too if ``full``; their output passes through.

    Args:
        keys: Of the promises.
        full: Whether to inject faults in full number.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        options = ["--full", "--timeout=7200", "-m", ""] if full else ["-m", "not slow and not loopback"]
        command = [
            *(sys.executable, "-m", "pytest", "-q", "--no-header", f"--junit-xml={report}"),
            *("-o", "junit_family=xunit1", *options, "--promises", *keys),
        ]
        status = subprocess.run(command, cwd=ROOT, check=False).returncode  # noqa: S603 - our own tests
        if status not in {0, 1, NO_TESTS}:
            raise SystemExit(f"pytest ended with {status}; nothing was counted.")
        return counted(report)


def counted(report: Path) -> dict[str, Tally]:
    """Tallies by promise of pytest's report.

    A test that tells no numbers counts as one; one that failed has not held, but for what it told before.
    """
    tallies: dict[str, Tally] = defaultdict(Tally)
    for case in parse(report).iter("testcase"):  # noqa: S314 - pytest wrote it a moment ago
        found = list(_properties(case))
        name = f"{case.get('classname')}::{case.get('name')}"
        tried = sum(int(value) for key, value in found if key == "tried")
        held = sum(int(value) for key, value in found if key == "held")
        failed = case.find("failure") is not None or case.find("error") is not None
        skipped = case.find("skipped") is not None
        for promise in {value for key, value in found if key == "promise"}:
            tally = tallies[promise]
            tally.measured += tuple(value for key, value in found if key == "measured")
            if skipped:
                tally.skipped += (name,)
                continue
            tally.tried += max(tried, 1)
            tally.held += (min(held, max(tried, 1) - 1) if failed else held) if tried else int(not failed)
            if failed:
                tally.failed += (name,)
    return dict(tallies)


def _properties(case: Element) -> Iterator[tuple[str, str]]:
    for one in case.iter("property"):
        yield one.get("name", ""), one.get("value", "")


def environment_of(tree: Path) -> dict[str, str]:
    """The environment in which Python takes the package from a copy of the tree."""
    return os.environ | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
