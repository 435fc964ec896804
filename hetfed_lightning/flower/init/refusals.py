"""Refusal of settings that work in one process but not between institutions, with what to change."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import (
    Checkpoint,
    DeviceStatsMonitor,
    EarlyStopping,
    LearningRateMonitor,
    ModelSummary,
    ProgressBar,
    ThroughputMonitor,
    Timer,
)

from hetfed_lightning.callbacks.monitor import FederationMonitor
from hetfed_lightning.callbacks.record import RunRecord
from hetfed_lightning.cli.errors import ConfigError
from hetfed_lightning.federated_callback import FederatedCallback
from hetfed_lightning.flower.init.source import Source
from hetfed_lightning.flower.protocol.deployable import KNOWN, beyond_protocol, is_deployable
from hetfed_lightning.methods.inheritance import Inheritance
from hetfed_lightning.methods.method import Method

log = logging.getLogger(__name__)

KEPT = (
    "max_epochs", "accelerator", "precision", "limit_train_batches", "limit_val_batches", "limit_test_batches",
    "check_val_every_n_epoch", "deterministic", "benchmark", "inference_mode", "detect_anomaly", "log_every_n_steps",
)  # fmt: skip
"""Settings of the Trainer that mean the same at a site."""

LEFT_OUT = (
    "logger", "callbacks", "strategy", "devices", "default_root_dir", "enable_checkpointing", "enable_progress_bar",
    "enable_model_summary", "enable_autolog_hparams", "model_registry", "num_sanity_val_steps", "profiler",
    "use_distributed_sampler", "limit_predict_batches",
)  # fmt: skip
"""Settings of one process's own display and files, and those that follow from its having a single participant."""

REASONS = {
    "num_nodes": "a participant trains on one machine of its site",
    "max_steps": "a federation between institutions counts rounds (trainer.max_epochs)",
    "min_steps": "a federation between institutions counts rounds (trainer.max_epochs)",
    "min_epochs": "the server ends after trainer.max_epochs rounds",
    "max_time": "the server ends after trainer.max_epochs rounds, and server.yaml has a deadline for each",
    "fast_dev_run": "it is for one process; set trainer.max_epochs: 1 and trainer.limit_train_batches",
    "val_check_interval": "a site validates at the end of a round",
    "gradient_clip_val": "every participant clips its own gradients: Participant(gradient_clip_val=...)",
    "accumulate_grad_batches": "every participant steps by itself: Participant(accumulate_grad_batches=...)",
}

SHOWING = (
    Checkpoint, ProgressBar, ModelSummary, LearningRateMonitor, DeviceStatsMonitor, ThroughputMonitor,
    FederationMonitor, RunRecord,
)  # fmt: skip
"""Callbacks that write or show events of one process. The server writes its own, and sites their own state."""


def check_source(source: Source) -> None:
    """Refuse settings that do not work between institutions, and log the callbacks left out.

    Raises:
        ConfigError: If there are any; names the file and the keys.
    """
    faults = [*_faults_of_trainer(source), *_faults_of_callbacks(source), *_faults_of_model(source)]
    if faults:
        raise ConfigError(f"{source.path}: {'; '.join(faults)}.")
    left = [type(one).__name__ for one in source.callbacks if isinstance(one, SHOWING)]
    if left:
        log.info("Left out: %s; the server writes TensorBoard events and checkpoints of its own.", ", ".join(left))
    if not any(map(is_deployable, source.callbacks)):
        log.warning(
            "Neither BackboneAveraging nor EnsembleDistillation nor a method: nobody will learn from the others."
        )


def _faults_of_trainer(source: Source) -> Iterator[str]:
    settings = source.parsed.trainer
    rounds = settings.max_epochs
    if rounds is None or rounds < 1:
        yield f"trainer.max_epochs: expected the number of rounds, at least 1, got {rounds}"
    if settings.strategy not in {"federated", "auto"}:
        yield "trainer.strategy: a site trains one participant in one process; leave it out"
    if not _is_one(settings.devices):
        yield f"trainer.devices: a site trains its participant on one device, got {settings.devices}; leave it out"
    defaults = {key: one.default for key, one in inspect.signature(L.Trainer).parameters.items()}
    for key, value in settings.items():
        if key in KEPT or key in LEFT_OUT or key not in defaults or value == defaults[key]:
            continue
        why = REASONS.get(key, "it is not known to mean the same where every participant has a process of its own")
        yield f"trainer.{key}: {why}; leave it out"


def _is_one(devices: Any) -> bool:
    return devices in ("auto", 1, "1") or (isinstance(devices, list) and len(devices) == 1)


def _faults_of_callbacks(source: Source) -> Iterator[str]:
    for place, callback in enumerate(source.callbacks):
        if is_deployable(callback) or isinstance(callback, SHOWING):
            continue
        yield f"trainer.callbacks.{place}: {type(callback).__name__} {_why_not(callback)}"


def _why_not(callback: Any) -> str:
    if isinstance(callback, Inheritance):
        return "joins a federation that was trained before, in its own process: use hetfed join, and deploy the result"
    if isinstance(callback, EarlyStopping | Timer):
        return "would end one process, while others go on; take it out and set trainer.max_epochs"
    if isinstance(callback, Method):
        return beyond_protocol(callback)
    if isinstance(callback, FederatedCallback):
        return f"sees all participants, and between institutions nobody does; take it out. What runs there: {KNOWN}"
    return f"sees a training of all participants, and a site has one; take it out. What runs there: {KNOWN}"


def _faults_of_model(source: Source) -> Iterator[str]:
    federation = source.federation
    if federation.min_participants > len(source.names):
        yield (
            f"model.min_participants: expected at most {len(source.names)}, as many as there are participants, got "
            f"{federation.min_participants}"
        )
    if federation.student is not None and not source.distils:
        yield "model.student: nobody teaches it; add EnsembleDistillation to trainer.callbacks, or take it out"
    for name in source.names:
        monitor = _monitor_of(source.members[name])
        if monitor is not None and "/" in monitor and not monitor.endswith(f"/{name}"):
            yield (
                f"model.participants.{name}.lr_scheduler: it follows {monitor!r}, which its site does not know; "
                "follow one of its own, such as val_loss"
            )


def _monitor_of(settings: Mapping[str, Any]) -> str | None:
    """Metric that a participant's scheduler follows, if it names one."""
    scheduler = (settings.get("init_args") or {}).get("lr_scheduler")
    arguments = scheduler.get("init_args") if isinstance(scheduler, Mapping) else None
    monitor = arguments.get("monitor") if isinstance(arguments, Mapping) else None
    return None if monitor is None else str(monitor)
