"""Deployments written for a test, in this process."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

from hetfed_lightning.cli.command import FederatedCLI
from hetfed_lightning.data import Examples, FederatedDataModule
from hetfed_lightning.federation.federation import Federation
from hetfed_lightning.flower.init import init_command
from hetfed_lightning.participants.participant import Participant

CONFIGS = Path(__file__).parents[2] / "configs"


@dataclass(frozen=True)
class Local:
    """What ``hetfed fit`` would train in one process."""

    federation: Federation
    data: FederatedDataModule


class BareCLI(FederatedCLI):
    """Makes the model and the data of a run, and nothing that writes."""

    def instantiate_classes(self) -> None:
        made = self.parser.instantiate(self.config.clone())
        self.model, self.datamodule = made.model, made.data


@cache
def local(*arguments: str) -> Local:
    """The run in one process of a command line, as it stands before its first step."""
    cli = BareCLI(arguments, run=False)
    cli.datamodule.replace_data(cli.datamodule.load(tuple(cli.model.participants)))
    return Local(cli.model, cli.datamodule)


def deployed(config: str | Path, folder: Path, *options: str) -> Path:
    """The folder that the command writes for one of the configurations, or for a file."""
    path = CONFIGS / f"{config}.yaml" if isinstance(config, str) else config
    init_command([str(path), "-o", str(folder), *options])
    return folder


def read(path: Path) -> Any:
    """A YAML file."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def weights(path: Path) -> dict[str, Tensor]:
    """A file of weights."""
    return load_file(path)


def same_state(participant: Participant, found: dict[str, Tensor]) -> bool:
    """Whether a file holds exactly what a participant has."""
    own = participant.state_dict()
    return own.keys() == found.keys() and all(torch.equal(own[key], found[key]) for key in own)


def contents(dataset: Any) -> list[Tensor]:
    """All tensors of a data set, inputs by name in alphabetical order."""
    if not isinstance(dataset, Examples):
        return [part for index in range(len(dataset)) for part in tensors_in(dataset[index])]
    inputs, targets = dataset.batch(torch.arange(len(dataset)))
    return tensors_in((inputs, targets))


def same(first: Any, second: Any) -> bool:
    """Whether two data sets hold the same examples in the same order, to the bit; None is the same as None."""
    if first is None or second is None:
        return first is second
    return same_tensors(contents(first), contents(second))


def same_tensors(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    """Whether tensors are equal one by one; missing values are equal to missing values."""
    return len(first) == len(second) and all(
        one.dtype == other.dtype and torch.equal(one.nan_to_num(9e9), other.nan_to_num(9e9))
        for one, other in zip(first, second, strict=True)
    )


def tensors_in(value: Any) -> list[Tensor]:
    """All tensors of a sample or a batch, inputs by name in alphabetical order."""
    if isinstance(value, dict):
        return [part for key in sorted(value) for part in tensors_in(value[key])]
    if isinstance(value, tuple | list):
        return [part for one in value for part in tensors_in(one)]
    return [] if value is None else [value]
