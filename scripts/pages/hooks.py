"""What mkdocs adds to docs/: the pages at the top, notebooks, configurations, and the reference from docstrings."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
TOP = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md",
       "SECURITY.md": "security.md"}  # fmt: skip
"""Pages beside docs/, by their place on the site."""

PACKAGES = {
    "": "Federations, participants and methods",
    "aggregation": "Rules of aggregation",
    "backbones": "Backbones",
    "data": "Data modules, partitions and sources",
    "distillation": "Ensembles and teaching",
    "heads": "Heads",
    "layers": "Layers and transforms",
    "methods.published": "Published methods",
    "metrics": "Metrics",
    "plots": "Figures",
    "privacy": "Privacy",
    "showcases": "Showcases",
    "strategies": "Strategies",
    "tasks": "Tasks",
}
"""Packages with public names, and what they have."""

LINK = re.compile(r"\]\((?!https?://|#|mailto:)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Files of docs/ and those that are made here."""
    for name, place in TOP.items():
        files.append(File.generated(config, place, content=relinked((ROOT / name).read_text(encoding="utf-8"), place)))
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for place, content in notebook(path):
            files.append(File.generated(config, place, content=content))
    for place, text in (*configurations(), *reference()):
        files.append(File.generated(config, place, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Markdown of a page of docs/, with links to what lies beside docs/ turned to its place on the site."""
    return relinked(markdown, page.file.src_uri, "docs/") if page.file.generated_by is None else markdown


def relinked(markdown: str, place: str, folder: str = "") -> str:
    """Markdown whose links to files of the repository go to pages of the site, or are plain code where there is none.

    Args:
        markdown: The text.
        place: Where the page is on the site.
        folder: Folder of the repository that relative links count from.
    """
    up = "../" * place.count("/")

    def turned(match: re.Match[str]) -> str:
        target, anchor = match[1], match[2] or ""
        found = (ROOT / folder / target).resolve()
        try:
            file = found.relative_to(ROOT).as_posix()
        except ValueError:
            return match[0]
        if file in TOP:
            return f"]({up}{TOP[file]}{anchor})"
        if file.startswith("docs/"):
            return f"]({up}{file.removeprefix('docs/')}{anchor})"
        if file.startswith(("configs/", "notebooks/")) and found.is_file():
            return f"]({up}{Path(file).with_suffix('.md').as_posix()})"
        return match[0]

    return LINK.sub(turned, markdown)


def notebook(path: Path) -> Iterator[tuple[str, str | bytes]]:
    """Page of a notebook with what its cells have printed and drawn, and the pictures beside it.

    Args:
        path: The notebook.
    """
    place, parts = f"notebooks/{path.stem}.md", []
    for number, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(relinked(source, place, "notebooks/"))
            continue
        parts.append(f"```python\n{source}\n```")
        for count, output in enumerate(cell.get("outputs", ())):
            data = output.get("data", {})
            if "image/png" in data:
                picture = f"{path.stem}_{number}_{count}.png"
                yield f"notebooks/{picture}", base64.b64decode("".join(data["image/png"]))
                parts.append(f"![What the cell draws]({picture})")
            elif text := "".join(output.get("text", data.get("text/plain", ""))).rstrip():
                parts.append(f"```text\n{text}\n```")
    yield place, "\n\n".join(parts) + "\n"


def configurations() -> Iterator[tuple[str, str]]:
    """A page of each configuration, and their list."""
    lines = []
    for path in sorted((ROOT / "configs").glob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        first = text.splitlines()[0].lstrip("# ")
        lines.append(f"- [{path.stem}]({path.stem}.md): {first}")
        yield f"configs/{path.stem}.md", f"# {path.name}\n\n```yaml\n{text}```\n"
    yield "configs/index.md", "# Configurations\n\n" + "\n".join(lines) + "\n"


def reference() -> Iterator[tuple[str, str]]:
    """A page of each package's public names, made of their docstrings, and the list of pages."""
    lines = ["# Reference", "", "Public names, from their docstrings. Shapes are in parentheses: `(B, C)`.", ""]
    names = {package: f"hetfed_lightning.{package}".rstrip(".") for package in PACKAGES}
    found = {package: public_paths(name) for package, name in names.items()}
    of_packages = {path for package, paths in found.items() if package for path in paths}
    for package, title in PACKAGES.items():
        page, name = (package or "hetfed_lightning").replace(".", "_"), names[package]
        paths = [path for path in found[package] if package or path not in of_packages]
        lines.append(f"- [{title}]({page}.md) (`{name}`, {len(paths)} names)")
        yield f"api/{page}.md", "\n\n".join([f"# {title}", f"From `{name}`.", *(f"::: {one}" for one in paths)]) + "\n"
    yield "api/index.md", "\n".join(lines) + "\n"


def public_paths(package: str) -> list[str]:
    """Dotted paths at which the public names of a package are defined; of constants, that of the package.

    Args:
        package: Dotted path of the package.
    """
    if package.endswith(".published"):
        from hetfed_lightning.cli.known_methods import known_methods

        methods = {one.class_path for one in known_methods().values()}
        return sorted(one for one in methods if one.startswith(package))
    module = import_module(package)
    found: dict[str, None] = {}
    for name in module.__all__:
        thing = getattr(module, name)
        home = getattr(thing, "__module__", None)
        if home is None or not home.startswith("hetfed_lightning") or not hasattr(thing, "__qualname__"):
            continue  # Constants and names of types are told where they are used.
        found[f"{home}.{thing.__qualname__}"] = None
    return list(found)
