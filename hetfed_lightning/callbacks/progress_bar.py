"""The progress of a federation: rounds, participants and the one metric that matters, in a bar or line by line."""

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

    from hetfed_lightning.federation.federation import Federation
    from hetfed_lightning.participants.participant import Stage


REDRAWN = 0.05
"""Seconds between two drawings of a bar: an eye sees no more, and drawing costs as much as a small fleet's step."""


DEFAULTS: Mapping[type, int] = {TQDMProgressBar: 1, RichProgressBar: 100}
"""What Lightning brings by itself, which depends on whether rich is installed, and its refresh rate then."""


class FederatedProgressBar(TQDMProgressBar, FederatedCallback):
    """Lightning's progress bar, speaking of rounds and participants. A federation puts it in the place of Lightning's.

    ``Round 3/20 · 4 participants`` and the mean of the headline metric over the participants, on their ``own``
    validation data and on everyone's (``global``); beside these only what a participant logs with
    ``prog_bar=True``. Where there is no terminal (a pipe, a log file, a notebook) it writes one line a round
    instead: to the standard error, so that what a program prints stays clean, and in a notebook below the cell.

    Args:
        refresh_rate: Batches between two updates of the bar, which is drawn twenty times a second at most; 0 shows
            nothing.
        process_position: Lines to leave free above the bar.
        leave: Whether the bar of every round stays.
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
        """Whether a bar is drawn: it was not disabled, and Lightning would draw it on a terminal."""
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

    def on_metrics(self, trainer: L.Trainer, federation: Federation, stage: Stage, values: Mapping[str, float]) -> None:
        """Keep the validation's summary."""
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
        """Mean of the headline metric, own and global, and what participants asked to be shown."""
        asked = super().get_metrics(trainer, pl_module)
        asked.pop("v_num", None)
        return self._headline | {key: value for key, value in asked.items() if not key.startswith("federation/")}

    # Rounds

    def on_train_start(self, *args: Any) -> None:
        """Begin without the figures of the sanity check, or of an earlier run."""
        self._headline, self._worst = {}, {}
        super().on_train_start(*args)

    def on_train_epoch_start(self, trainer: L.Trainer, *args: Any) -> None:
        """Say which round begins, and with how many."""
        super().on_train_epoch_start(trainer, *args)
        self._began = perf_counter()
        self._line = round_description(cast("Federation", trainer.lightning_module), trainer.max_epochs)
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

    # Whose data is being looked at

    def on_validation_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Say whose validation set this is."""
        super().on_validation_batch_start(trainer, pl_module, batch, batch_idx, dataloader_idx)
        what = self.sanity_check_description if trainer.sanity_checking else self.validation_description
        self._name(self.val_progress_bar, what, trainer.val_dataloaders, batch_idx, dataloader_idx)

    def on_test_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Say whose test set this is."""
        super().on_test_batch_start(trainer, pl_module, batch, batch_idx, dataloader_idx)
        loaders = trainer.test_dataloaders
        self._name(self.test_progress_bar, self.test_description, loaders, batch_idx, dataloader_idx)

    def on_predict_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Say whose data is predicted."""
        super().on_predict_batch_start(trainer, pl_module, batch, batch_idx, dataloader_idx)
        loaders = trainer.predict_dataloaders
        self._name(self.predict_progress_bar, self.predict_description, loaders, batch_idx, dataloader_idx)

    @staticmethod
    def _name(bar: Any, what: str, loaders: Any, batch_idx: int, dataloader_idx: int) -> None:
        if batch_idx == 0 and isinstance(loaders, Mapping):
            bar.set_description(f"{what} {list(loaders)[dataloader_idx]}")


def take_lightnings_place(trainer: L.Trainer) -> list[FederatedProgressBar]:
    """Take away the bar that Lightning brings by itself; whoever chose another one, or settings, keeps that.

    Returns:
        Ours for it, if there was one.
    """
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    plain = [one for one in callbacks if getattr(one, "refresh_rate", None) == DEFAULTS.get(type(one), -1)]
    for one in plain:
        callbacks.remove(one)
    return [FederatedProgressBar() for _ in plain]


def round_description(federation: Federation, rounds: int | None) -> str:
    """The round about to be trained, from 1, and how many take part: ``Round 3/20 · 4 participants``.

    Args:
        federation: In a run.
        rounds: Rounds in all; None or -1 where nobody knows.
    """
    index = federation.current_round
    count = len(federation.active_names(index))
    of = f"/{rounds}" if rounds is not None and rounds > 0 else ""
    return f"Round {index + 1}{of} · {count} participant{'' if count == 1 else 's'}"


def _stream() -> TextIO:
    # A notebook paints what comes by the standard error red.
    return sys.stdout if "ipykernel" in sys.modules else sys.stderr
