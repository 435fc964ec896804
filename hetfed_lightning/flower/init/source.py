"""The federation to deploy: its configuration as written, and the objects that ``hetfed fit`` would make of it."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from torch import Tensor

from hetfed_lightning.cli.command import FederatedCLI
from hetfed_lightning.cli.configs import Arguments
from hetfed_lightning.cli.error_owner import naming_participants
from hetfed_lightning.cli.errors import ConfigError
from hetfed_lightning.cli.examples import configuration_path
from hetfed_lightning.cli.groups import settings_by_member
from hetfed_lightning.data import FederatedDataModule
from hetfed_lightning.data.examples import Inputs
from hetfed_lightning.federation.federation import Federation
from hetfed_lightning.federation.preflight import check_names
from hetfed_lightning.flower.files.config_errors import naming_file
from hetfed_lightning.flower.init.own_code import own_modules
from hetfed_lightning.flower.protocol.deployable import as_list
from hetfed_lightning.methods.distillation.ensemble_distillation import EnsembleDistillation

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """A federation in one configuration.

    Attributes:
        path: File of the configuration, the last of several.
        written: Content of the files, groups in the parser's form.
        parsed: The same with every default.
        members: Settings of each participant as written, by name.
        federation: The federation, with the weights that ``hetfed fit`` begins with.
        callbacks: Callbacks of the Trainer, in their order.
        data: The data module, not loaded yet.
        allow_import: Packages that the configuration may name.
        modules: Files of those of them that lie beside it or in the current folder, by path.
    """

    path: Path
    written: Mapping[str, Any]
    parsed: Namespace
    members: Mapping[str, Mapping[str, Any]]
    federation: Federation
    callbacks: list[Any]
    data: FederatedDataModule
    allow_import: tuple[str, ...] = ()
    modules: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """The participants, in their order."""
        return tuple(self.members)

    @property
    def distils(self) -> bool:
        """True if there is a distillation, which needs a common public set."""
        return any(isinstance(one, EnsembleDistillation) for one in self.callbacks)

    def public_inputs(self) -> Inputs:
        """Inputs of the public set, shape ``(P, ...)`` or a mapping of such, in order.

        Raises:
            ConfigError: If the data cannot be read here, or has none.
        """
        try:
            self.data.prepare_data()
            self.data.replace_data(self.data.load(self.names))
            check_names(self.federation.members(), self.data)
            count = self.data.num_public
            inputs = self.data.public_inputs(torch.arange(count)) if count else None
        except (ValueError, OSError, RuntimeError, ImportError, LookupError) as error:
            raise ConfigError(
                f"data: the public set could not be read here: {error}. Sites and server need the same, so the data "
                "that it is taken from has to be readable where the deployment is made."
            ) from error
        if inputs is None:
            raise ConfigError(
                "data: EnsembleDistillation needs a public set, and the data module has none: give it one (public_size "
                "in the built-in data modules)."
            )
        named = inputs.values() if isinstance(inputs, dict) else [inputs]
        if not all(isinstance(one, Tensor) for one in named):
            raise ConfigError(f"data: the public set has to be tensors, found {type(inputs).__name__}.")
        return inputs  # type: ignore[no-any-return]  # public_inputs gives what a data set of any kind has


class SourceCLI(FederatedCLI):
    """Options of a configuration to deploy; makes its classes only when told to.

    Attributes:
        written: Content of the configuration files.
    """

    prog = "hetfed deploy init"
    written: dict[str, Any]

    def read_configs(self, found: Arguments) -> dict[str, Any]:
        """Configuration, of which a copy is kept."""
        config = super().read_configs(found)
        self.written = _copied(config)
        return config

    def instantiate_classes(self) -> None:
        """Make no class yet."""
        self.set_threads()


def read_source(configs: Sequence[str], allow_import: Sequence[str] = ()) -> Source:
    """Federation as ``hetfed fit`` makes it, its weights drawn in the same order from the same seed.

    Args:
        configs: Files, merged deeply.
        allow_import: Packages that they may name beside those that every configuration may.

    Raises:
        ConfigError: If one cannot be used; names the file, and the participant or the key.
    """
    configs = [configuration_path(one) for one in configs]
    path = Path(configs[-1])
    with naming_file(path):
        arguments = [part for one in configs for part in ("-c", one)]
        arguments += [part for one in allow_import for part in ("--allow_import", one)]
        cli = SourceCLI(arguments, run=False)  # Seeds the process.
        with naming_participants(cli.config.model):
            made = cli.parser.instantiate(cli.config.clone())
        federation: Federation = made.model
        settings = settings_by_member(cli.written["model"]["participants"])
        members = {name: _copied(settings[name]) for name in federation.members()}
        written = cli.written | {"data": _with_class_path(cli.written.get("data"))}
        return Source(
            path, written, cli.config, members, federation, as_list(made.trainer.get("callbacks")), made.data,
            tuple(allow_import), own_modules(allow_import, [Path(one).parent for one in configs]),
        )  # fmt: skip


def _copied(config: Any) -> Any:
    """Copy of a configuration in which every repetition by an anchor is an object of its own."""
    return json.loads(json.dumps(config))


def _with_class_path(settings: Any) -> Any:
    return {"class_path": settings, "init_args": {}} if isinstance(settings, str) else settings
