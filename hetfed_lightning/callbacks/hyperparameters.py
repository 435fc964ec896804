"""Hyper-parameters of a run for every logger: its configuration, or settings of its parts for a run made in Python."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import lightning as L
import yaml
from lightning.pytorch.loggers import TensorBoardLogger

from hetfed_lightning.callbacks.participant_summary import roles
from hetfed_lightning.callbacks.tensorboard_pages import MAX_PARTICIPANTS
from hetfed_lightning.federated_callback import federated_callbacks

if TYPE_CHECKING:
    from hetfed_lightning.federation_view import FederationView

log = logging.getLogger(__name__)

_OF_PARTICIPANT = ("architecture", "optimizer", "weights", "examples", "local_epochs", "joins_at", "task")


def log_hyperparameters(trainer: L.Trainer, federation: FederationView, config: str | None) -> None:
    """Log the run's hyper-parameters to every logger; a logger that cannot take them is named in a warning.

    Args:
        trainer: Trainer at the beginning of a fit.
        federation: The federation, its optimizers made.
        config: Configuration of the run as YAML; None for a run made in Python.
    """
    if not trainer.loggers:
        return
    found = yaml.safe_load(config) if config else described(trainer, federation)
    for logger in trainer.loggers:
        try:
            if isinstance(logger, TensorBoardLogger):  # Its metrics say that hp_metric is -1, which nobody measured.
                logger.log_hyperparams(found, metrics={})
            else:
                logger.log_hyperparams(found)
        except Exception:  # A resumed run may tell MLflow other values than before, which it refuses.
            log.warning("%s did not take the hyper-parameters; training goes on.", type(logger).__name__, exc_info=True)


def described(trainer: L.Trainer, federation: FederationView) -> dict[str, Any]:
    """Hyper-parameters of a federation made in Python, nested, of plain values.

    Args:
        trainer: Trainer, for length, precision and methods.
        federation: The federation, for its settings and those of its first 200 participants, with their
            ``save_hyperparameters``.
    """
    participants = {}
    for role in roles(trainer, federation, MAX_PARTICIPANTS):
        row = role.row()
        participants[role.name] = {key: row[key] for key in _OF_PARTICIPANT} | _plain(federation[role.name].hparams)
    return {
        "seed": federation.seed,
        "participation": federation.participation,
        "min_participants": federation.min_participants,
        "max_epochs": trainer.max_epochs,
        "precision": trainer.precision,
        "methods": {type(one).__name__: _settings(one) for one in federated_callbacks(trainer)},
        "participants": participants,
    }


def _settings(callback: L.Callback) -> dict[str, Any]:
    """Arguments of a callback's constructor that it keeps under their names: plain values, and names of functions."""
    arguments = inspect.signature(type(callback)).parameters
    kept = {key: value for key, value in vars(callback).items() if key in arguments and key != "config"}
    return _plain({key: getattr(value, "__name__", value) for key, value in kept.items()})


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if isinstance(value, (bool, int, float, str))}
