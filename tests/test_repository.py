"""The repository as such: nothing of the machine it was written on, scripts that run, versions that agree."""

import os
import re
import shutil
import subprocess
import tomllib
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = [*sorted((ROOT / "scripts").glob("*.sh")), ROOT / ".ci" / "run"]

# Folders that exist only on the machines this was written on. Put together here, lest this file name them.
FOREIGN_FOLDERS = ["/".join(["", *parts, ""]) for parts in (["work"], ["root"], ["farm"], ["tmp", "bash_jobs"])]
# No letter, dot or such before the slash: `docs/work/` is a folder of somebody's own.
FOREIGN_PATH = re.compile(rf"(?<![\w.~}}-])(?:{'|'.join(map(re.escape, FOREIGN_FOLDERS))})")


def project() -> dict[str, Any]:
    """The ``[project]`` table of pyproject.toml."""
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return table


def extras_with_parents(extra: str) -> set[str]:
    """``extra`` and every extra of this project that it pulls in."""
    found = {extra}
    for line in project()["optional-dependencies"][extra]:
        requirement = Requirement(line)
        if requirement.name == project()["name"]:
            found = found.union(*(extras_with_parents(child) for child in requirement.extras))
    return found


def requirements() -> list[Requirement]:
    """Every requirement on another project, of the core and of all extras."""
    lines = chain(project()["dependencies"], *project()["optional-dependencies"].values())
    return [requirement for requirement in map(Requirement, lines) if requirement.name != project()["name"]]


def pins() -> dict[str, str]:
    """Version by canonical name, from constraints.txt; every line is one exact version and nothing else."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    versions: dict[str, str] = {}
    for line in lines:
        if line and not line.startswith("#"):
            match = re.fullmatch(r"([A-Za-z0-9._-]+)==([0-9][0-9A-Za-z.!]*)", line)
            assert match, f"constraints.txt: expected name==version without a local suffix, address or path: {line!r}"
            versions[canonicalize_name(match[1])] = match[2]
    return versions


def repository_files() -> list[Path]:
    """Files git tracks or would track."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("needs git and a clone: only git knows which files belong to the repository")
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    return [path for name in names if name and (path := ROOT / name).is_file()]


def foreign_paths(text: str) -> list[str]:
    """Lines of ``text`` that name a folder of the writer's machine, with their numbers."""
    return [f"{n}: {line}" for n, line in enumerate(text.splitlines(), 1) if FOREIGN_PATH.search(line)]


def test_no_file_names_a_folder_of_the_machine_it_was_written_on() -> None:
    found = []
    for path in repository_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # data or a picture
        found += [f"{path.relative_to(ROOT)}:{line}" for line in foreign_paths(text)]
    assert not found, "\n".join(["expected paths relative to the repository or the user, got:", *found])


@pytest.mark.parametrize("folder", FOREIGN_FOLDERS)
def test_a_foreign_path_is_seen(folder: str) -> None:
    assert foreign_paths(f"first\ncd {folder}main") == [f"2: cd {folder}main"]
    assert foreign_paths(f'"{folder}x"')
    assert not foreign_paths(f"docs{folder}page and https://example.org{folder}page and ${{HOME}}{folder}")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_a_script_is_executable_and_parses(script: Path) -> None:
    assert os.access(script, os.X_OK), f"chmod +x {script.relative_to(ROOT)}"
    checked = subprocess.run(["bash", "-n", str(script)], check=False, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr


def test_the_constraints_lie_in_the_ranges_of_pyproject() -> None:
    versions = pins()
    for requirement in requirements():
        name = canonicalize_name(requirement.name)
        assert name in versions, f"constraints.txt lacks {name}"
        assert requirement.specifier.contains(versions[name]), (
            f"{name}=={versions[name]} is not {requirement.specifier}"
        )


def test_no_two_requirements_on_one_project_disagree() -> None:
    ranges: dict[str, set[str]] = {}
    for requirement in requirements():
        ranges.setdefault(canonicalize_name(requirement.name), set()).add(str(requirement.specifier))
    assert {name: found for name, found in ranges.items() if len(found) > 1} == {}


def test_dev_holds_every_other_extra() -> None:
    # scripts/common.sh takes an environment with `dev` as good for every script.
    assert extras_with_parents("dev") - {"all"} == set(project()["optional-dependencies"]) - {"all"}
    assert extras_with_parents("all") - {"all"} <= extras_with_parents("test")


def test_the_version_is_the_same_everywhere() -> None:
    import hetfed_lightning  # here, so that the other tests run while the package cannot be imported

    assert hetfed_lightning.__version__ == project()["version"]


def fake_python(folder: Path, name: str, version: str, *, has_venv: bool = True) -> None:
    """A program that answers the questions scripts/common.sh asks as a Python of ``version`` would."""
    old = tuple(map(int, version.split("."))) < (3, 11)
    program = folder / name
    program.write_text(
        "#!/bin/bash\n"
        'case "$2" in\n'
        f"*version_info\\[:3\\]*) echo {version} ;;\n"
        f"*version_info*) exit {int(old)} ;;\n"
        f"*ensurepip*) exit {int(not has_venv)} ;;\n"
        "esac\n",
        encoding="utf-8",
    )
    program.chmod(0o755)


def find_python(path: Path) -> "subprocess.CompletedProcess[str]":
    """Runs ``find_python`` of scripts/common.sh with ``path`` alone in PATH, after what it needs to start."""
    command = [
        "bash",
        "-c",
        'source "$0"; PATH=$1; find_python',
        str(ROOT / "scripts" / "common.sh"),
        str(path),
    ]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def test_the_scripts_pass_over_an_old_python(tmp_path: Path) -> None:
    fake_python(tmp_path, "python3", "3.8.18")
    fake_python(tmp_path, "python3.12", "3.12.1")
    found = find_python(tmp_path)
    assert (found.returncode, found.stdout.strip()) == (0, str(tmp_path / "python3.12"))


def test_the_scripts_say_which_python_they_found_instead(tmp_path: Path) -> None:
    fake_python(tmp_path, "python3", "3.8.18")
    fake_python(tmp_path, "python3.11", "3.11.2", has_venv=False)
    found = find_python(tmp_path)
    assert found.returncode == 1
    assert "expected Python 3.11 or newer" in found.stderr
    assert "python3 is 3.8.18" in found.stderr
    assert "python3.11 is 3.11.2 but lacks venv" in found.stderr
