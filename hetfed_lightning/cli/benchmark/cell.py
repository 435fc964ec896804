"""One cell of a benchmark, trained and tested in this process."""

from __future__ import annotations

import logging
import platform
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import lightning as L
import torch
import yaml
from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException

from hetfed_lightning.callbacks.record import RunRecord
from hetfed_lightning.cli.benchmark.best_round import BestRound
from hetfed_lightning.cli.benchmark.fingerprint import data_hash
from hetfed_lightning.cli.benchmark.results import Figure, Result
from hetfed_lightning.cli.benchmark.simplest import simplest_figures
from hetfed_lightning.cli.benchmark.suite import CENTRALISED, LINEAR, LOCAL, MAJORITY
from hetfed_lightning.cli.compare import CompareCLI, outcomes_of, same_recipes
from hetfed_lightning.cli.configs import ConfigError
from hetfed_lightning.cli.error_messages import condensed
from hetfed_lightning.cli.error_owner import FAULTS, first_lines, naming_participants
from hetfed_lightning.cli.outcomes import Arm, Outcome
from hetfed_lightning.data.module import FederatedData
from hetfed_lightning.federation.federation import Federation
from hetfed_lightning.federation.training_watch import watch_training
from hetfed_lightning.version import __version__

ARMS: dict[str, Arm] = {LOCAL: "local_only", CENTRALISED: "centralised"}
CONFIG = "config.yaml"
ERROR = "error.txt"


class CellCLI(CompareCLI):
    """A configuration of one cell, parsed; trained by :meth:`trained`.

    Args:
        config: File of the configuration.
        arm: Kind of training.
        output: Folder for the run's record.
        allow_import: Packages that it may import from.
    """

    prog = "hetfed benchmark"

    def __init__(self, config: Path, arm: Arm, output: Path, allow_import: tuple[str, ...] = ()) -> None:
        allowed = [word for one in allow_import for word in ("--allow_import", one)]
        self.output = output
        self.best = BestRound()
        super().__init__(["-c", str(config), "--arms", f"[{arm}]", "--output", str(output), *allowed], run=False)

    def loaded(self, seed: int) -> tuple[Federation, FederatedData]:
        """Federation and data as they are before training.

        Args:
            seed: Seed of weights and split.
        """
        config = self._seeded(seed)
        with naming_participants(config.model):
            made = self.parser.instantiate(config)
        made.data.replace_data(made.data.load(tuple(made.model.participants)))
        return made.model, made.data.data

    def trained(self, arm: Arm, seed: int) -> dict[str, Any]:
        """Entries of a :class:`Result` that training and test give.

        Args:
            arm: Kind of training.
            seed: Seed of weights, split and batches.
        """
        self.best = BestRound(tuple(same_recipes(self.config.model.participants)) if arm == "centralised" else ())
        last = figures_of(self.run_arm(arm, seed))
        best = []
        federation, trainer = self.best.federation, self.best.trainer
        if federation is not None and trainer is not None and self.best.restore():
            if arm == "centralised":
                for name, original in same_recipes(self.config.model.participants).items():
                    federation[name].load_state_dict(federation[original].state_dict())
            trainer.test(federation, datamodule=trainer.datamodule, verbose=False)  # type: ignore[attr-defined]
            values = {key: float(value) for key, value in trainer.callback_metrics.items()}
            best = figures_of(outcomes_of(arm, seed, federation, values))
        return {
            "last": last,
            "best": best,
            "best_round": self.best.round,
            "curve": self.best.curve,
            "bytes_up": self.best.bytes_up,
            "bytes_down": self.best.bytes_down,
            "seconds": self.best.seconds,
        }

    def _seeded(self, seed: int) -> Namespace:
        config: Namespace = self.config.clone()
        config.seed_everything = seed
        config.model.seed = seed
        if "seed" in config.data.init_args:
            config.data.init_args.seed = seed
        L.seed_everything(seed, verbose=False)
        return config

    def record_of(self, config: Namespace, arm: Arm, seed: int) -> RunRecord:
        """Callback that records the cell in its own folder."""
        del seed
        shown = self.parser.dump(config)
        return RunRecord(str(self.output), shown, arm, self.output.name)

    def trainer_of(self, settings: Namespace, arm: Arm, record: RunRecord) -> L.Trainer:
        """Trainer that also keeps the best round."""
        trainer = super().trainer_of(settings, arm, record)
        trainer.callbacks.append(self.best)  # type: ignore[attr-defined]
        return trainer


def hash_of_data(config: Path, seed: int, allow_import: tuple[str, ...] = ()) -> str:
    """Hash of the data that a configuration loads and divides by a seed."""
    return data_hash(CellCLI(config, "federation", config.parent, allow_import).loaded(seed)[1])


def run_cell(folder: Path) -> Result:
    """Result of the cell whose files lie in a folder, written there as well.

    What cannot train on these data is a result too: the sentence that refuses it. Of an error after training began the
    traceback lies in ``error.txt`` beside it; the other cells go on.

    Args:
        folder: Folder with ``config.yaml`` and ``cell.yaml``.
    """
    cell = yaml.safe_load((folder / "cell.yaml").read_text(encoding="utf-8"))
    title = {key: cell[key] for key in ("data", "method", "seed", "fingerprint")}
    versions = {"hetfed_lightning": __version__, "torch": torch.__version__, "python": platform.python_version()}
    with errors_alone(), watch_training() as watch:
        try:
            found = _found(folder, cell)
        except (ConfigError, MisconfigurationException, *FAULTS) as error:
            why = condensed(first_lines(str(error))) or type(error).__name__
            if watch.begun:
                why = f"failed in training: {why}"
                (folder / ERROR).write_text(traceback.format_exc(), encoding="utf-8")
            else:  # The advice is for `hetfed compare`.
                why = why.partition(" Give --arms ")[0]
            result = Result(**title, refused=why, versions=versions)
        else:
            result = Result(**title, **found, versions=versions)
    result.write(folder)
    return result


@contextmanager
def errors_alone() -> Iterator[None]:
    """Context in which what trains says nothing but errors."""
    noisy = [logging.getLogger(one) for one in ("lightning.pytorch", "lightning.fabric", "hetfed_lightning")]
    before = [one.level for one in noisy]
    for one in noisy:
        one.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for one, level in zip(noisy, before, strict=True):
            one.setLevel(level)


def _found(folder: Path, cell: dict[str, Any]) -> dict[str, Any]:
    row, seed = cell["row"], cell["seed"]
    arm = ARMS.get(row, "federation")
    cli = CellCLI(folder / CONFIG, arm, folder, tuple(cell["allow_import"]))
    if row not in {LINEAR, MAJORITY}:
        return cli.trained(arm, seed)
    began = perf_counter()
    return {"last": simplest_figures(*cli.loaded(seed), row), "seconds": perf_counter() - began}


def figures_of(outcomes: list[Outcome]) -> list[Figure]:
    """Figures of a run's outcomes."""
    return [
        Figure(one.participant, one.metric, one.own, one.everyone, one.higher_is_better, one.headline)
        for one in outcomes
    ]


if __name__ == "__main__":
    run_cell(Path(sys.argv[1]))
