"""The command line's main commands: LightningCLI for federations."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import lightning as L
import torch
import yaml
from jsonargparse import ArgumentError
from jsonargparse.typing import PositiveInt
from lightning.pytorch.callbacks import EarlyStopping, ModelSummary, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import SIGTERMException

from hetfed_lightning.callbacks.monitor import FederationMonitor
from hetfed_lightning.callbacks.participant_summary import of_type
from hetfed_lightning.callbacks.progress_bar import FederatedProgressBar
from hetfed_lightning.callbacks.record import RunRecord
from hetfed_lightning.callbacks.run_folder import run_folder
from hetfed_lightning.cli.allowlist import restrict_imports
from hetfed_lightning.cli.callback_names import refuse_equal_names
from hetfed_lightning.cli.configs import Arguments, ConfigError, check_checkpoint, load_configs, split_arguments
from hetfed_lightning.cli.environment import from_environment, options_of
from hetfed_lightning.cli.error_messages import check_participants, labelled_participants
from hetfed_lightning.cli.error_owner import naming_participants
from hetfed_lightning.cli.forbidden_values import read_no_other_file
from hetfed_lightning.cli.method_option import with_method
from hetfed_lightning.cli.places import where_to_look
from hetfed_lightning.cli.predict import in_order_of_the_file, predictions_of_loaders
from hetfed_lightning.cli.prediction_input import read_new_rows, schema_of
from hetfed_lightning.cli.prediction_output import check_output, write_table
from hetfed_lightning.cli.predictions import Predicted, write_predictions
from hetfed_lightning.cli.saved_configuration import SavedConfiguration
from hetfed_lightning.cli.strict_yaml import parser_text
from hetfed_lightning.cli.tables import participants_table
from hetfed_lightning.data import FederatedDataModule
from hetfed_lightning.data.module import GLOBAL
from hetfed_lightning.data.name_checks import did_you_mean
from hetfed_lightning.federation.federation import Federation
from hetfed_lightning.participants.participant import STUDENT
from hetfed_lightning.paths import with_home

log = logging.getLogger(__name__)

RESERVED = ("best", "last", "hpc", "registry")
"""Words that ``--ckpt_path`` may have in place of a file."""

PREDICT_OPTIONS = {
    "--input": "New rows to predict on, a CSV or parquet file, with or without the target; test sets if left out.",
    "--output": "File to write, CSV or parquet by its ending; predictions.csv in the folder of the run if left out.",
    "--participant": "Who predicts, 'student' for the unified model; if left out whom a row names, or owns the data.",
    "--id": "Column of the input that names its rows, copied to the output.",
}
"""Options of ``predict`` alone, with their help."""

SEEDS = 2**32
"""Number of possible seeds; NumPy takes no others."""

MOST_THREADS = 1024

TEST_SETS = (
    "Give each participant one by own_fractions, such as [0.7, 0.1, 0.2], or in a data module of your own by "
    "FederatedData(test=...)."
)
"""Remedy for data without test sets."""

DESCRIPTION = """Heterogeneous federated learning on PyTorch Lightning. `hetfed --help` lists all commands."""

EPILOG = """Beside these: `-c FILE` may be repeated, later files over earlier ones, and `-c hetfed:NAME` names one of
the examples that come with the package. `--model.participants.NAME.init_args.KEY VALUE` overrides a value of one
participant. `--method NAME` trains by another method than the configuration's, with `--method.KEY VALUE` for its
arguments. `--allow_import PACKAGE` lets the configuration name classes of that package; it may be repeated.
`--data.help CLASS`, `--model.participants.help CLASS` and their kin list the arguments of a class. A variable such as
HETFED_TRAINER__MAX_EPOCHS stands for `--trainer.max_epochs`, and HETFED_CONFIG for `-c`."""
"""Text of the help on options that are read before the parser's own."""


class FederatedCLI(LightningCLI):
    """``hetfed fit|validate|test|predict``: a federation, its data and its Trainer from YAML and options.

    Several ``-c`` files are merged deeply: a file with one participant adds it to those of the files before it, and
    ``--model.participants.NAME.init_args...`` overrides a single value.

    A subclass may set other defaults or add options in :meth:`add_arguments_to_parser`, and add subcommands: entries of
    ``subcommands()`` with a method each, whose arguments are its options (docs/command_line.md).

    Args:
        args: Command line without the program's name.
        run: True to run a subcommand; False to make the classes alone.
        environment: Variables such as ``HETFED_TRAINER__MAX_EPOCHS``, which stand for options; none by default.
    """

    model: Federation
    prog = "hetfed"
    description = DESCRIPTION

    def __init__(
        self, args: Sequence[str], *, run: bool = True, environment: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self._environment = environment
        self._first = args[0] if args else ""
        self._called: LightningArgumentParser | None = None
        super().__init__(
            Federation,
            FederatedDataModule,
            subclass_mode_data=True,
            trainer_class=self._trainer_class(),
            trainer_defaults={
                "strategy": "federated",
                "callbacks": [FederatedProgressBar(), ModelSummary(max_depth=2)],
            },
            seed_everything_default=0,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            save_config_callback=SavedConfiguration,
            save_config_kwargs={"overwrite": True},
            parser_kwargs={
                "prog": self.prog,
                "description": self.description,
                "exit_on_error": False,
                "allow_abbrev": False,
            },
            args=list(args),
            run=run,
        )

    @classmethod
    def _trainer_class(cls) -> type[L.Trainer]:
        """Trainer that has the subcommands of a subclass too, since LightningCLI reads their arguments there."""
        added = {name: getattr(cls, name) for name in cls.subcommands() if not hasattr(L.Trainer, name)}
        return type("Trainer", (L.Trainer,), added) if added else L.Trainer

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add options of the process, and make the parser read no other file that a value may name, being unchecked."""
        read_no_other_file(parser)
        parser.epilog = EPILOG
        parser.add_argument(
            "--threads",
            type=PositiveInt | None,
            default=None,
            help="Threads of torch on a CPU. 1 is fastest for small models, and wherever other programs run.",
        )

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        """Parser of a subcommand, without arguments if the command line begins with another, which saves their time."""
        if self._first in self.subcommands() and self._first != subcommand:
            return self.init_parser(**kwargs)
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        for option, sentence in PREDICT_OPTIONS.items() if subcommand == "predict" else ():
            parser.add_argument(option, type=str | None, default=None, help=sentence)
        if self._first == subcommand:
            self._called = parser
        return parser

    def _from_environment(self, parser: LightningArgumentParser, given: Sequence[str]) -> list[str]:
        """Arguments that variables of the environment stand for; their names are logged."""
        arguments, used = from_environment(self._environment, options_of(parser), given)
        if used:
            log.info("From the environment: %s", ", ".join(used))
        return arguments

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Merge the configuration files and parse the whole; if that fails, each participant by itself, to name it.

        Args:
            parser: Parser of the classes.
            args: Command line without the program's name.

        Raises:
            ConfigError: If a file, a participant or a number cannot be used; names it.
        """
        command = [args[0]] if args and not args[0].startswith("-") else []
        own = list(args[len(command) :])
        found = split_arguments([*self._from_environment(self._called or parser, own), *own])
        restrict_imports(found.allow_import, [Path(one).parent for one in found.configs])
        arguments = found.rest
        if found.configs:
            config = self.read_configs(found)
            labelled_participants(config)
            if config.get("weights_only") is not None and config["weights_only"] is not True:
                raise ConfigError(
                    "weights_only: a configuration may not switch it off, since the checkpoint could then run any "
                    "code. If you trust it, pass --weights_only false."
                )
            if not command:  # A run's config.yaml holds options of its subcommand too.
                config = {key: value for key, value in config.items() if key not in {"ckpt_path", "weights_only"}}
            arguments = ["--config", parser_text(config), *arguments]
        elif found.participants:
            raise ConfigError(
                f"--model.participants.{found.participants[0][0]}: give the configuration with -c as well."
            )
        if found.method and not found.configs:
            raise ConfigError(f"--method {found.method}: give the configuration with -c as well.")
        if found.method_arguments and not found.method:
            raise ConfigError(f"--method.{found.method_arguments[0][0]}: give --method NAME as well.")
        try:
            self.config = parser.parse_args([*command, *arguments])
        except ArgumentError:
            if found.configs:
                check_participants(config)
            raise
        settings = self.config.get(command[0]) if command else self.config
        _check_numbers(settings)
        self._guard_checkpoint(settings if command else None, resuming=command == ["fit"])

    def read_configs(self, found: Arguments) -> dict[str, Any]:
        """Merged configuration of the files on a command line."""
        config = load_configs(found.configs, found.participants)
        if found.method:
            config = with_method(config, found.method, found.method_arguments, found.allow_import)
        return config

    @staticmethod
    def _guard_checkpoint(settings: Any, *, resuming: bool) -> None:
        """Check the checkpoint before any class is made: Lightning would fetch one from an address, and run it."""
        if settings is None or "ckpt_path" not in settings:
            return
        path = settings.ckpt_path
        if path is not None and path not in RESERVED:
            path = settings.ckpt_path = str(path) if "://" in str(path) else str(with_home(path))
            check_checkpoint(path, resuming=resuming, trusted=settings.weights_only is False)
        if settings.weights_only is None:
            settings.weights_only = True

    def _parse_ckpt_path(self) -> None:
        """Do nothing: a federation is made of its configuration alone, and an older file may replace a damaged one."""

    def instantiate_classes(self) -> None:
        """Make the classes; the monitor and the run's record show the resolved configuration."""
        self.set_threads()
        self._dump_config()
        resolved = yaml.safe_dump(self.config_dump, sort_keys=False)
        self.save_config_kwargs["resolved"] = self.config_dump
        configured = [str(one.get("class_path", "")).rpartition(".")[2] for one in self._configured_callbacks()]
        for kind in (FederationMonitor, RunRecord):
            if kind.__name__ not in configured:
                self.trainer_defaults["callbacks"].append(kind(config=resolved))
        with naming_participants(self._get(self.config, "model")):
            super().instantiate_classes()

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """Trainer whose defaults give way to the configuration's settings."""
        settings = self._get(self.config_init, "trainer", default={})
        refuse_equal_names(settings.get("callbacks") or [])
        self.trainer_defaults["callbacks"] = self.default_callbacks(settings)
        return super().instantiate_trainer(**kwargs)

    def default_callbacks(self, settings: Any) -> list[L.Callback]:
        """Default callbacks that a Trainer's settings neither replace nor switch off.

        Args:
            settings: Settings of the Trainer, its callbacks made.
        """
        callbacks = settings.get("callbacks") or []
        callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
        defaults: list[L.Callback] = list(self.trainer_defaults["callbacks"])
        for kind, option in ((ProgressBar, "enable_progress_bar"), (ModelSummary, "enable_model_summary")):
            if settings.get(option) is False or any(isinstance(one, kind) for one in callbacks):
                defaults = [one for one in defaults if not isinstance(one, kind)]
        return defaults

    def set_threads(self) -> None:
        """Apply ``--threads``."""
        threads = self._get(self.config, "threads")
        if threads is not None:
            torch.set_num_threads(threads)

    def _configured_callbacks(self) -> list[Mapping[str, Any]]:
        callbacks = (self.config_dump.get("trainer") or {}).get("callbacks") or []
        return callbacks if isinstance(callbacks, list) else [callbacks]

    @property
    def folder(self) -> Path:
        """Folder of this run's files."""
        return run_folder(self.trainer)

    def _report(self, stage: str) -> None:
        metrics = {key: float(value) for key, value in self.trainer.callback_metrics.items()}
        table = participants_table(metrics, self.model.everyone(), stage)
        if not table.rows and stage == "val":
            log.info("Nobody was measured: there are no validation sets. `hetfed test` measures on test sets.")
        if not table.rows and stage == "test":
            log.info("Nobody was measured: there are no test sets. %s", TEST_SETS)
        if table.rows and self.trainer.is_global_zero:
            what = {"val": "Validation", "test": "Test"}[stage]
            log.info("\n%s (own: each participant's own data; global: everyone's)\n\n%s\n", what, table.text())

    def after_fit(self) -> None:
        """Log each participant's validation figures, and the places of logs and checkpoint."""
        if not self.model.has_trained:
            log.info("`%s validate` measures what the checkpoint holds.", self.prog)
            return
        self._report("val")
        for one in of_type(self.trainer, EarlyStopping):
            if one.stopping_reason_message:
                log.info("EarlyStopping ended the run after round %d: %s", one.stopped_epoch + 1, one.monitor)
        for logger in self.trainer.loggers if self.trainer.is_global_zero else ():
            log.info("Logs: %s", where_to_look(logger))
        best = getattr(self.trainer.checkpoint_callback, "best_model_path", "")
        if best:
            log.info("Checkpoint: %s", best)

    def _warn_untrained(self, ckpt_path: Any) -> None:
        if ckpt_path is None:
            log.warning("No --ckpt_path was given: these are networks that nobody has trained.")

    def fit(self, **arguments: Any) -> None:
        """Train; if a signal ends that, log the command that goes on."""
        try:
            self.trainer.fit(**arguments)
        except SIGTERMException:
            self._tell_how_to_go_on()
            raise

    def _tell_how_to_go_on(self) -> None:
        preemption = self.model.preemption
        if preemption is None or preemption.file is None:
            return
        saved = next((one.path for one in of_type(self.trainer, SavedConfiguration)), None)
        found = "-c YOUR.yaml" if saved is None else f"-c {saved}"
        log.info("To go on:\n  %s fit %s --ckpt_path %s", self.prog, found, preemption.file)

    def validate(self, **arguments: Any) -> None:
        """Validate, and log one table instead of a block per loader."""
        self._warn_untrained(arguments.get("ckpt_path"))
        self.trainer.validate(**arguments | {"verbose": False})
        self._report("val")

    def test(self, **arguments: Any) -> None:
        """Test, and log one table instead of a block per loader."""
        self._warn_untrained(arguments.get("ckpt_path"))
        self.trainer.test(**arguments | {"verbose": False})
        self._report("test")

    def predict(self, **arguments: Any) -> None:
        """Predict on test sets or on ``--input``, and write one table; of test sets a CSV file for each as well."""
        asked = {option[2:]: self._get(self.config, option[2:]) for option in PREDICT_OPTIONS}
        output = None if asked["output"] is None else with_home(asked["output"])
        if output is not None:
            check_output(output)
        self._check_predictor(asked, arguments.get("ckpt_path"))
        who = self.model.predict_with or (STUDENT if self.model.student is not None else None)
        rows = ids = None
        if asked["input"] is not None:
            rows, ids = read_new_rows(asked["input"], arguments["datamodule"], self.model, who, asked["id"])
            arguments["datamodule"] = rows
        self._warn_untrained(arguments.get("ckpt_path"))
        predictions = self.trainer.predict(**arguments | {"return_predictions": True})
        loaders = cast("Mapping[str, Any]", self.trainer.predict_dataloaders)
        if not loaders:
            raise ConfigError(
                f"data: each participant predicts on its own test set, and there are none. {TEST_SETS} For one model's "
                "predictions on everyone's test set give --model.predict_with."
            )
        if not self.trainer.is_global_zero:
            return
        if output is None and rows is None:
            self._write_by_participant(predictions, list(loaders), who)
        columns = predictions_of_loaders(self.model, loaders, predictions, who, rows)
        columns = columns if rows is None else in_order_of_the_file(columns, ids)
        log.info("All predictions: %s", write_table(columns, output or self.folder / "predictions.csv"))

    def _check_predictor(self, asked: Mapping[str, Any], ckpt_path: Any) -> None:
        """Check the options of ``predict`` together, and make ``--participant`` the predictor."""
        if asked["input"] is None and asked["id"] is not None:
            raise ConfigError("--id: names a column of the file of --input; give --input as well.")
        if asked["input"] is not None and ckpt_path is None:
            raise ConfigError("--input: give --ckpt_path, the checkpoint of the federation that is to predict.")
        if asked["participant"] is not None:
            everyone = self.model.everyone()
            if asked["participant"] not in everyone:
                hint = did_you_mean(asked["participant"], everyone)
                raise ConfigError(f"--participant: no participant {asked['participant']!r}{hint}")
            self.model.predict_with = asked["participant"]

    def _write_by_participant(self, predictions: Any, names: list[str], who: str | None) -> None:
        predicted = []
        for name in names:
            file = name if who is None else who if name == GLOBAL else f"{who}_on_{name}"
            classes = schema_of(self.model, who or name).classes
            predicted.append(Predicted(file, self.model[who or name].task.kind, classes))
        for path in write_predictions(predictions, predicted, self.folder / "predictions"):
            log.info("Predictions: %s", path)


def _check_numbers(settings: Any) -> None:
    """Refuse numbers that a library would refuse later without naming the key."""
    seed, threads = settings.get("seed_everything"), settings.get("threads")
    if isinstance(seed, int) and not isinstance(seed, bool) and not 0 <= seed < SEEDS:
        raise ConfigError(f"seed_everything: expected an integer from 0 to {SEEDS - 1}, got {seed}.")
    if threads is not None and threads > MOST_THREADS:
        raise ConfigError(f"threads: expected an integer from 1 to {MOST_THREADS}, got {threads}.")
