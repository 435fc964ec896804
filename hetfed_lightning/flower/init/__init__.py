"""``hetfed deploy init``: from a configuration to the files with which coordinator and sites train it."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser

from hetfed_lightning.cli.errors import ConfigError
from hetfed_lightning.cli.help_text import help_text
from hetfed_lightning.data.sources import public_bytes
from hetfed_lightning.flower.coordinator.server_config import read_server_config
from hetfed_lightning.flower.coordinator.shared_layouts import SHARED, layouts_text
from hetfed_lightning.flower.files.config_errors import naming_file
from hetfed_lightning.flower.files.initial_weights import START, start_bytes
from hetfed_lightning.flower.init.app import app_text
from hetfed_lightning.flower.init.data import PUBLIC, agreed_settings, is_dealt, site_data
from hetfed_lightning.flower.init.readme import readme_text
from hetfed_lightning.flower.init.refusals import check_source
from hetfed_lightning.flower.init.server import server_text
from hetfed_lightning.flower.init.sites import site_text
from hetfed_lightning.flower.init.source import Source, read_source
from hetfed_lightning.flower.site.site_config import read_site_config

__all__ = ["init_command", "write_deployment"]

log = logging.getLogger(__name__)


def init_command(arguments: Sequence[str]) -> None:
    """``hetfed deploy init configs/digits.yaml -o deployment/``: the files of coordinator and sites.

    Args:
        arguments: Command line after ``hetfed deploy init``.

    Raises:
        ConfigError: If the configuration cannot be used or deployed, or the folder is in use.
    """
    parser = ArgumentParser(prog="hetfed deploy init", description=help_text(init_command), exit_on_error=False)
    parser.add_argument("config", nargs="+", help="Configuration as of `hetfed fit`; several are merged deeply.")
    parser.add_argument("-o", "--output", required=True, help="Folder to write.")
    parser.add_argument("--force", action="store_true", help="Write over a deployment that is there; keys stay.")
    parser.add_argument("--allow_import", action="append", default=[], help="Package that the configuration may name.")
    options = parser.parse_args(list(arguments))
    source = read_source(options.config, options.allow_import)
    folder = Path(options.output)
    check_source(source)
    write_deployment(source, folder, force=options.force)
    if is_dealt(source):
        log.info("A trial: every site reads everyone's data. %s shows how a site names its own.", folder / "README.md")
    log.info("Written: %s, for %d sites. Next:", folder, len(source.names))
    log.info("  hetfed deploy local %s   (all of it on this machine)", folder)
    log.info("  %s   (between institutions)", folder / "README.md")


def write_deployment(source: Source, folder: Path, *, force: bool = False) -> None:
    """Write a deployment, all of it or nothing.

    Args:
        source: The federation, which has been checked.
        folder: Folder of the deployment; made if missing.
        force: True to replace the files of a deployment that is there.

    Raises:
        ConfigError: If the folder is in use, the data cannot be read where it has to be, or a written file cannot be
            read back.
    """
    _check_folder(source, folder, force=force)
    files = deployment_files(source, folder.absolute())
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".hetfed-") as temporary:
        for name, content in files.items():
            _write(Path(temporary) / name, content)
        _check_written(source, Path(temporary))
        for name in files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (Path(temporary) / name).replace(folder / name)


def deployment_files(source: Source, folder: Path) -> dict[str, bytes]:
    """Content of every file of a deployment, by its path in the folder.

    Args:
        source: The federation.
        folder: Folder of the deployment on the coordinator's machine.

    Raises:
        ConfigError: If the data cannot be read where it has to be.
    """
    with naming_file(source.path):
        agreed = agreed_settings(source)
        public = public_bytes(source.public_inputs()) if source.distils else None
        data = {name: site_data(source, name, agreed) for name in source.names}
    files: dict[str, bytes] = {
        "README.md": readme_text(source, folder).encode(),
        "app/pyproject.toml": app_text(source, folder).encode(),
        "server/server.yaml": server_text(source).encode(),
        f"server/{SHARED}": layouts_text(source.federation.members(), source.callbacks).encode(),
    }
    student = source.federation.student
    if student is not None:
        files[f"server/{START}"] = start_bytes(student)
    for name, participant in source.federation.members().items():
        files[f"sites/{name}/site.yaml"] = site_text(source, name, data[name]).encode()
        files[f"sites/{name}/{START}"] = start_bytes(participant)
        if public is not None:
            files[f"sites/{name}/{PUBLIC}"] = public
    if public is not None and student is not None:
        files[f"server/{PUBLIC}"] = public
    for folder_of in ("server", *(f"sites/{name}" for name in source.names)):
        files |= {f"{folder_of}/{path}": content for path, content in source.modules.items()}
    return files


def _check_folder(source: Source, folder: Path, *, force: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"-o: {folder} is a file; give a folder.")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not force:
        raise ConfigError(f"-o: {folder} is not empty; give another folder, or --force to write over what is there.")
    if not (folder / "server" / "server.yaml").is_file():
        raise ConfigError(f"-o: {folder} is not empty and holds no deployment; give another folder.")
    strangers = sorted(one.parent.name for one in folder.glob("sites/*/site.yaml"))
    strangers = [name for name in strangers if name not in source.names]
    if strangers:
        raise ConfigError(
            f"-o: {folder} has a site {strangers[0]!r}, which is no participant of {source.path}. Take its folder "
            "away, or give another folder."
        )


def _check_written(source: Source, folder: Path) -> None:
    """Read the written files, of one site for all: a file that cannot be read here cannot be read anywhere."""
    read_server_config(folder / "server" / "server.yaml", source.allow_import)
    name = source.names[0]
    read_site_config(folder / "sites" / name / "site.yaml", name, source.allow_import)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
