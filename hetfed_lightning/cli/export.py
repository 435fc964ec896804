"""``hetfed export``: one participant out of a federation's checkpoint, as a folder that stands alone."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser
from safetensors.torch import load_file, save

from hetfed_lightning.checkpointing.atomic import write_atomically
from hetfed_lightning.checkpointing.reading import read_checkpoint
from hetfed_lightning.cli.allowlist import restrict_imports
from hetfed_lightning.cli.configs import ConfigError, check_checkpoint, load_configs
from hetfed_lightning.cli.groups import settings_by_member
from hetfed_lightning.cli.hints import check_participants
from hetfed_lightning.data.names import did_you_mean
from hetfed_lightning.participant import Participant, participant_state

log = logging.getLogger(__name__)

WEIGHTS = "weights.safetensors"
CONFIG = "participant.yaml"


def export_command(arguments: Sequence[str]) -> None:
    """``hetfed export -c run/config.yaml --ckpt_path run.ckpt --participant hospital_a --output hospital_a/``."""
    parser = ArgumentParser(prog="hetfed export", description=export_command.__doc__, exit_on_error=False)
    parser.add_argument(
        "-c", "--config", action="append", required=True, help="Configuration of the run; may be repeated."
    )
    parser.add_argument("--ckpt_path", required=True, help="Checkpoint of the federation.")
    parser.add_argument("--participant", required=True, help="Its name; 'student' for the unified model.")
    parser.add_argument("--output", required=True, help="Folder to write.")
    parser.add_argument("--allow_import", action="append", default=[], help="Package that the configuration may name.")
    options = parser.parse_args(list(arguments))
    restrict_imports(options.allow_import)
    config = load_configs(options.config)
    check_participants(config)
    folder = export_participant(config, options.ckpt_path, options.participant, Path(options.output))
    log.info("Exported %s to %s: %s, %s", options.participant, folder, WEIGHTS, CONFIG)
    log.info("In Python: hetfed_lightning.cli.load_participant(%r)", str(folder))


def export_participant(config: dict[str, Any], ckpt_path: str, name: str, folder: Path) -> Path:
    """Write one participant's weights as safetensors and its configuration as YAML, nothing of anyone else.

    Raises:
        ConfigError: If the configuration or the checkpoint has no such participant.
    """
    model = config["model"]
    everyone = settings_by_member(model["participants"]) | (
        {"student": model["student"]} if model.get("student") else {}
    )
    if name not in everyone:
        raise ConfigError(f"--participant: no participant {name!r}{did_you_mean(name, everyone)}.")
    check_checkpoint(ckpt_path)
    checkpoint = read_checkpoint(ckpt_path)
    state = participant_state(checkpoint["state_dict"], name, ckpt_path)
    settings = json.loads(json.dumps(everyone[name]))
    try:
        _made(settings).load_state_dict(state)  # What is written must load.
    except RuntimeError as error:
        raise ConfigError(
            f"participant {name!r} of the configuration is not the one in {ckpt_path}: {error}. Use the config.yaml of "
            "the run that saved the checkpoint."
        ) from error
    write_atomically(folder / WEIGHTS, save({key: tensor.contiguous() for key, tensor in state.items()}))
    write_atomically(folder / CONFIG, yaml.safe_dump(settings, sort_keys=False))
    return folder


def load_participant(folder: str | Path) -> Participant:
    """The participant of an exported folder, with its weights, outside of any federation."""
    participant = _made(yaml.safe_load((Path(folder) / CONFIG).read_text(encoding="utf-8")))
    participant.load_state_dict(load_file(Path(folder) / WEIGHTS))
    return participant


def _made(settings: Any) -> Participant:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--participant", type=Participant)
    participant: Participant = parser.instantiate(parser.parse_object({"participant": settings})).participant
    return participant
