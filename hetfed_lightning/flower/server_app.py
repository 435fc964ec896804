"""The engine's server: it reads the run's configuration and starts the coordinator."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from hetfed_lightning.flower.engine.logging_setup import log_to_output

log = logging.getLogger(__name__)

app = ServerApp()


class RunConfigError(ValueError):
    """A run's configuration that cannot be used; the message names the key and what to set."""


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Lead a federation, as the run's configuration says.

    Keys: ``config``, the path of ``server.yaml``; ``run-dir``, the folder of the run; ``resume``, true to go on where
    the run in that folder stopped; ``allow-import``, packages that the file may name, separated by commas.

    Args:
        grid: The engine's grid, which carries messages.
        context: The engine's context, with the run's configuration.

    Raises:
        RunConfigError: If a key is missing or wrong; names it.
    """
    log_to_output()
    allowed = str(context.run_config.get("allow-import", ""))
    lead(grid, *run_settings(context), allow_import=[one.strip() for one in allowed.split(",") if one.strip()])


def run_settings(context: Context) -> tuple[Path, Path, bool]:
    """Path of the configuration, folder, and True to resume, from a run's configuration.

    Raises:
        RunConfigError: If a key is missing or wrong; names it.
    """
    found = context.run_config
    paths = []
    for key in ("config", "run-dir"):
        if not found.get(key):
            raise RunConfigError(f"{key}: expected a path; pass it with --run-config '{key}=\"/...\"'.")
        paths.append(Path(str(found[key])))
    resume = found.get("resume", False)
    if not isinstance(resume, bool):
        raise RunConfigError(f"resume: expected true or false, got {resume!r}.")
    return paths[0], paths[1], resume


def lead(grid: Grid, config_path: Path, folder: Path, resume: bool, *, allow_import: Sequence[str] = ()) -> None:
    """Lead a federation through its rounds.

    Args:
        grid: The engine's grid, which carries messages.
        config_path: Path of ``server.yaml``.
        folder: Folder of the run.
        resume: True to go on where it stopped.
        allow_import: Packages that the configuration may name.

    Raises:
        RunConfigError: If there is nothing to go on from, or a run that would be overwritten.
    """
    from hetfed_lightning.flower.coordinator.coordinator import STATE, Coordinator
    from hetfed_lightning.flower.coordinator.journal import Journal
    from hetfed_lightning.flower.coordinator.messenger import Messenger
    from hetfed_lightning.flower.coordinator.server_config import read_server_config

    config = read_server_config(config_path, allow_import)
    there = (folder / STATE).is_file()
    if resume and not there:
        raise RunConfigError(f"resume: {folder} has no {STATE}; the run did not end a round. Start it without resume.")
    if there and not resume:
        raise RunConfigError(
            f"run-dir: {folder} holds a run; set resume=true to go on with it, or name another folder."
        )
    folder.mkdir(parents=True, exist_ok=True)
    text = config_path.read_text(encoding="utf-8")
    journal = Journal(folder, config=text, name=folder.name, seed=config.seed, rounds=config.rounds)
    Coordinator(config, Messenger(grid), journal, folder, resume=resume).lead()
    if table := journal.table():
        log.info("\nValidation (own: each participant's own data; global: everyone's)\n\n%s\n", table)
    else:
        log.info(
            "Nobody was measured: sites have no validation sets. `hetfed test` at a site measures on its test set."
        )
    log.info("Logs: tensorboard --logdir %s\nReport: hetfed report %s", folder, folder)
