"""The server's configuration: its sites, times and rules, without their models and data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
import torch
from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import PositiveInt

from hetfed_lightning.cli.allowlist import restrict_imports
from hetfed_lightning.cli.configs import load_configs
from hetfed_lightning.cli.errors import ConfigError
from hetfed_lightning.cli.forbidden_values import read_no_other_file
from hetfed_lightning.data import FederatedDataModule
from hetfed_lightning.data.name_checks import did_you_mean, name_problem
from hetfed_lightning.flower.coordinator.shared_layouts import SHARED, read_layouts
from hetfed_lightning.flower.files.config_errors import naming_file
from hetfed_lightning.flower.files.initial_weights import START, load_start
from hetfed_lightning.flower.files.paths import absolute, with_paths
from hetfed_lightning.flower.protocol.arrays import Layout
from hetfed_lightning.flower.protocol.deployable import as_list, check_deployable
from hetfed_lightning.participants.participant import Participant

DEADLINE = 3600.0
WAIT = 600.0
KEYS = ("seed_everything", "threads", "sites", "deadline", "wait", "trainer", "model", "data")
MODEL_KEYS = ("seed", "participation", "min_participants", "joins_at", "leaves_at", "student")


@dataclass(frozen=True)
class ServerConfig:
    """Settings of the server.

    Attributes:
        path: File that it was read from.
        sites: Names of the participants, in the order of the federation.
        rounds: Number of rounds.
        seed: The federation's seed, which names random streams.
        participation: Fraction in (0, 1] of the sites sampled for each round.
        min_participants: Least number of sites whose replies a round goes on with; with fewer the run ends.
        joins_at: First round of participants that join later than at 0, by name.
        leaves_at: First round without a participant that leaves, by name.
        callbacks: The same callbacks as at the sites, in the same order.
        student: The unified model, with its initial weights; None without one.
        data: The public set alone, for the student, not loaded yet; None without one.
        trainer: Arguments of ``lightning.Trainer`` for the student, callbacks apart.
        layouts: Shape and dtype of each participant's shared tensors, by name and key, from the file beside this one;
            participants without an entry may share anything.
        deadline: Seconds that sites have for an exchange.
        wait: Seconds in which sites have to be there at the start.
    """

    path: Path
    sites: tuple[str, ...]
    rounds: int
    seed: int = 0
    participation: float = 1.0
    min_participants: int = 1
    joins_at: Mapping[str, int] = field(default_factory=dict)
    leaves_at: Mapping[str, int] = field(default_factory=dict)
    callbacks: list[L.Callback] = field(default_factory=list)
    student: Participant | None = None
    data: FederatedDataModule | None = None
    trainer: dict[str, Any] = field(default_factory=dict)
    deadline: float = DEADLINE
    wait: float = WAIT
    layouts: Mapping[str, Mapping[str, Layout]] = field(default_factory=dict)


def read_server_config(path: str | Path, allow_import: Sequence[str] = ()) -> ServerConfig:
    """Settings in a ``server.yaml``, with the student's initial weights beside it.

    Seeds the process and sets its threads, as ``hetfed fit`` does.

    Args:
        path: The file.
        allow_import: Packages that it may name beside those that every configuration may.

    Raises:
        ConfigError: If it cannot be used; names the file and the key.
    """
    file = Path(path).absolute()
    with naming_file(file, "allow-import="):
        restrict_imports(allow_import, [file.parent])
        config = load_configs([str(file)])
        if "data" in config:
            config["data"] = with_paths(config["data"], lambda one: absolute(one, file.parent))
        _check_keys(config)
        parser = _parser()
        parsed = parser.parse_object(config)
        _check(parsed)
        if parsed.threads is not None:
            torch.set_num_threads(parsed.threads)
        L.seed_everything(parsed.seed_everything, workers=True, verbose=False)
        made = parser.instantiate(parsed)
        settings: dict[str, Any] = made.trainer.as_dict() if isinstance(made.trainer, Namespace) else dict(made.trainer)
        callbacks = as_list(settings.pop("callbacks", None))
        check_deployable(callbacks)
        model = made.model
        if model.student is not None and (file.parent / START).exists():
            load_start(model.student, file.parent / START)
        return ServerConfig(
            file, tuple(made.sites), settings["max_epochs"], model.seed, model.participation, model.min_participants,
            dict(model.joins_at), dict(model.leaves_at), callbacks, model.student, made.data, settings,
            made.deadline, made.wait, read_layouts(file.parent / SHARED),
        )  # fmt: skip


def _parser() -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--seed_everything", type=int, default=0)
    parser.add_argument("--threads", type=PositiveInt | None, default=None)
    parser.add_argument("--sites", type=list[str], required=True)
    parser.add_argument("--deadline", type=float, default=DEADLINE)
    parser.add_argument("--wait", type=float, default=WAIT)
    parser.add_class_arguments(L.Trainer, "trainer", instantiate=False)
    parser.add_argument("--model.seed", type=int, default=0)
    parser.add_argument("--model.participation", type=float, default=1.0)
    parser.add_argument("--model.min_participants", type=PositiveInt, default=1)
    parser.add_argument("--model.joins_at", type=dict[str, int], default={})
    parser.add_argument("--model.leaves_at", type=dict[str, int], default={})
    parser.add_argument("--model.student", type=Participant | None, default=None)
    parser.add_argument("--data", type=FederatedDataModule | None, default=None)
    read_no_other_file(parser)
    return parser


def _check_keys(config: Mapping[str, Any]) -> None:
    """Refuse unknown keys, with the one that was probably meant.

    Raises:
        ConfigError: Naming the key.
    """
    model = config.get("model") or {}
    if not isinstance(model, dict):
        raise ConfigError(f"model: expected {', '.join(MODEL_KEYS)}, got {type(model).__name__}.")
    for known, found, above in ((KEYS, config, ""), (MODEL_KEYS, model, "model.")):
        for key in found:
            if key not in known:
                raise ConfigError(f"{above}{key}: the server has no such setting{did_you_mean(str(key), known)}.")


def _check(config: Namespace) -> None:
    """Refuse values out of their range.

    Raises:
        ConfigError: Naming the key.
    """
    sites, model = config.sites, config.model
    if not sites or len(set(sites)) < len(sites):
        raise ConfigError(f"sites: expected the participants' names, each once, got {sites!r}.")
    if problem := next(filter(None, map(name_problem, sites)), None):
        raise ConfigError(f"sites: {problem}.")
    rounds = config.trainer.max_epochs
    if rounds is None or rounds < 1:
        raise ConfigError(f"trainer.max_epochs: expected the number of rounds, at least 1, got {rounds!r}.")
    if not 0 < model.participation <= 1:
        raise ConfigError(f"model.participation: expected a fraction in (0, 1], got {model.participation}.")
    if model.min_participants > len(sites):
        raise ConfigError(
            f"model.min_participants: expected at most {len(sites)}, which is all of {', '.join(sites)}; got "
            f"{model.min_participants}."
        )
    for key in ("joins_at", "leaves_at"):
        for name in model[key]:
            if name not in sites:
                raise ConfigError(f"model.{key}: no site {name!r}{did_you_mean(name, sites)}.")
    for key in ("deadline", "wait"):
        if not 0 < config[key] < math.inf:
            raise ConfigError(f"{key}: expected seconds, more than 0, got {config[key]}.")
    if model.student is not None and config.data is None:
        raise ConfigError("data: a student learns on a public set; give hetfed_lightning.data.PublicDataModule.")
