"""Deployments for tests: folders as `hetfed deploy init` writes them, with nothing in them to learn from."""

from pathlib import Path


def empty_deployment(folder: Path, *sites: str) -> Path:
    """A deployment of sites whose configurations are empty."""
    for site in sites:
        (folder / "sites" / site).mkdir(parents=True)
        (folder / "sites" / site / "site.yaml").write_text("{}\n", encoding="utf-8")
    (folder / "server").mkdir(parents=True)
    (folder / "server" / "server.yaml").write_text("{}\n", encoding="utf-8")
    return folder
