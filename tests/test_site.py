"""The pages' site: links to what lies beside docs/, and a reference of every public name."""

from importlib import import_module, util
from pathlib import Path

import pytest
import yaml

pytest.importorskip("mkdocs")
from scripts.pages.hooks import PACKAGES, configurations, notebook, public_paths, relinked
from scripts.pages.roles import ROLE, _shown

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ("markdown", "place", "folder", "expected"),
    [
        ("[a](docs/cli.md#x) [b](CHANGELOG.md)", "index.md", "", "[a](cli.md#x) [b](changelog.md)"),
        ("[a](../configs/digits.yaml)", "methods.md", "docs/", "[a](configs/digits.md)"),
        ("[a](../notebooks/03_cities.ipynb)", "methods.md", "docs/", "[a](notebooks/03_cities.md)"),
        ("[a](../CONTRIBUTING.md#x)", "methods.md", "docs/", "[a](contributing.md#x)"),
        ("[a](../docs/privacy.md)", "notebooks/x.md", "notebooks/", "[a](../privacy.md)"),
        ("[a](https://example.org) [b](#here) ![c](digits.png)", "methods.md", "docs/", None),
    ],
)
def test_links_go_to_places_of_the_site(markdown: str, place: str, folder: str, expected: str | None) -> None:
    assert relinked(markdown, place, folder) == (markdown if expected is None else expected)


def test_every_page_of_docs_stands_in_the_navigation() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    given = yaml.safe_load(text.partition("\nnav:\n")[2])
    values = [value for entry in given for value in entry.values()]
    found = [one for one in values if isinstance(one, str)]
    found += [page for one in values if isinstance(one, list) for each in one for page in each.values()]
    assert {path.name for path in (ROOT / "docs").glob("*.md")} <= set(found)
    assert {f"notebooks/{path.stem}.md" for path in (ROOT / "notebooks").glob("*.ipynb")} <= set(found)
    assert len(set(found)) == len(found)


def test_the_reference_has_every_public_name() -> None:
    for package in PACKAGES:
        name = f"hetfed_lightning.{package}".rstrip(".")
        assert public_paths(name)
    for path in ("hetfed_lightning.federation.federation.Federation", "hetfed_lightning.benchmarking.benchmark"):
        assert path in public_paths("hetfed_lightning")
    packages = {path.name for path in (ROOT / "hetfed_lightning").iterdir() if (path / "__init__.py").is_file()}
    public = {one for one in packages if getattr(import_module(f"hetfed_lightning.{one}"), "__all__", ())}
    assert public - {"cli", "fleets"} <= {one.partition(".")[0] for one in PACKAGES}


def test_a_notebook_and_a_configuration_become_pages() -> None:
    (*pictures, (place, text)) = notebook(ROOT / "notebooks" / "01_first_federation.ipynb")
    assert place == "notebooks/01_first_federation.md"
    assert isinstance(text, str)
    assert pictures
    for picture, content in pictures:
        assert f"({Path(picture).name})" in text
        assert isinstance(content, bytes)
        assert content.startswith(b"\x89PNG")
    assert "```python\n" in text
    pages = dict(configurations())
    assert all(f"[{path.stem}]" in pages["configs/index.md"] for path in (ROOT / "configs").glob("*.yaml"))


def test_roles_become_code() -> None:
    assert util.find_spec("griffe") is not None
    text = "As :class:`~hetfed_lightning.Method` and :func:`a.b`; :class:`Name <a.b.Name>` too."
    assert ROLE.sub(_shown, text) == "As `Method` and `a.b`; `a.b.Name` too."
