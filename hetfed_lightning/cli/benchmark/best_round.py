"""The round that was best on validation sets: its weights, and the figures of every round."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from time import perf_counter
from typing import Any, cast

import lightning as L

from hetfed_lightning.cli.outcomes import mean_of
from hetfed_lightning.federation.federation import Federation
from hetfed_lightning.logs.metric_store import tag
from hetfed_lightning.participants.participant import STUDENT


class BestRound(L.Callback):
    """Keeps participants' weights of the round whose mean validation figure is best, the first of equal ones.

    The figure is the headline metric on everyone's validation set where there is one, and on participants' own
    otherwise. Weights alone are kept: what a method remembers beside them stays that of the last round.

    Args:
        left_out: Names of participants that do not train and are not counted.

    Attributes:
        round: The best round, from 1; 0 before any is known.
        curve: Mean validation figure by round, NaN where nobody was measured.
        bytes_up: Bytes sent so far.
        bytes_down: Bytes received so far.
        seconds: Seconds from the begin of training to its end.
        federation: Federation in training.
        trainer: Its Trainer.
    """

    def __init__(self, left_out: Sequence[str] = ()) -> None:
        self.left_out = frozenset(left_out)
        self.round = 0
        self.curve: list[float] = []
        self.bytes_up = self.bytes_down = self.seconds = 0.0
        self.federation: Federation | None = None
        self.trainer: L.Trainer | None = None
        self._states: dict[str, Any] = {}
        self._value = -math.inf
        self._began = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin to count."""
        self.federation, self.trainer = cast("Federation", pl_module), trainer
        self._began = perf_counter()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Close a round, which has been validated by now."""
        federation = cast("Federation", pl_module)
        values = {key: float(value) for key, value in trainer.callback_metrics.items()}
        self.bytes_up += values.get("federation/bytes_up", 0.0)
        self.bytes_down += values.get("federation/bytes_down", 0.0)
        figure, sign = self._figure(values, federation)
        self.curve.append(figure)
        if math.isfinite(figure) and sign * figure > self._value:
            self._value, self.round = sign * figure, len(self.curve)
            self._states = {name: deepcopy(one.state_dict()) for name, one in federation.everyone().items()}

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop the clock."""
        del trainer, pl_module
        self.seconds = perf_counter() - self._began

    def restore(self) -> bool:
        """True if participants have the best round's weights now; False if no round is known."""
        if self.federation is None or not self._states:
            return False
        for name, one in self.federation.everyone().items():
            if name in self._states:
                one.load_state_dict(self._states[name])
        return True

    def _figure(self, values: dict[str, float], federation: Federation) -> tuple[float, int]:
        """Mean over participants, and 1 if larger is better, -1 otherwise."""
        counted = {
            name: one for name, one in federation.everyone().items() if name != STUDENT and name not in self.left_out
        }
        sign = 1 if all(one.task.higher_is_better for one in counted.values()) else -1
        for everyone in (True, False):
            found = [
                values.get(tag(f"val_{one.task.headline}", name, everyone=everyone), math.nan)
                for name, one in counted.items()
            ]
            if not all(map(math.isnan, found)):
                return mean_of(found), sign
        return math.nan, sign
