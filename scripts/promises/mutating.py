"""Takes each defence out of a copy of the tree and looks whether the tests of its promise see that."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from scripts.promises.promise import Mutation, Promise
from scripts.promises.running import ROOT, environment_of

COPIED = (
    "hetfed_lightning",
    "tests",
    "scripts",
    "configs",
    "notebooks",
    "docs",
    "pyproject.toml",
    "README.md",
    "CONTRIBUTING.md",
)

SECONDS = 900
"""After which tests that hang without a defence count as having seen it."""


def unseen_mutations(promises: Iterable[Promise]) -> tuple[int, list[str]]:
    """How many mutations were tried, and those that no test has seen, told one by one.

    Tests are run before the defence is taken out as well: ones that fail anyway would show nothing.
    """
    count, unseen = 0, []
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(source, tree / name)
        for promise in promises:
            for mutation in promise.mutations:
                count += 1
                said = _tried(mutation, tree)
                print(f"{promise.key}: {mutation.file}: {said}", flush=True)
                if said != SEEN:
                    unseen.append(f"{promise.key}: {mutation.file}: {said}")
    return count, unseen


SEEN = "seen: its tests pass with the defence and fail without"


def _tried(mutation: Mutation, tree: Path) -> str:
    file = tree / mutation.file
    source = file.read_text(encoding="utf-8")
    if source.count(mutation.old) != 1:
        return f"expected {mutation.old!r} once, found it {source.count(mutation.old)} times"
    if not _pass(mutation.tests, tree):
        return "its tests fail with the defence in its place"
    file.write_text(source.replace(mutation.old, mutation.new), encoding="utf-8")
    try:
        return "NOT seen: its tests pass without the defence" if _pass(mutation.tests, tree) else SEEN
    finally:
        file.write_text(source, encoding="utf-8")


def _pass(tests: tuple[str, ...], tree: Path) -> bool:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-n0",
        "--no-header",
        "-p",
        "no:cacheprovider",
        "-m",
        "",
        *tests,
    ]
    try:
        ended = subprocess.run(  # noqa: S603 - our own tests
            command, cwd=tree, check=False, env=environment_of(tree), capture_output=True, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        return False
    return ended.returncode == 0
