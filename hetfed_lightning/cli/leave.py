"""``hetfed leave``: a checkpoint without one participant, from which the others go on."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import yaml
from jsonargparse import ArgumentParser

from hetfed_lightning.checkpointing.atomic import write_atomically
from hetfed_lightning.checkpointing.reading import read_checkpoint
from hetfed_lightning.checkpointing.sealing import write_checkpoint
from hetfed_lightning.cli.configs import ConfigError, check_checkpoint, load_configs
from hetfed_lightning.cli.help_text import help_text
from hetfed_lightning.cli.run_files import CHECKPOINT, CONFIG, config_of_run, tell_how_to_go_on
from hetfed_lightning.federation.membership import without_member

log = logging.getLogger(__name__)


def leave_command(arguments: Sequence[str]) -> Path:
    """``hetfed leave --ckpt_path run.ckpt --participant hospital_b --output without_b/``.

    Writes a checkpoint without the participant's weights, optimizer and logs, and the configuration with which the
    others go on. Traces of the participant in the shared state stay, as does the account of private averages.
    """
    parser = ArgumentParser(prog="hetfed leave", description=help_text(leave_command), exit_on_error=False)
    parser.add_argument("--ckpt_path", required=True, help="Checkpoint of the federation.")
    parser.add_argument("--participant", required=True, help="Who leaves.")
    parser.add_argument("--output", required=True, help="Folder to write.")
    parser.add_argument(
        "-c", "--config", action="append", default=[], help="Configuration of the run, if not beside it."
    )
    options = parser.parse_args(list(arguments))
    check_checkpoint(options.ckpt_path)
    left = without_member(read_checkpoint(options.ckpt_path), options.participant)
    paths = options.config or [str(config_of_run(options.ckpt_path))]
    config = load_configs(paths)
    participants = config["model"]["participants"]
    if options.participant not in participants:
        raise ConfigError(
            f"--participant: {options.participant!r} is a member of a group in {', '.join(paths)}, and a member cannot "
            "be taken out of its group; list the participants one by one."
        )
    del participants[options.participant]
    if "partition" in (config.get("data") or {}).get("init_args", {}):
        log.warning(
            "The data is dealt out of one pool: with one participant less all have other examples than those that they "
            "trained on. Data with names of its own stays as it is."
        )
    folder = Path(options.output)
    write_checkpoint(left, folder / CHECKPOINT)
    write_atomically(folder / CONFIG, yaml.safe_dump(config, sort_keys=False))
    tell_how_to_go_on(folder)
    return folder
