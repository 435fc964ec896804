"""``hetfed deploy local``: a whole deployment on this machine, from the keys to the last round."""

from __future__ import annotations

import logging
import tomllib
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser

from hetfed_lightning.cli.errors import ConfigError
from hetfed_lightning.cli.help_text import help_text
from hetfed_lightning.flower.coordinator.shared_layouts import SHARED
from hetfed_lightning.flower.deploy.follow_run import run_app
from hetfed_lightning.flower.deploy.key_files import check_private
from hetfed_lightning.flower.deploy.keys import make_keys
from hetfed_lightning.flower.deploy.reply_limit import reply_bytes
from hetfed_lightning.flower.engine.executor import APP
from hetfed_lightning.flower.engine.limits import Limits
from hetfed_lightning.flower.engine.local_engine import LocalEngine
from hetfed_lightning.flower.files.folder import SERVER, SITE, KeyFolder, site_names

log = logging.getLogger(__name__)

ALLOW_IMPORT = "allow-import"


def local_command(arguments: Sequence[str]) -> int:
    """``hetfed deploy local DEPLOYMENT``: coordinator and sites on this machine, with certificates and keys.

    Returns:
        0 if the run went through, 1 if not.

    Raises:
        ConfigError: If the folder is no deployment, or there is no run to resume.
    """
    parser = ArgumentParser(prog="hetfed deploy local", description=help_text(local_command), exit_on_error=False)
    parser.add_argument("deployment", help="Folder that `hetfed deploy init` has written.")
    parser.add_argument("--output", type=str | None, default=None, help="Folder of runs; by default DEPLOYMENT/runs.")
    parser.add_argument("--resume", action="store_true", help="Go on from the last completed round of the last run.")
    parser.add_argument(
        "--insecure", action="store_true", help="Plain text, and no keys: whoever reaches the port takes part."
    )
    options = parser.parse_args(list(arguments))
    deployment = Path(options.deployment).resolve()
    sites = site_names(deployment)
    run = run_folder(Path(options.output or deployment / "runs").resolve(), resume=options.resume)
    keys = None
    if options.insecure:
        log.warning("--insecure: everything travels in plain text, and any node is let in.")
    else:
        if make_keys(deployment):
            log.info("Keys for trying out are in %s.", deployment / "keys")
        keys = KeyFolder(deployment / "keys")
        for path in (keys.server_key, *map(keys.private, sites)):
            check_private(path)
    (run / "sites").mkdir(mode=0o700, exist_ok=True)  # Heads and optimizers are private to each site.
    told = {name: site_config(deployment, run, name) for name in sites}
    config: dict[str, str | bool] = {
        "config": str(deployment / "server" / SERVER),
        "run-dir": str(run),
        "resume": options.resume,
    }
    log.info("Run: %s (logs of all processes: %s)", run, run / "engine")
    limits = Limits(reply=reply_bytes(deployment / "server" / SHARED))
    engine = LocalEngine(run / "engine", told, keys=keys, app=APP, limits=limits)
    code = run_app(engine, deployment / "app", config)
    if code == 0:
        log.info("States of the sites, with their models: %s", run / "sites")
    return code


def site_config(deployment: Path, run: Path, name: str) -> dict[str, str]:
    """Node configuration of a site; its file may name the same packages as the server's.

    Args:
        deployment: Folder of the deployment.
        run: Folder of the run, which holds the site's states.
        name: Name of the site.
    """
    app = tomllib.loads((deployment / "app" / "pyproject.toml").read_text(encoding="utf-8"))
    allowed = app["tool"]["flwr"]["app"].get("config", {}).get(ALLOW_IMPORT)
    found = {
        "participant": name,
        "config": str(deployment / "sites" / name / SITE),
        "state-dir": str(run / "sites" / name),
    }
    return found | ({ALLOW_IMPORT: allowed} if allowed else {})


def run_folder(folder: Path, *, resume: bool) -> Path:
    """Folder of a new run, or of the last one if it is to be resumed.

    Args:
        folder: Folder of all runs.
        resume: True for the last run.

    Raises:
        ConfigError: If there is none to resume.
    """
    numbers = [int(path.name.removeprefix("version_")) for path in folder.glob("version_*") if path.name[8:].isdigit()]
    if resume:
        if not numbers:
            raise ConfigError(f"--resume: there is no run in {folder}.")
        return folder / f"version_{max(numbers)}"
    run = folder / f"version_{max(numbers, default=-1) + 1}"
    run.mkdir(parents=True)
    return run
