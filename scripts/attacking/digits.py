"""Ten participants of one small network that share all of it, on real digits; some of them attack."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from hetfed_lightning import BackboneAveraging, Federation, Participant
from hetfed_lightning.aggregation import AggregationFunction
from hetfed_lightning.data import IID, Dirichlet, Examples
from hetfed_lightning.data.partitions import Partition
from hetfed_lightning.showcases import DigitsDataModule
from scripts.attacking.attacks import CLAIM, Attack, Tampering, flipping_labels, free_riding

P = TypeVar("P", bound=Participant)
NAMES = tuple(f"p{index}" for index in range(10))
ROUNDS = 20
PARTITIONS: Mapping[str, Partition] = {"iid": IID(), "skewed": Dirichlet(alpha=0.3, min_size=10)}


def quiet_trainer(rounds: int, *callbacks: L.Callback, **settings: Any) -> L.Trainer:
    """A Trainer that does nothing but train."""
    return L.Trainer(
        max_epochs=rounds,
        accelerator="cpu",
        strategy="federated",
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        **settings,
    )


def network(seed: int, kind: type[P] = Participant) -> P:  # type: ignore[assignment]
    """64-32-10; the same weights for the same seed."""
    L.seed_everything(seed, verbose=False)
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU())
    return kind(
        backbone,
        nn.Linear(32, 10),
        shared=("*",),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    )


def examples_of(dataset: Dataset[Any] | None) -> tuple[Tensor, Tensor]:
    """Inputs and targets of a data set in memory."""
    if not isinstance(dataset, Examples) or isinstance(dataset.inputs, dict) or dataset.targets is None:
        raise TypeError("Expected digits in memory, with targets.")
    return dataset.inputs, dataset.targets


class Claimed(DigitsDataModule):
    """Digits of which participants say how many they have."""

    claims: Mapping[str, int] = {}

    def num_samples(self, name: str) -> int:
        """What is claimed, and else what is true."""
        return self.claims.get(name, super().num_samples(name))


def digits(partition: str, seed: int, *, flipped: Sequence[str] = (), public: int = 0) -> Claimed:
    """The digits, dealt out; labels y of ``flipped`` participants are 9 - y."""
    data = Claimed(
        PARTITIONS[partition],
        participants=list(NAMES),
        image_size=8,
        public_size=public,
        batch_size=16,
        own_fractions=(1.0, 0.0, 0.0),
        seed=seed,
    )
    own = data.load(NAMES)
    mistaken = {name: examples_of(own.train[name]) for name in flipped}
    wrong = {name: Examples(inputs, 9 - targets) for name, (inputs, targets) in mistaken.items()}
    data.replace_data(dataclasses.replace(own, train=dict(own.train) | wrong))
    return data


def accuracy_under(
    attack: Attack, rule: AggregationFunction, partition: str, seed: int, faulty: int, **averaging: Any
) -> float:
    """Accuracy of the shared network on everyone's test digits after training.

    Args:
        attack: What the first ``faulty`` participants do.
        rule: Of aggregation.
        partition: One of ``PARTITIONS``.
        seed: Of data, weights and attack.
        faulty: Number of attackers.
        averaging: Further settings of ``BackboneAveraging``.
    """
    attackers = NAMES[:faulty]
    data = digits(partition, seed, flipped=attackers if attack is flipping_labels else ())
    if attack is free_riding:
        data.claims = dict.fromkeys(attackers, CLAIM)
    members: dict[str, Participant] = {name: network(seed) for name in NAMES}
    federation = Federation(members, seed=seed, engine="batched")
    averaged = BackboneAveraging(rule, **averaging)
    quiet_trainer(ROUNDS, Tampering(attack, attackers, seed), averaged).fit(federation, datamodule=data)
    return accuracy(federation[NAMES[-1]], data)


def accuracy(participant: Participant, data: DigitsDataModule) -> float:
    """Share of everyone's test digits that a participant gets right."""
    inputs, targets = examples_of(data.data.global_test)
    return float((participant.predict(inputs).argmax(dim=1) == targets).float().mean())
