"""A site's configuration: one participant of a federation, its data and how its rounds are trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
from jsonargparse import Namespace

from hetfed_lightning.cli.command import FederatedCLI
from hetfed_lightning.cli.configs import Arguments
from hetfed_lightning.cli.error_owner import naming_participants
from hetfed_lightning.cli.errors import ConfigError
from hetfed_lightning.data import FederatedDataModule
from hetfed_lightning.federation.federation import Federation
from hetfed_lightning.flower.files.config_errors import naming_file
from hetfed_lightning.flower.files.initial_weights import START, load_start
from hetfed_lightning.flower.files.paths import absolute, with_paths
from hetfed_lightning.flower.protocol.deployable import as_list, check_deployable


@dataclass(frozen=True)
class SiteConfig:
    """Objects of a site's configuration.

    Attributes:
        path: File that it was read from.
        participant: Name of the participant.
        federation: Federation of this participant alone, with its initial weights.
        data: Its data module, not loaded yet.
        trainer: Arguments of ``lightning.Trainer``, callbacks apart.
        callbacks: Callbacks that take part in rounds, in their order.
    """

    path: Path
    participant: str
    federation: Federation
    data: FederatedDataModule
    trainer: dict[str, Any]
    callbacks: list[L.Callback]


class SiteCLI(FederatedCLI):
    """Options of a site; makes no class. Relative paths of its data are taken from the file's folder."""

    prog = "site"
    description = "One participant of a federation between institutions."

    def read_configs(self, found: Arguments) -> dict[str, Any]:
        """Configuration with absolute paths."""
        config = super().read_configs(found)
        folder = Path(found.configs[-1]).parent
        return config | {"data": with_paths(config.get("data"), lambda path: absolute(path, folder))}

    def instantiate_classes(self) -> None:
        """Make no class yet."""
        self.set_threads()


def read_site_config(path: str | Path, participant: str, allow_import: Sequence[str] = ()) -> SiteConfig:
    """Configuration of a site, from its ``site.yaml`` and the initial weights beside it.

    Seeds the process and sets its threads, as ``hetfed fit`` does. Without a file of weights they are drawn.

    Args:
        path: The file.
        participant: Name of the participant that it has to have.
        allow_import: Packages that it may name beside those that every configuration may.

    Raises:
        ConfigError: If it cannot be used; names the file and the key.
    """
    file = Path(path).absolute()
    with naming_file(file, "allow-import="):
        allowed = [part for one in allow_import for part in ("--allow_import", one)]
        cli = SiteCLI(["-c", str(file), *allowed], run=False)
        names = list(cli.config.model.participants)
        if names != [participant]:
            raise ConfigError(
                f"model.participants: expected {participant!r} alone, which the node's configuration names, found "
                f"{', '.join(names)}."
            )
        with naming_participants(cli.config.model):
            made = cli.parser.instantiate(cli.config.clone())
        settings: dict[str, Any] = made.trainer.as_dict() if isinstance(made.trainer, Namespace) else dict(made.trainer)
        callbacks = as_list(settings.pop("callbacks", None))
        check_deployable(callbacks)
        federation: Federation = made.model
        if list(federation.members()) != [participant]:
            raise ConfigError(f"model.participants.{participant}: expected one participant, found a group of them.")
        if (file.parent / START).exists():
            load_start(federation[participant], file.parent / START)
        return SiteConfig(file, participant, federation, made.data, settings, callbacks)
