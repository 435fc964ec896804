"""``hetfed export``: one participant out of a federation's checkpoint, as a folder that stands alone."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError, ArgumentParser
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save

from hetfed_lightning.checkpointing.atomic import write_atomically
from hetfed_lightning.checkpointing.reading import read_checkpoint
from hetfed_lightning.cli.allowlist import restrict_imports, restricted_imports
from hetfed_lightning.cli.configs import ConfigError, check_checkpoint, load_configs, read_config
from hetfed_lightning.cli.error_messages import check_participants, explained
from hetfed_lightning.cli.error_owner import FAULTS, made
from hetfed_lightning.cli.forbidden_values import check_values
from hetfed_lightning.cli.groups import settings_by_member
from hetfed_lightning.cli.help_text import help_text
from hetfed_lightning.cli.schemas import saved_class_shares, saved_learned, saved_schema
from hetfed_lightning.data.name_checks import did_you_mean
from hetfed_lightning.data.schema import DataSchema
from hetfed_lightning.participants.participant import Participant, participant_state

log = logging.getLogger(__name__)

WEIGHTS = "weights.safetensors"
CONFIG = "participant.yaml"
SCHEMA = "schema.yaml"
"""File of a participant trained on a table: columns and classes in order, and values that fill gaps."""
NAME = "participant"
"""Key of the participant's name in the metadata of the weights."""
LEARNED = "task.yaml"
"""File of values that a participant's task learned of its training data, such as balancing class weights."""
SHARES = "class_shares.yaml"
"""File of the class shares of a participant's training data, which ``own_prior`` weighs."""


def export_command(arguments: Sequence[str]) -> None:
    """``hetfed export -c run/config.yaml --ckpt_path run.ckpt --participant hospital_a --output hospital_a/``."""
    parser = ArgumentParser(prog="hetfed export", description=help_text(export_command), exit_on_error=False)
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
    own = f", allow_import={options.allow_import}" if options.allow_import else ""
    log.info("In Python: hetfed_lightning.load_participant(%r%s)", str(folder), own)


def export_participant(config: dict[str, Any], ckpt_path: str, name: str, folder: Path) -> Path:
    """Folder of one participant: weights as safetensors; configuration, schema, class weights and shares as YAML.

    Nothing of any other participant is written.

    Args:
        config: Configuration of the run.
        ckpt_path: Checkpoint of the federation.
        name: The participant.
        folder: Folder to write.

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
    schema = saved_schema(checkpoint, name, ckpt_path)
    learned, shares = saved_learned(checkpoint, name), saved_class_shares(checkpoint, name)
    state = participant_state(checkpoint["state_dict"], name, ckpt_path)
    settings = json.loads(json.dumps(everyone[name]))
    try:
        participant = made(settings)
        participant.load_state_dict(state)  # The written file must load.
    except FAULTS as error:
        raise ConfigError(
            f"participant {name!r} of the configuration is not the one in {ckpt_path}: {error}. Use the config.yaml of "
            "the run that saved the checkpoint."
        ) from error
    try:
        if learned is not None:
            participant.take_up_learned(learned)
        if shares and participant.own_prior:
            participant.take_up_class_shares(shares)
    except ValueError as error:
        raise ConfigError(f"{ckpt_path}: of participant {name!r}: {error}. Use another checkpoint.") from error
    if participant.task.learned() is None:
        log.warning("%s has no class weights of participant %r: its loss will be unweighted.", ckpt_path, name)
    if participant.own_prior and not shares:
        log.warning("%s has no class shares of participant %r: own_prior will change nothing.", ckpt_path, name)
    weights = {key: tensor.contiguous() for key, tensor in state.items()}
    write_atomically(folder / WEIGHTS, save(weights, metadata={NAME: name}))
    write_atomically(folder / CONFIG, yaml.safe_dump(settings, sort_keys=False))
    if schema is not None:
        write_atomically(folder / SCHEMA, yaml.safe_dump(schema.to_dict(), sort_keys=False, allow_unicode=True))
    if learned is not None:
        write_atomically(folder / LEARNED, yaml.safe_dump(dict(learned), sort_keys=False))
    if participant.class_shares is not None:
        write_atomically(folder / SHARES, yaml.safe_dump(dict(shares), sort_keys=False))
    return folder


def load_participant(folder: str | Path, allow_import: Sequence[str] = ()) -> Participant:
    """Participant of an exported folder, with its weights, outside of any federation.

    It predicts by ``predict`` on tensors and by ``predict_table`` on pandas frames.

    Args:
        folder: Folder that ``hetfed export`` wrote.
        allow_import: Packages that its configuration may name, beside those that every configuration may.

    Raises:
        ConfigError: If a file is missing or damaged, or names what it may not.
    """
    settings, weights = read_config(str(Path(folder) / CONFIG)), Path(folder) / WEIGHTS
    check_values(settings, str(Path(folder) / CONFIG))
    try:
        with restricted_imports(allow_import):
            participant: Participant = made(settings)
    except (ArgumentError, *FAULTS) as error:
        raise ConfigError(f"{Path(folder) / CONFIG}: {explained(str(error), 'allow_import=')}") from error
    try:
        participant.load_state_dict(load_file(weights))
        with safe_open(weights, framework="pt") as file:
            participant.trained_as = (file.metadata() or {}).get(NAME)  # Earlier versions wrote none.
    except (SafetensorError, RuntimeError) as error:
        raise ConfigError(f"{weights}: it is damaged, or of another participant ({error}). Export again.") from error
    if (path := Path(folder) / SCHEMA).is_file():
        try:
            participant.schema = DataSchema.from_dict(read_config(str(path)))
        except ValueError as error:
            raise ConfigError(f"{path}: {error}. Export again.") from error
    if (path := Path(folder) / LEARNED).is_file():
        try:
            participant.take_up_learned(read_config(str(path)))
        except ValueError as error:
            raise ConfigError(f"{path}: {error}. Export again.") from error
    if (path := Path(folder) / SHARES).is_file():
        try:
            participant.take_up_class_shares(read_config(str(path)))
        except ValueError as error:
            raise ConfigError(f"{path}: {error}. Export again.") from error
    return participant
