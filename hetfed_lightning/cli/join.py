"""``hetfed join``: a participant joins a trained federation, whose members stay unchanged."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import lightning as L
import yaml
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser

from hetfed_lightning.checkpointing.atomic import write_atomically
from hetfed_lightning.checkpointing.reading import read_checkpoint
from hetfed_lightning.checkpointing.sealing import write_checkpoint
from hetfed_lightning.cli.command import FederatedCLI
from hetfed_lightning.cli.configs import ConfigError, check_checkpoint, read_config, split_arguments
from hetfed_lightning.cli.error_owner import naming_participants
from hetfed_lightning.cli.examples import configuration_path
from hetfed_lightning.cli.groups import settings_by_member
from hetfed_lightning.cli.run_files import CHECKPOINT, CONFIG, config_of_run, tell_how_to_go_on
from hetfed_lightning.cli.schemas import saved_schema
from hetfed_lightning.data.module import FederatedDataModule
from hetfed_lightning.data.name_checks import did_you_mean
from hetfed_lightning.data.partitioned import PartitionedDataModule
from hetfed_lightning.federated_callback import FederatedCallback, Phase
from hetfed_lightning.federation.federation import Federation
from hetfed_lightning.federation.membership import members_of, with_member
from hetfed_lightning.methods.averaging.private_averaging import PrivateAveraging
from hetfed_lightning.methods.averaging.sharing_groups import SEPARATOR
from hetfed_lightning.methods.distillation.ensemble_distillation import EnsembleDistillation
from hetfed_lightning.methods.inheritance import Inheritance
from hetfed_lightning.participants.participant import Participant, participant_state

log = logging.getLogger(__name__)

DEALT = (
    "%s deals one pool out to everybody: with one participant more all have other examples than those that they "
    "trained on, and what is measured here is of a simulation. Data with names of its own stays as it is."
)


class JoinCLI(FederatedCLI):
    """Options of ``hetfed join``; makes nothing until :meth:`join` is called.

    Attributes:
        given: Participants that the newcomer's configuration names.
    """

    prog = "hetfed join"
    description = """A participant joins a trained federation: `hetfed join --ckpt_path run.ckpt -c newcomer.yaml`. Its
configuration is laid over that of the run, which is found beside the checkpoint; it trains alone for trainer.max_epochs
rounds, the others stay as they are, and OUTPUT receives a checkpoint and a configuration of all."""
    given: Sequence[str] = ()

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options of joining."""
        super().add_arguments_to_parser(parser)
        parser.add_argument("--ckpt_path", type=str | None, default=None, help="The trained federation's checkpoint.")
        parser.add_argument("--output", type=str, default="joined", help="Folder of the new checkpoint.")

    def instantiate_classes(self) -> None:
        """Make no class yet: the trained federation and the newcomer's run are made of one configuration."""
        self.set_threads()

    def join(self, ckpt_path: str) -> Path:
        """Folder with one checkpoint of the federation and the newcomer, which is trained here.

        Args:
            ckpt_path: Checkpoint of the trained federation.

        Raises:
            ConfigError: If the configuration has not exactly one participant that the checkpoint lacks.
        """
        checkpoint = read_checkpoint(ckpt_path)
        name = self._newcomer(members_of(checkpoint), ckpt_path)
        L.seed_everything(self.config.seed_everything, verbose=False)
        with naming_participants(self.config.model):
            made = self.parser.instantiate(self.config.clone())
        _check_private(made.trainer.get("callbacks"), made.model[name])
        source, distillation = _trained(made.model, made.trainer, checkpoint, name, ckpt_path)
        federation, data = Federation({name: made.model.drop(name)}, seed=made.model.seed), made.data
        known = {one: saved_schema(checkpoint, one, ckpt_path) for one in members_of(checkpoint)}
        data.learned = {one: schema for one, schema in known.items() if schema is not None}
        _restrict(data, name, tuple(members_of(checkpoint)))
        federation[name].attend()
        trainer = self._trainer(made.trainer, Inheritance(source, distillation))
        log.info("%s joins %s of %s.", name, ", ".join(members_of(checkpoint)), ckpt_path)
        trainer.fit(federation, datamodule=data)
        self.model, self.trainer = federation, trainer
        self._report("val")
        if data.data.test:
            trainer.test(federation, datamodule=data, verbose=False)
            self._report("test")
        return self._write(checkpoint, name)

    def _newcomer(self, there: Sequence[str], ckpt_path: str) -> str:
        names = list(settings_by_member(_plain(self.config.model.participants)))
        missing = [name for name in there if name not in names]
        if missing:
            raise ConfigError(
                f"{ckpt_path} has {', '.join(missing)}, the configuration has not. Give the run's config.yaml with -c, "
                "before the newcomer's."
            )
        new = [name for name in names if name not in there]
        if not new and (taken := [name for name in self.given if name in there]):
            raise ConfigError(f"-c: {taken[0]!r} is in {ckpt_path} already; give the newcomer another name.")
        if len(new) != 1:
            found = ", ".join(new) or "none"
            raise ConfigError(
                f"-c: expected one participant that is not in {ckpt_path}, which has {', '.join(there)}; found {found}."
            )
        return new[0]

    def _trainer(self, settings: Any, inheritance: Inheritance) -> L.Trainer:
        arguments: dict[str, Any] = dict(settings.as_dict() if isinstance(settings, Namespace) else settings)
        found = arguments.get("callbacks") or []
        found = found if isinstance(found, list) else [found]
        together = (Phase.DISTILLATION, Phase.AVERAGING)
        kept = [one for one in found if not (isinstance(one, FederatedCallback) and one.phase in together)]
        return L.Trainer(**arguments | {"callbacks": [*self.default_callbacks(arguments), *kept, inheritance]})

    def _write(self, checkpoint: Mapping[str, Any], name: str) -> Path:
        folder = Path(self.config.output)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            file = Path(temporary) / "newcomer.ckpt"
            self.trainer.save_checkpoint(file, weights_only=False)
            joined = with_member(checkpoint, read_checkpoint(file), name)
        write_checkpoint(joined, folder / CHECKPOINT)
        config = yaml.safe_load(self.parser.dump(self.config, skip_none=False))
        for option in ("output", "ckpt_path"):
            config.pop(option, None)
        _place(config["model"]["participants"], name)["joins_at"] = 0
        write_atomically(folder / CONFIG, yaml.safe_dump(config, sort_keys=False))
        tell_how_to_go_on(folder)
        return folder


def join_command(arguments: Sequence[str]) -> Path:
    """``hetfed join --ckpt_path run.ckpt -c newcomer.yaml``: see :class:`JoinCLI`.

    The configuration of the trained federation is the ``config.yaml`` of its run, found beside the checkpoint. The
    files given with ``-c`` are merged over it.
    """
    rest = list(arguments)
    if {"-h", "--help"} & set(rest):
        JoinCLI(rest, run=False)
    ckpt_path = _option(rest, "--ckpt_path", "The trained federation's checkpoint, a file.")
    check_checkpoint(ckpt_path)
    there = members_of(read_checkpoint(ckpt_path, map_location="meta", mmap=True))
    found = split_arguments(rest)
    if not found.configs:
        raise ConfigError("-c: give the newcomer's configuration, a file with model.participants.NAME.")
    base = [] if set(there) <= set(_names_in(found.configs)) else ["-c", str(config_of_run(ckpt_path))]
    cli = JoinCLI([*base, *rest], run=False)
    cli.given = sorted(_names_in(found.configs))
    return cli.join(ckpt_path)


def _option(arguments: list[str], option: str, meaning: str) -> str:
    """Value of an option, which is taken out of the arguments."""
    for place, argument in enumerate(arguments):
        if argument.startswith(f"{option}="):
            del arguments[place]
            return argument.partition("=")[2]
        if argument == option and place + 1 < len(arguments):
            value = arguments[place + 1]
            del arguments[place : place + 2]
            return value
    raise ConfigError(f"{option}: expected. {meaning}")


def _names_in(configs: Sequence[str]) -> set[str]:
    names: set[str] = set()
    for path in configs:
        model = read_config(configuration_path(path)).get("model")
        participants = model.get("participants") if isinstance(model, dict) else None
        names |= set(participants) if isinstance(participants, dict) else set()
    return names


def _plain(participants: Any) -> dict[str, Any]:
    return {name: one.as_dict() if isinstance(one, Namespace) else one for name, one in participants.items()}


def _trained(
    everyone: Federation, trainer: Any, checkpoint: Mapping[str, Any], newcomer: str, ckpt_path: str
) -> tuple[Federation, EnsembleDistillation | None]:
    """Federation of a checkpoint without the newcomer, and the distillation that combines its teachers."""
    source = deepcopy(everyone)
    source.drop(newcomer)
    for name, participant in source.everyone().items():
        state = participant_state(checkpoint["state_dict"], name, ckpt_path)
        try:
            participant.load_state_dict(state)
        except RuntimeError as error:
            raise ConfigError(
                f"participant {name!r} of the configuration is not the one in {ckpt_path}: {error}"
            ) from error
    callbacks = trainer.get("callbacks") or []
    for callback in callbacks if isinstance(callbacks, list) else [callbacks]:
        if isinstance(callback, PrivateAveraging):
            _hold_what_was_released(source, checkpoint.get("callbacks", {}).get(callback.state_key))
            return source, None
        if isinstance(callback, EnsembleDistillation):
            state = checkpoint.get("callbacks", {}).get(callback.state_key)
            if state is not None:
                callback.load_state_dict(state)
            return source, callback
    return source, None


def _hold_what_was_released(source: Federation, state: Mapping[str, Any] | None) -> None:
    """Set shared tensors to the last noised release, since changes after it are private to the participants."""
    for group, tensors in (state or {}).get("shared", {}).items():
        for name in group.split(SEPARATOR):
            source[name].load_state_of(tensors)


def _check_private(callbacks: Any, newcomer: Participant) -> None:
    """Refuse distillation from a federation with private averages: its members' outputs carry no noise.

    Raises:
        ConfigError: If the newcomer would distil; says what to set instead.
    """
    private = any(isinstance(one, PrivateAveraging) for one in (callbacks if isinstance(callbacks, list) else []))
    if private and newcomer.transfer is not None and newcomer.transfer.distillation_epochs:
        raise ConfigError(
            f"{newcomer.label}: transfer.distillation_epochs: the federation's averages are private, and answers "
            "that would teach a newcomer carry no noise. Set it to 0: the newcomer begins with the shared weights."
        )


def _restrict(data: FederatedDataModule, name: str, there: tuple[str, ...]) -> None:
    """Restrict the data module to the newcomer's data."""
    if isinstance(data, PartitionedDataModule):
        log.warning(DEALT, type(data).__name__)
    whole = data.load((*there, name))
    if name not in whole.train:
        raise ConfigError(f"data: there is no training set for {name!r}{did_you_mean(name, list(whole.train))}.")

    def own(sets: Mapping[str, Any]) -> dict[str, Any]:
        return {name: sets[name]} if name in sets else {}

    data.replace_data(replace(whole, train=own(whole.train), val=own(whole.val), test=own(whole.test)))


def _place(participants: dict[str, Any], name: str) -> dict[str, Any]:
    return cast("dict[str, Any]", participants[name].setdefault("init_args", {}))
