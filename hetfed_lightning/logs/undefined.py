"""Metrics that some participants' data do not define: left out of means, named once, and not monitored."""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

if TYPE_CHECKING:
    import lightning as L

    from hetfed_lightning.participants.participant import Stage

log = logging.getLogger(__name__)

MOST_NAMED = 10
"""Largest number of participants that one line names with their reasons."""

_SETS: Mapping[str, str] = {"train": "training", "val": "validation", "test": "test"}
_SUMMARY = re.compile(r"federation/((?:train|val|test)_.+)_(?:mean|worst|std|jain)")


class UndefinedMonitorError(MisconfigurationException):
    """Raised for a callback that follows a metric which no participant's data define."""


class UndefinedFigures:
    """Metrics that are undefined at present, and those of them already named in a warning.

    Attributes:
        reasons: Reason by tag, such as ``"val_auroc/hospital_b"``, from the latest pass of every stage.
    """

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}
        self._told: set[str] = set()

    def begin(self) -> None:
        """Begin a run, which names everything anew."""
        self.reasons, self._told = {}, set()

    def note(self, stage: Stage, found: Mapping[str, str], *, tell: bool) -> None:
        """Set the undefined metrics of one pass over a stage's data.

        Args:
            stage: Stage whose earlier reasons are replaced.
            found: Reasons by tag.
            tell: True to warn of metrics not named before; False in a sanity check, which sees a part of the data.
        """
        self.reasons = {key: why for key, why in self.reasons.items() if not key.startswith(f"{stage}_")} | dict(found)
        new = {key: why for key, why in found.items() if key not in self._told} if tell else {}
        self._told.update(new)
        of_metric: defaultdict[str, list[str]] = defaultdict(list)
        for key, why in new.items():
            metric, _, name = key.partition("/")
            of_metric[metric].append(f"{name!r} ({why})")
        for metric, named in of_metric.items():
            everyone = metric.startswith(f"{stage}_global_")
            more = f" and {len(named) - MOST_NAMED} more" if len(named) > MOST_NAMED else ""
            log.warning(
                "%s is undefined on %s %s data of %s%s: left out of the federation's mean and worst.",
                metric, "everyone's" if everyone else "the", _SETS[stage], ", ".join(named[:MOST_NAMED]), more,
            )  # fmt: skip

    def check_monitors(self, trainer: L.Trainer) -> None:
        """Refuse callbacks that follow a metric which no participant's data define.

        Args:
            trainer: Trainer with the callbacks.

        Raises:
            UndefinedMonitorError: If there is one; names the callback, the metric, the participants and the remedy.
        """
        for callback in trainer.callbacks:  # type: ignore[attr-defined]  # the Trainer sets it where no checker looks
            if not isinstance(callback, (EarlyStopping, ModelCheckpoint)) or not callback.monitor:
                continue
            reasons = self._reasons_of(callback.monitor, trainer.callback_metrics)
            if not reasons or (isinstance(callback, EarlyStopping) and not callback.strict):
                continue
            named = ", ".join(f"{name!r} ({why})" for name, why in [*reasons.items()][:MOST_NAMED])
            more = f" and {len(reasons) - MOST_NAMED} more" if len(reasons) > MOST_NAMED else ""
            raise UndefinedMonitorError(
                f"{type(callback).__name__} follows {callback.monitor!r}, which is undefined for {named}{more}. Let it "
                "follow another figure, such as 'federation/val_loss_mean', or give validation sets that define it "
                "(own_fractions, stratified or larger)."
            )

    def _reasons_of(self, monitor: str, known: Mapping[str, object]) -> dict[str, str]:
        """Why a monitored figure is not there, by participant; empty where it is."""
        if monitor in self.reasons:
            return {monitor.partition("/")[2]: self.reasons[monitor]}
        summary = _SUMMARY.fullmatch(monitor)
        if summary is None or monitor in known:
            return {}
        return {key.partition("/")[2]: why for key, why in self.reasons.items() if key.partition("/")[0] == summary[1]}
