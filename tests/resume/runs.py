"""One run without a break and the same run stopped and resumed, and what must not differ between the two."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers.logger import Logger

from hetfed_lightning import FederatedDataModule, Federation
from tests.federations import trainer

Setup = tuple[Federation, FederatedDataModule, Sequence[L.Callback]]
"""What a run is made of, new every time: nothing of the first run may help the second."""


class Memory(Logger):
    """Keeps every logged value by its horizontal axis, the round."""

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[int, dict[str, float]] = {}

    @property
    def name(self) -> str:
        return "memory"

    @property
    def version(self) -> str:
        return "0"

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Not of interest."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.values.setdefault(step or 0, {}).update(metrics)


class Run:
    """A fit, the checkpoints it left and everything it logged."""

    def __init__(
        self,
        make: Callable[[], Setup],
        rounds: int,
        *,
        resume: Path | str | None = None,
        every: Any = None,
        **settings: Any,
    ) -> None:
        self.federation, data, callbacks = make()
        self.memory = Memory()
        callbacks = [*callbacks, *([] if every is None else [every])]
        quiet: dict[str, Any] = {
            "logger": self.memory,
            "enable_checkpointing": every is not None,
            "log_every_n_steps": 1,
        }
        self.trainer = trainer(
            None if "max_steps" in settings else rounds,  # type: ignore[arg-type]  # as Trainer's own default
            *callbacks,
            **(quiet | settings),
        )
        self.trainer.fit(self.federation, datamodule=data, ckpt_path=resume, weights_only=True)

    def state(self) -> dict[str, Any]:
        """All that a checkpoint of this moment would hold, but for where checkpoints were written."""
        state: dict[str, Any] = self.trainer._checkpoint_connector.dump_checkpoint()
        state["callbacks"] = {key: value for key, value in state["callbacks"].items() if "Checkpoint" not in key}
        loops = state.pop("loops")["fit_loop"]
        state["stepped"] = loops["epoch_loop.state_dict"]["_batches_that_stepped"]
        state["rounds"], state["batches"] = loops["epoch_progress"], loops["epoch_loop.batch_progress"]
        # Of a round that is over.
        state["federation"] = {key: state["federation"][key] for key in ("steps", "scheduled_rounds")}
        return state


def checkpoints(folder: Path, **settings: Any) -> ModelCheckpoint:
    """A ModelCheckpoint that keeps all it writes, named by the batches done."""
    return ModelCheckpoint(folder, save_top_k=-1, filename="{step:03d}", auto_insert_metric_name=False, **settings)


def differences(one: Any, other: Any, where: str = "") -> list[str]:
    """Places where two nested structures differ in a bit."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        same = one.dtype == other.dtype and torch.equal(one, other)
        return [] if same else [f"{where}: {(one - other).abs().max() if one.shape == other.shape else 'shape'}"]
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        found = [f"{where}/{key}: in one alone" for key in one.keys() ^ other.keys()]
        return found + [
            line for key in one.keys() & other.keys() for line in differences(one[key], other[key], f"{where}/{key}")
        ]
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)) and len(one) == len(other):
        return [
            line for i, (a, b) in enumerate(zip(one, other, strict=True)) for line in differences(a, b, f"{where}/{i}")
        ]
    if isinstance(one, float) and isinstance(other, float) and one != one and other != other:  # noqa: PLR0124 - NaN
        return []
    return [] if one == other else [f"{where}: {one!r} and {other!r}"]


def same_run(straight: Run, resumed: Run) -> list[str]:
    """What a resumed run does not have in common with the one without a break: its end, and all that it logged."""
    found = differences(straight.state(), resumed.state())
    for number, step in enumerate(sorted(resumed.memory.values)):
        again, once = resumed.memory.values[step], straight.memory.values[step]
        if number == 0:  # What the first process validated in the round in progress is in its own log.
            once = {key: value for key, value in once.items() if key in again or "val_" not in key}
        found += differences(once, again, f"logged/{step}")
    return [line for line in found if "seconds_per_round" not in line]
