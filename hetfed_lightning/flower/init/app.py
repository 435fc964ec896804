"""The engine's app: nothing but a name and the places of the two programs in the package, so that no code travels."""

from __future__ import annotations

import json
import re
from pathlib import Path

from hetfed_lightning.flower.init.source import Source

PUBLISHER = "hetfed"
LONGEST = 32
"""Largest number of characters of an app's name that the engine takes."""

TEMPLATE = """# The engine sends this file to the sites; the programs are those of the hetfed-lightning that is
# installed there. There are no dependencies: nothing is installed at run time.
[project]
name = {name}
version = "1.0.0"
description = {description}
license = "Apache-2.0"

[tool.flwr.app]
publisher = {publisher}

[tool.flwr.app.components]
serverapp = "hetfed_lightning.flower.server_app:app"
clientapp = "hetfed_lightning.flower.client_app:app"

# Read on the coordinator's machine; `flwr run --run-config 'resume=true'` overrides one of them for a run.
[tool.flwr.app.config]
config = {config}
run-dir = {run_dir}
resume = false
# For the engine's simulation, whose nodes have numbers alone: the folder of all sites, and one for their states (beside
# each site.yaml if empty).
sites = {sites}
state-dir = ""
{more}"""


def app_text(source: Source, folder: Path) -> str:
    """Content of the app's ``pyproject.toml``.

    Args:
        source: The federation.
        folder: Folder of the deployment, on the coordinator's machine.
    """
    more = f"allow-import = {_quoted(','.join(source.allow_import))}\n" if source.allow_import else ""
    return TEMPLATE.format(
        name=_quoted(app_name(source.path.stem)),
        description=_quoted(f"The federation of {source.path.name}, between institutions"),
        publisher=_quoted(PUBLISHER),
        config=_quoted(str(folder / "server" / "server.yaml")),
        run_dir=_quoted(str(folder / "run")),
        sites=_quoted(str(folder / "sites")),
        more=more,
    )


def app_name(stem: str) -> str:
    """Name that the engine takes: letters, digits and hyphens, a letter first."""
    return f"hetfed-{re.sub(r'[^A-Za-z0-9]+', '-', stem).strip('-') or 'federation'}"[:LONGEST].rstrip("-")


def _quoted(text: str) -> str:
    # TOML reads JSON's quoted text.
    return json.dumps(text, ensure_ascii=False)
