"""What the defences cost when nothing is wrong: their share of the seconds of a round.

Every function that defends is timed where it is called, in a run of a configuration as `hetfed fit` makes it, with its
logger, validation and checkpoints. A difference between runs with and without would drown in the noise of a machine
that others use too.
"""

from __future__ import annotations

import logging
import os
import statistics
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import Any
from unittest.mock import patch

import lightning as L
import torch

from hetfed_lightning.cli.command import FederatedCLI
from scripts.promises.running import ROOT

DEFENCES = {
    "finite states remembered": ("hetfed_lightning.federation.finite_guard", "FiniteGuard.open_round"),
    "weights and losses looked at": ("hetfed_lightning.federation.round_clock", "inspect"),
    "predictions looked at": ("hetfed_lightning.methods.distillation.ensemble_distillation", "why_not_heard"),
    "states compared": ("hetfed_lightning.methods.averaging.backbone_averaging", "check_states"),
    "claimed sizes bounded": ("hetfed_lightning.methods.averaging.backbone_averaging", "weights_by_samples"),
    "averages looked at": ("hetfed_lightning.methods.averaging.backbone_averaging", "refuse_non_finite"),
    "checkpoints without what is not finite": ("hetfed_lightning.federation.federation", "without_poison"),
    "checkpoints hashed": ("hetfed_lightning.checkpointing.sealing", "_Follower.end"),
    "checkpoints on the disk before they have their name": ("os", "fsync"),
    "leftovers of killed saves looked for": ("hetfed_lightning.checkpointing.atomic", "remove_leftovers"),
    "signals looked for": ("hetfed_lightning.federation.federation", "Federation._end_if_told"),
}
"""What each does, and where it is called."""

QUIET = ("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false")


class Clock(L.Callback):
    """Seconds of every round, from its first hook to the next round's, and of each defence in it."""

    def __init__(self) -> None:
        self.rounds: list[float] = []
        self.defences: list[dict[str, float]] = []
        self.now: dict[str, float] = defaultdict(float)
        self._inside = False
        self._began = 0.0

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Close the last round and begin the next."""
        del trainer, pl_module
        self.close()
        self._began = time.perf_counter()

    def close(self) -> None:
        """Note a round."""
        if self._began:
            self.rounds.append(time.perf_counter() - self._began)
            self.defences.append(dict(self.now))
        self.now.clear()

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, timed; one that another calls counts with that."""

        def call(*args: Any, **kwargs: Any) -> Any:
            if self._inside:
                return function(*args, **kwargs)
            self._inside, began = True, time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.now[name] += time.perf_counter() - began
                self._inside = False

        return call


@contextmanager
def watched(clock: Clock) -> Iterator[None]:
    """Time all defences while the block runs."""
    with ExitStack() as stack:
        for name, (module, path) in DEFENCES.items():
            owner: Any = import_module(module)
            *outer, attribute = path.split(".")
            for part in outer:
                owner = getattr(owner, part)
            stack.enter_context(patch.object(owner, attribute, clock.timed(name, getattr(owner, attribute))))
        yield


def cost(config: str = "configs/digits.yaml", rounds: int = 40) -> list[str]:
    """Lines that tell the share of a round that each defence takes, and all of them.

    Args:
        config: Path of a configuration.
        rounds: How many to run; the first is left out, in which everything is made.
    """
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    clock, path = Clock(), str(ROOT / config)
    with tempfile.TemporaryDirectory() as folder:
        here = os.getcwd()  # noqa: PTH109 - to go back to
        os.chdir(folder)
        try:
            cli = FederatedCLI(["-c", path, f"--trainer.max_epochs={rounds}", *QUIET], run=False)
            cli.trainer.callbacks.append(clock)  # type: ignore[attr-defined]
            with watched(clock):
                cli.trainer.fit(cli.model, datamodule=cli.datamodule)
            clock.close()
        finally:
            os.chdir(here)
            logging.disable(logging.NOTSET)
    return _told(clock, config)


def _told(clock: Clock, config: str) -> list[str]:
    seconds, parts = clock.rounds[1:], clock.defences[1:]
    shares = [sum(part.values()) / whole for part, whole in zip(parts, seconds, strict=True)]
    low, middle, high = statistics.quantiles(shares, n=4)
    first = (
        f"{config}, {len(shares)} rounds of {statistics.median(seconds):.3f} s (median), one thread: the defences take "
        f"{middle:.2%} of a round (quartiles {low:.2%} and {high:.2%})"
    )
    lines = [first]
    for name in DEFENCES:
        share = statistics.median(part.get(name, 0.0) / whole for part, whole in zip(parts, seconds, strict=True))
        lines.append(f"{name}: {share:.2%}")
    return lines
