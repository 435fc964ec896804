"""``hetfed compare``: the federation beside its participants alone and all data pooled, on the same seeds."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from types import MappingProxyType
from typing import Any

import lightning as L
import torch
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.utilities import rank_zero_only

from hetfed_lightning.callbacks.record import RunRecord
from hetfed_lightning.cli.command import TEST_SETS, FederatedCLI
from hetfed_lightning.cli.configs import ConfigError
from hetfed_lightning.cli.error_owner import naming_participants
from hetfed_lightning.cli.groups import settings_by_member
from hetfed_lightning.cli.outcomes import ARMS, Arm, Outcome, mean_of, of_metric, summary, write_comparison
from hetfed_lightning.cli.tables import Table, figure
from hetfed_lightning.data.errors import DataError
from hetfed_lightning.data.learned import refuse_mixed_columns
from hetfed_lightning.data.module import FederatedData, pooled, take
from hetfed_lightning.data.schema import DataSchema
from hetfed_lightning.federated_callback import FederatedCallback, Phase
from hetfed_lightning.federation.federation import Federation
from hetfed_lightning.logs.metric_store import tag
from hetfed_lightning.participants.participant import STUDENT

log = logging.getLogger(__name__)

TOGETHER = (Phase.DISTILLATION, Phase.AVERAGING)


class CompareCLI(FederatedCLI):
    """Options of ``hetfed compare``; makes nothing until :meth:`compare` is called."""

    prog = "hetfed compare"
    description = """Trains federation, local_only (same budget, nothing shared) and centralised (all data in one place)
on the same seeds and prints one table of their test figures: `hetfed compare -c x.yaml --seeds 5 --arms '[federation,
local_only]'`."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options of the comparison."""
        super().add_arguments_to_parser(parser)
        parser.add_argument(
            "--seeds", type=list[int] | int, default=1, help="Number of seeds (0, 1, ...) or a list of them."
        )
        parser.add_argument("--arms", type=list[Arm], default=list(ARMS), help="Which trainings to compare.")
        parser.add_argument(
            "--metrics",
            type=list[str] | None,
            default=None,
            help="Metrics to show, a table for each, such as '[balanced_accuracy, auroc]'; the headline by default.",
        )
        parser.add_argument("--output", type=str, default="runs/compare", help="Folder of the tables.")

    def instantiate_classes(self) -> None:
        """Make no class yet: every run has its own."""
        self.set_threads()

    def compare(self) -> list[Outcome]:
        """Outcomes of every arm on every seed; prints and writes their table."""
        for noisy in (
            "lightning.pytorch",
            "hetfed_lightning.callbacks",
            "hetfed_lightning.methods",
            "hetfed_lightning.fleets",
        ):
            logging.getLogger(noisy).setLevel(logging.WARNING)
        # On pooled data alike participants are trained once; a warning says that the others never train.
        logging.getLogger("hetfed_lightning.federation.preflight").setLevel(logging.ERROR)
        seeds = list(range(self.config.seeds)) if isinstance(self.config.seeds, int) else list(self.config.seeds)
        outcomes: list[Outcome] = []
        for seed in seeds:
            for arm in self.config.arms:
                found = self.run_arm(arm, seed)
                # Undefined metrics have been named once, and are the same for all arms and most seeds.
                logging.getLogger("hetfed_lightning.logs.undefined").setLevel(logging.ERROR)
                outcomes += found
                # A mistaken name is refused after the first training, not the last. Further models of methods are
                # measured in the federation alone.
                if arm == "federation" or "federation" not in self.config.arms:
                    for metric in self.config.metrics or ():
                        of_metric(found, metric)
                members = [one for one in found if one.participant != STUDENT and one.headline]
                own, everyone = mean_of(one.own for one in members), mean_of(one.everyone for one in members)
                log.info("seed %d  %-11s  own %s  global %s", seed, arm, figure(own), figure(everyone))
        log.info("\n%s", summary(outcomes, self.config.metrics, form=Table.text))
        folder = Path(self.config.output)
        if getattr(rank_zero_only, "rank", 0) == 0:
            write_comparison(outcomes, folder, self.config.metrics)
        log.info("\nTables: %s", folder)
        return outcomes

    def run_arm(self, arm: Arm, seed: int) -> list[Outcome]:
        """Outcomes of one training and its test.

        Args:
            arm: The kind of training.
            seed: Seed of weights, split and batches.
        """
        config = self.config.clone()
        config.seed_everything = seed
        config.model.seed = seed
        if "seed" in config.data.init_args:
            config.data.init_args.seed = seed
        L.seed_everything(seed, verbose=False)
        with naming_participants(self.config.model):
            made = self.parser.instantiate(config)
        federation, data = made.model, made.data
        trainer = self.trainer_of(made.trainer, arm, self.record_of(config, arm, seed))
        names = tuple(federation.participants)
        data.replace_data(data.load(names))
        check_tested(data.data)
        if "centralised" in self.config.arms:  # Before the first training, not after two of three.
            check_poolable(data.data, data.schemas)
        aliases: dict[str, str] = {}
        if arm != "federation":
            if federation.student is not None:
                federation.drop(STUDENT)
            for participant in federation.members().values():
                participant.transfer = None  # There is nothing to take over,
                participant.own_prior = 0.0  # and no target under another class prior than its data's.
        if arm == "centralised":
            aliases = same_recipes(config.model.participants)
            own = data.data
            data.replace_data(centralised_data(own))
            for name, participant in federation.members().items():
                participant.attend(trainer.max_epochs or 0 if name in aliases else 0)
        trainer.fit(federation, datamodule=data)
        if arm == "centralised":
            data.replace_data(own)
            for name, original in aliases.items():
                federation[name].load_state_dict(federation[original].state_dict())
        trainer.test(federation, datamodule=data, verbose=False)
        return outcomes_of(
            arm, seed, federation, {key: float(value) for key, value in trainer.callback_metrics.items()}
        )

    def record_of(self, config: Namespace, arm: Arm, seed: int) -> RunRecord:
        """Callback that records one training, below the folder of the tables."""
        shown = self.parser.dump(config)
        folder = Path(self.config.output) / "runs" / f"{arm}_seed_{seed}"
        return RunRecord(str(folder), shown, arm, f"{Path(self.config.output).name}: {arm}, seed {seed}")

    def trainer_of(self, settings: Namespace, arm: Arm, record: RunRecord) -> L.Trainer:
        """Trainer of one training, without what the arm does not do together, and without logs and checkpoints."""
        arguments: dict[str, Any] = dict(settings.as_dict() if isinstance(settings, Namespace) else settings)
        callbacks = arguments.get("callbacks") or []
        callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
        if arm != "federation":
            callbacks = [one for one in callbacks if not (isinstance(one, FederatedCallback) and one.phase in TOGETHER)]
        quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
        kept = [one for one in callbacks if not isinstance(one, L.pytorch.callbacks.ModelCheckpoint)]
        return L.Trainer(
            **arguments
            | quiet
            | {"callbacks": [*kept, record], "enable_model_summary": False, "num_sanity_val_steps": 0}
        )


def compare_command(arguments: Sequence[str]) -> None:
    """``hetfed compare -c x.yaml --seeds 5``.

    Args:
        arguments: Command line after ``hetfed compare``.
    """
    CompareCLI(arguments, run=False, environment=os.environ).compare()


def same_recipes(participants: Mapping[str, Any]) -> dict[str, str]:
    """Participants whose configuration repeats an earlier one's, with the name of the earlier one.

    On pooled data they are one model.
    """
    first: dict[str, str] = {}
    aliases = {}
    plain = {name: one.as_dict() if isinstance(one, Namespace) else one for name, one in participants.items()}
    for name, config in settings_by_member(plain).items():
        settings = deepcopy(dict(config))
        for without_effect in ("joins_at", "leaves_at", "transfer", "own_prior"):
            settings.get("init_args", {}).pop(without_effect, None)
        key = repr(settings)
        if key in first:
            aliases[name] = first[key]
        else:
            first[key] = name
    return aliases


def check_tested(data: FederatedData) -> None:
    """Refuse data without any test set before the first training: the table would be empty.

    Args:
        data: Data of all participants.

    Raises:
        ConfigError: If nobody has a test set, and there is none for all.
    """
    if data.global_test is None and all(one is None for one in data.test.values()):
        raise ConfigError(f"data: a comparison measures on test sets, and there are none. {TEST_SETS}")


def check_poolable(data: FederatedData, schemas: Mapping[str, DataSchema] = MappingProxyType({})) -> None:
    """Refuse to pool data of different forms, such as a panel of genes at one participant alone.

    Args:
        data: Data of all participants.
        schemas: Meaning of the columns of each participant's data, by name, if known.

    Raises:
        ConfigError: If forms differ; names the participants and the inputs.
    """
    try:
        refuse_mixed_columns(schemas, "pooled training data")
        pooled({name: take(dataset, torch.arange(1)) for name, dataset in data.train.items()})
    except DataError as error:
        raise ConfigError(
            f"--arms: 'centralised' trains one model on everyone's data, and it is not of one form: {error}. "
            "Give --arms '[federation,local_only]'."
        ) from error


def centralised_data(data: FederatedData) -> FederatedData:
    """Data in which each participant's training set is all participants' training data, pooled."""
    everything = pooled(data.train)
    return FederatedData(
        dict.fromkeys(data.train, everything), data.val, data.test, data.public, data.global_val, data.global_test
    )


def outcomes_of(arm: Arm, seed: int, federation: Federation, metrics: Mapping[str, float]) -> list[Outcome]:
    """Outcomes of each participant by test metric, the headline first; losses are left out, being not comparable.

    Args:
        arm: The kind of training.
        seed: Its seed.
        federation: Federation whose members were tested.
        metrics: Values of the test, by tag.
    """
    found = []
    for name, participant in federation.everyone().items():
        bases = [key.rpartition("/")[0] for key in metrics if key.rpartition("/")[2] == name]
        tested = [base.removeprefix("test_").removeprefix("global_") for base in bases if base.startswith("test_")]
        headline = participant.task.headline
        for metric in dict.fromkeys([headline, *(one for one in tested if "loss" not in one)]):
            own = metrics.get(tag(f"test_{metric}", name), math.nan)
            everyone = metrics.get(tag(f"test_{metric}", name, everyone=True), math.nan)
            higher = participant.task.prefers_higher(metric)
            found.append(Outcome(arm, seed, name, metric, own, everyone, higher, metric == headline))
    return found
