"""Record of a run, written to ``record.json`` in its log folder during training, as the source of reports and plots."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import lightning as L

from hetfed_lightning.callbacks.monitor import FederationMonitor
from hetfed_lightning.callbacks.participant_summary import label_counts, of_type, roles
from hetfed_lightning.callbacks.run_folder import run_folder
from hetfed_lightning.callbacks.run_pages import agreement_of
from hetfed_lightning.callbacks.tensorboard_pages import MAX_PARTICIPANTS
from hetfed_lightning.checkpointing.plugin import PASSING
from hetfed_lightning.federated_callback import FederatedCallback, Phase
from hetfed_lightning.logs.run_record import Record
from hetfed_lightning.version import __version__

if TYPE_CHECKING:
    from hetfed_lightning.federation_view import FederationView
    from hetfed_lightning.participants.participant import Stage

log = logging.getLogger(__name__)

SHARE = 0.02
"""Largest fraction of a run's time spent on writing; a long record of many participants is not written every round."""


class RunRecord(FederatedCallback):
    """Records metrics and events of a run, of the first 200 participants, and writes them atomically as rounds end.

    The command line adds it. It writes into the folder of the first logger. Without a logger, and in ``fast_dev_run``,
    it writes only into ``folder``. A resumed run writes a record of its own, from its first round on. With several
    processes the first one writes.

    Args:
        folder: Folder of the record; None for the log folder.
        config: Configuration of the run as YAML; the command line sets it.
        arm: Kind of training in a comparison.
        name: Name of the run in headings; the end of the folder's path by default.
    """

    phase = Phase.MONITORING

    def __init__(
        self, folder: str | None = None, config: str | None = None, arm: str = "federation", name: str | None = None
    ) -> None:
        self.folder = folder
        self.config = config
        self.arm = arm
        self.name = name
        self.record: Record | None = None
        self._to: Path | None = None
        self._round: dict[str, float] = {}
        self._names: set[str] = set()
        self._next_write = 0.0

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Find the folder, a call that all processes have to make, and begin a record unless one continues."""
        federation: FederationView = pl_module  # type: ignore[assignment]
        asked = run_folder(trainer) if trainer.loggers else None
        where = self.folder or (None if trainer.fast_dev_run else asked)  # type: ignore[attr-defined]
        self._to = Path(where) if where and trainer.is_global_zero else None
        if self._to is None:
            self.record = None
            return
        if stage == "fit" or self.record is None:
            rounds = (trainer.max_epochs or 0) if stage == "fit" else 0
            named = self.name or "/".join(self._to.parts[-2:])
            self.record = Record(named, __version__, self.config or "", self.arm, federation.seed, rounds)
            self.record.total = len(federation.members())
            self._round, self._next_write = {}, 0.0

    def prepare(self, trainer: L.Trainer, federation: FederationView) -> None:
        """Record the participants and their roles."""
        if self.record is not None:
            self._describe(trainer, federation)
            counts = label_counts(federation, MAX_PARTICIPANTS)
            self.record.label_counts = {name: values.tolist() for name, values in counts.items()}
            self._write()

    def on_round_end(self, trainer: L.Trainer, federation: FederationView, round_index: int) -> None:
        """Record the participants that were quarantined in the round."""
        del trainer
        if self.record is not None:
            self.record.leave_out(round_index, federation.guard.quarantined)

    def on_metrics(
        self, trainer: L.Trainer, federation: FederationView, stage: Stage, values: Mapping[str, float]
    ) -> None:
        """Record the participants' metrics."""
        if self.record is None or trainer.sanity_checking:
            return
        if not self.record.participants:  # An evaluation alone.
            self._describe(trainer, federation)
        known = {key: float(value) for key, value in values.items() if key.rpartition("/")[2] in self._names}
        told = self.record.undefined
        kept = {key: why for key, why in told.items() if not key.startswith(f"{stage}_")}
        now = federation.logbook.undefined.reasons.items()
        self.record.undefined = kept | {key: why for key, why in now if key.rpartition("/")[2] in self._names}
        if stage == "test":
            self.record.test = known
        else:
            self._round |= known

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Close the record of the round, which has been validated by now."""
        if self.record is None:
            return
        federation: FederationView = pl_module  # type: ignore[assignment]
        shared = {key: float(value) for key, value in trainer.callback_metrics.items() if self._is_kept(key)}
        self.record.close_round(federation.current_round - 1, self._round | shared)
        self._round = {}
        if perf_counter() >= self._next_write:
            self._write()

    def _is_kept(self, key: str) -> bool:
        kind, _, name = key.partition("/")
        return kind == "federation" or (kind == "epsilon" and name in self._names)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Record predictions of the trained participants."""
        if self.record is None:
            return
        federation: FederationView = pl_module  # type: ignore[assignment]
        for monitor in of_type(trainer, FederationMonitor)[:1]:
            found = monitor.examined(trainer, federation)
            self.record.confusions = {name: matrix.tolist() for name, matrix in found.confusions.items()}
            self.record.residuals = {name: [list(part) for part in pair] for name, pair in found.residuals.items()}
            self.record.where = found.where
        self.record.agreement = agreement_of(of_type(trainer, L.Callback))
        self.record.finished = True
        self._write()

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the test results."""
        del trainer, pl_module
        self._write()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Write the record up to the error."""
        del trainer, pl_module, exception
        if self.record is not None and self.record.participants:
            self._write()

    def _describe(self, trainer: L.Trainer, federation: FederationView) -> None:
        record = self.record
        if record is not None:
            record.participants = {one.name: one.row() for one in roles(trainer, federation, MAX_PARTICIPANTS)}
            self._names = set(record.participants)

    def _write(self) -> None:
        if self.record is not None and self._to is not None:
            began = perf_counter()
            try:
                self.record.write(self._to)
            except OSError as error:
                if error.errno not in PASSING:
                    raise
                log.warning("The record in %s could not be written: %s. Training goes on.", self._to, error.strerror)
            ended = perf_counter()
            self._next_write = ended + (ended - began) / SHARE
