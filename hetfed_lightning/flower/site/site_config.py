"""A site's configuration: one participant of a federation, its data and how its rounds are trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
from jsonargparse import Namespace

from hetfed_lightning.cli.blame import naming_participants
from hetfed_lightning.cli.command import FederatedCLI
from hetfed_lightning.cli.configs import Arguments
from hetfed_lightning.cli.errors import ConfigError
from hetfed_lightning.data import FederatedDataModule
from hetfed_lightning.federation import Federation
from hetfed_lightning.flower.files.config_errors import naming_file
from hetfed_lightning.flower.files.initial_weights import START, load_start
from hetfed_lightning.flower.files.paths import absolute, with_paths
from hetfed_lightning.flower.protocol.deployable import as_list, check_deployable


@dataclass(frozen=True)
class SiteConfig:
    """What a site trains.

    Attributes:
        path: The file that it was read from.
        participant: The participant's name.
        federation: Of this participant alone, with its initial weights.
        data: Its data, not loaded yet.
        trainer: Arguments of ``lightning.Trainer``, callbacks apart.
        callbacks: Those that take part in rounds, in their order.
    """

    path: Path
    participant: str
    federation: Federation
    data: FederatedDataModule
    trainer: dict[str, Any]
    callbacks: list[L.Callback]


class SiteCLI(FederatedCLI):
    """Options of a site; makes nothing. Relative paths of its data are those below the file's folder."""

    prog = "site"
    description = "One participant of a federation between institutions."

    def read_configs(self, found: Arguments) -> dict[str, Any]:
        """The configuration, its paths absolute."""
        config = super().read_configs(found)
        folder = Path(found.configs[-1]).parent
        return config | {"data": with_paths(config.get("data"), lambda path: absolute(path, folder))}

    def instantiate_classes(self) -> None:
        """Nothing yet."""
        self.set_threads()


def read_site_config(path: str | Path, participant: str, allow_import: Sequence[str] = ()) -> SiteConfig:
    """What a site trains, from its ``site.yaml`` and the initial weights that lie beside it.

    Seeds the process and sets its threads, as ``hetfed fit`` does. Without a file of weights they are drawn.

    Args:
        path: The file.
        participant: Whose it has to be.
        allow_import: Packages that it may name beside those that every configuration may.

    Raises:
        ConfigError: Naming the file and the key.
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
