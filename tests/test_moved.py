"""Old places of modules and names: each leads to what is there now, and to nothing else."""

import re
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

import hetfed_lightning
from hetfed_lightning._moved import MODULES, NAMES, PACKAGE

ROOT = Path(hetfed_lightning.__file__).parent
REPOSITORY = ROOT.parent
READ_BY_USERS = [
    path
    for pattern in ("*.md", "configs/*.yaml", "docs/*.md", "notebooks/*.ipynb")
    for path in sorted(REPOSITORY.glob(pattern))
    if path.name != "CHANGELOG.md"
]


def file_of(dotted: str) -> Path:
    return ROOT / f"{dotted.replace('.', '/')}.py"


@pytest.mark.parametrize(("old", "new"), MODULES.items(), ids=MODULES)
def test_an_old_module_has_the_names_of_the_new_one(old: str, new: str) -> None:
    assert file_of(new).exists()
    assert not file_of(old).exists(), f"{old} is there: nothing would ever look it up"
    then, now = import_module(f"{PACKAGE}.{old}"), import_module(f"{PACKAGE}.{new}")
    own = [name for name, held in vars(now).items() if getattr(held, "__module__", None) == now.__name__]
    assert own
    assert all(getattr(then, name) is getattr(now, name) for name in own)
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        _ = then.nothing_of_the_kind


@pytest.mark.parametrize(("old", "new"), NAMES.items(), ids=NAMES)
def test_an_old_name_is_the_new_one(old: str, new: str) -> None:
    there, name = old.rsplit(".", 1)
    place, now = new.rsplit(".", 1)
    assert getattr(import_module(f"{PACKAGE}.{there}"), name) is getattr(import_module(f"{PACKAGE}.{place}"), now)


def test_an_old_module_is_an_attribute_of_the_package() -> None:
    assert vars(hetfed_lightning)["__getattr__"]("participant").Participant is hetfed_lightning.Participant


def test_what_never_was_is_not_found() -> None:
    assert find_spec(f"{PACKAGE}.nothing_of_the_kind") is None
    assert find_spec("participant") is None
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        vars(hetfed_lightning)["__getattr__"]("nothing_of_the_kind")


def dotted_paths(text: str) -> set[str]:
    """Dotted paths below the package, of names and of what is imported from them."""
    named = {found[1] for found in re.finditer(rf"{PACKAGE}\.([\w.]+)", text)}
    imported = re.finditer(rf"from {PACKAGE}((?:\.\w+)*) import ([\w, ]+)", text)
    return named | {f"{found[1]}.{name}".lstrip(".") for found in imported for name in found[2].split(", ")}


@pytest.mark.parametrize("path", READ_BY_USERS, ids=lambda path: path.name)
def test_whatever_users_read_has_the_places_of_today(path: Path) -> None:
    assert dotted_paths(path.read_text(encoding="utf-8")) & {*MODULES, *NAMES} == set()


def test_dotted_paths_are_found_in_configurations_and_imports() -> None:
    text = f"class_path: {PACKAGE}.data.Digits\nfrom {PACKAGE}.data import Digits, IID\nfrom {PACKAGE} import Task"
    assert dotted_paths(text) == {"data.Digits", "data", "data.IID", "Task"}
