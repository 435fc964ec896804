"""The four hospitals of configs/hospitals.yaml, one of which attacks what they share."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any

import lightning as L
import torch

from hetfed_lightning import BackboneAveraging, Federation
from hetfed_lightning.aggregation import AggregationFunction
from hetfed_lightning.cli.compare import CompareCLI
from hetfed_lightning.data import Examples
from hetfed_lightning.metrics import BalancedAccuracy
from hetfed_lightning.showcases import HospitalsDataModule
from scripts.attacking.attacks import CLAIM, Attack, Tampering, flipping_labels, free_riding
from scripts.attacking.digits import examples_of, quiet_trainer

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "hospitals.yaml"


class Claimed(HospitalsDataModule):
    """The hospitals' patients, whose number they say themselves."""

    claims: Mapping[str, int] = {}

    def num_samples(self, name: str) -> int:
        """What is claimed, and else what is true."""
        return self.claims.get(name, super().num_samples(name))


class Hospitals:
    """Makes the federation of the configuration, once for every training."""

    def __init__(self) -> None:
        self._cli = CompareCLI(["-c", str(CONFIG)], run=False)
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    def made(self, seed: int) -> tuple[Federation, Claimed, int]:
        """Federation, data and number of rounds."""
        config = self._cli.config.clone()
        config.seed_everything = config.model.seed = config.data.init_args.seed = seed
        L.seed_everything(seed, verbose=False)
        found = self._cli.parser.instantiate(config)
        return found.model, Claimed(**dict(config.data.init_args)), config.trainer.max_epochs

    def accuracy_under(
        self, attack: Attack, rule: AggregationFunction, seed: int, faulty: int, **averaging: Any
    ) -> float:
        """Mean balanced accuracy of the honest hospitals on their own test patients.

        Args:
            attack: What the attacker does.
            rule: Of aggregation.
            seed: Of splits, weights and attack; its remainder by 4 is the place of the attacker.
            faulty: 1, or 0 for the same hospitals without an attack.
            averaging: Further settings of ``BackboneAveraging``.

        Raises:
            RuntimeError: If the attack ends the run.
        """
        federation, data, rounds = self.made(seed)
        names = tuple(federation.members())
        attacker = names[seed % len(names)]
        _load(data, names, flipped=(attacker,) if faulty and attack is flipping_labels else ())
        if faulty and attack is free_riding:
            data.claims = {attacker: CLAIM}
        tampering = Tampering(attack, (attacker,) if faulty else (), seed)
        quiet_trainer(rounds, tampering, BackboneAveraging(rule, **averaging)).fit(federation, datamodule=data)
        return mean(_balanced_accuracy(federation, data, name) for name in names if name != attacker)


def _load(data: Claimed, names: tuple[str, ...], flipped: tuple[str, ...]) -> None:
    loaded = data.load(names)
    train = dict(loaded.train)
    for name in flipped:
        inputs, targets = examples_of(train[name])
        train[name] = Examples(inputs, 1 - targets, missing=True)
    data.replace_data(dataclasses.replace(loaded, train=train))


@torch.no_grad()
def _balanced_accuracy(federation: Federation, data: Claimed, name: str) -> float:
    inputs, targets = examples_of(data.data.test[name])
    metric = BalancedAccuracy()
    metric.update(federation[name].predict(inputs), targets)
    return float(metric.compute())
