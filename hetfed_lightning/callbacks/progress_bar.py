"""Progress of a federation, as a bar or line by line: rounds, participants and the headline metric."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from time import perf_counter
from typing import TYPE_CHECKING, Any, TextIO, cast

from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar

from hetfed_lightning.callbacks.headline_metrics import headline_summaries, headlines
from hetfed_lightning.federated_callback import FederatedCallback

if TYPE_CHECKING:
    import lightning as L

    from hetfed_lightning.federation_view import FederationView
    from hetfed_lightning.participants.participant import Stage


REDRAWN = 0.05
"""Seconds between two drawings of a bar: faster is invisible, and drawing costs as much as a small fleet's step."""


DEFAULTS: Mapping[type, int] = {TQDMProgressBar: 1, RichProgressBar: 100}
"""Lightning's default progress bars, of which it takes rich's if that is installed, with their refresh rates."""


class FederatedProgressBar(TQDMProgressBar, FederatedCallback):
    """Lightning's progress bar with rounds and participants; a federation replaces Lightning's own by it.

    It shows ``Round 3/20 · 4 participants`` and the mean of the headline metric over participants, on ``own`` and on
    ``global`` validation data; beside these only values logged with ``prog_bar=True``. Without a terminal (a pipe, a
    log file, a notebook) it writes one line a round instead: to the standard error, so that a program's output stays
    clean, and in a notebook below the cell.

    Args:
        refresh_rate: Batches between two updates of the bar, which is drawn at most twenty times a second; 0 shows
            nothing.
        process_position: Lines left free above the bar.
        leave: True to leave the bar of every round on the screen.
    """

    def __init__(self, refresh_rate: int = 1, process_position: int = 0, leave: bool = False) -> None:
        super().__init__(refresh_rate, process_position, leave)
        self._headline: dict[str, str] = {}
        self._worst: dict[str, str] = {}
        self._began = 0.0
        self._drawn = 0.0
        self._line: str | None = None

    @property
    def is_enabled(self) -> bool:
        """True if a bar is drawn: it was not disabled, and Lightning would draw it on a terminal."""
        return super().is_enabled and sys.stdout.isatty()

    @property
    def _writes_lines(self) -> bool:
        return super().is_enabled and not sys.stdout.isatty()

    def _should_update(self, current: int, total: int) -> bool:
        if not super()._should_update(current, total):
            return False
        now = perf_counter()
        if current != total and now - self._drawn < REDRAWN:
            return False
        self._drawn = now
        return True

    # The metric that matters

    def on_metrics(
        self, trainer: L.Trainer, federation: FederationView, stage: Stage, values: Mapping[str, float]
    ) -> None:
        """Store the summary of a validation."""
        del trainer
        if stage != "val":
            return
        summaries = headline_summaries(headlines(federation.members()), stage, values)
        several = len({headline for headline, _ in summaries}) > 1
        self._headline, self._worst = {}, {}
        for (headline, everyone), summary in summaries.items():
            suffix = f"_{headline}" if several else ""
            self._headline[("global" if everyone else "own") + suffix] = f"{summary.mean:.3f}"
            if not everyone:
                self._worst["worst" + suffix] = f"{summary.worst:.3f} ({summary.worst_name})"

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """Mean of the headline metric, own and global, and values that participants log with ``prog_bar=True``."""
        asked = super().get_metrics(trainer, pl_module)
        asked.pop("v_num", None)
        return self._headline | {key: value for key, value in asked.items() if not key.startswith("federation/")}

    # Rounds

    def on_train_start(self, *args: Any) -> None:
        """Drop metrics of the sanity check and of an earlier run."""
        self._headline, self._worst = {}, {}
        super().on_train_start(*args)

    def on_train_epoch_start(self, trainer: L.Trainer, *args: Any) -> None:
        """Show the round that begins and its number of participants."""
        super().on_train_epoch_start(trainer, *args)
        self._began = perf_counter()
        self._line = round_description(cast("FederationView", trainer.lightning_module), trainer.max_epochs)
        self.train_progress_bar.set_description(self._line)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Complete the bar, or write the round's line."""
        super().on_train_epoch_end(trainer, pl_module)
        if not self._writes_lines or self._line is None:
            return
        figures = " ".join(f"{key}={value}" for key, value in (self._headline | self._worst).items())
        parts = [self._line, *([figures] if figures else []), f"{perf_counter() - self._began:.1f} s"]
        stream = _stream()
        stream.write(" · ".join(parts) + "\n")
        stream.flush()
        self._headline, self._worst = {}, {}  # A round without validation has nothing to say of it.

    # Owner of the data in evaluation

    def on_validation_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Show the owner of the validation set."""
        super().on_validation_batch_start(trainer, pl_module, batch, batch_idx, dataloader_idx)
        what = self.sanity_check_description if trainer.sanity_checking else self.validation_description
        self._name(self.val_progress_bar, what, trainer.val_dataloaders, batch_idx, dataloader_idx)

    def on_test_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Show the owner of the test set."""
        super().on_test_batch_start(trainer, pl_module, batch, batch_idx, dataloader_idx)
        loaders = trainer.test_dataloaders
        self._name(self.test_progress_bar, self.test_description, loaders, batch_idx, dataloader_idx)

    def on_predict_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Show the owner of the data."""
        super().on_predict_batch_start(trainer, pl_module, batch, batch_idx, dataloader_idx)
        loaders = trainer.predict_dataloaders
        self._name(self.predict_progress_bar, self.predict_description, loaders, batch_idx, dataloader_idx)

    @staticmethod
    def _name(bar: Any, what: str, loaders: Any, batch_idx: int, dataloader_idx: int) -> None:
        if batch_idx == 0 and isinstance(loaders, Mapping):
            bar.set_description(f"{what} {list(loaders)[dataloader_idx]}")


def take_lightnings_place(trainer: L.Trainer) -> list[FederatedProgressBar]:
    """Remove Lightning's default bar; a bar that the user chose or configured stays.

    Returns:
        Our bar in its place; empty if there was no default bar.
    """
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    plain = [one for one in callbacks if getattr(one, "refresh_rate", None) == DEFAULTS.get(type(one), -1)]
    for one in plain:
        callbacks.remove(one)
    return [FederatedProgressBar() for _ in plain]


def round_description(federation: FederationView, rounds: int | None) -> str:
    """Round about to be trained, from 1, and its number of participants: ``Round 3/20 · 4 participants``.

    Args:
        federation: The federation, in a run.
        rounds: Number of all rounds; None or -1 if it is not known.
    """
    index = federation.current_round
    count = len(federation.active_names(index))
    of = f"/{rounds}" if rounds is not None and rounds > 0 else ""
    return f"Round {index + 1}{of} · {count} participant{'' if count == 1 else 's'}"


def _stream() -> TextIO:
    # A notebook paints what comes by the standard error red.
    return sys.stdout if "ipykernel" in sys.modules else sys.stderr
