"""What a faulty or malicious participant sends instead of what it has learned: pure functions of vectors, one callback.

An attacker knows more than it could outside of an experiment: what all honest participants send in this round.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hetfed_lightning import FederatedCallback, FederationView, Phase
from hetfed_lightning.seeding import stream_generator

if TYPE_CHECKING:
    import lightning as L


CLAIM = 1_000_000
"""Examples that a free rider says it has."""


@dataclass(frozen=True)
class Round:
    """What an attacker knows when it sends.

    Attributes:
        own: What it would send if it were honest, shape ``(M,)``.
        start: What everyone began the round with, shape ``(M,)``.
        honest: What the honest ones send, shape ``(H, M)``.
        faulty: Number of attackers.
        generator: For what is drawn.
    """

    own: Tensor
    start: Tensor
    honest: Tensor
    faulty: int
    generator: torch.Generator


Attack = Callable[[Round], Tensor]


def own_work(seen: Round) -> Tensor:
    """What it has learned: no attack."""
    return seen.own


def sign_flip(seen: Round) -> Tensor:
    """Its update turned round."""
    return 2 * seen.start - seen.own


def scaling(seen: Round) -> Tensor:
    """Its update a hundred times."""
    return seen.start + 100 * (seen.own - seen.start)


def gaussian(seen: Round) -> Tensor:
    """Its weights and noise of standard deviation 1 on each, some ten times what weights measure."""
    return seen.own + torch.randn(seen.own.shape, generator=seen.generator)


def not_a_number(seen: Round) -> Tensor:
    """NaN throughout."""
    return torch.full_like(seen.own, math.nan)


def free_riding(seen: Round) -> Tensor:
    """What it was given."""
    return seen.start


def flipping_labels(seen: Round) -> Tensor:
    """What it has learned; from labels turned round (see the data)."""
    return seen.own


def alie_z(participants: int, faulty: int) -> float:
    """How many standard deviations from the mean still hide among the honest ones; 0 where nothing does.

    Reference:
        Baruch, Baruch, Goldberg (2019). A little is enough: circumventing defenses for distributed learning. NeurIPS,
        Algorithm 3: of K participants, f of them faulty, ``s = floor(K / 2 + 1) - f`` honest ones have to lie further
        out, and z is where the normal distribution reaches ``(K - f - s) / (K - f)``.
    """
    supporters = participants // 2 + 1 - faulty
    share = (participants - faulty - supporters) / (participants - faulty)
    return max(0.0, NormalDist().inv_cdf(share)) if 0 < share < 1 else 0.0


def a_little(seen: Round, z: float | None = None) -> Tensor:
    """The honest ones' mean less z of their standard deviations, in every coordinate; z by their formula if None."""
    if z is None:
        z = alie_z(len(seen.honest) + seen.faulty, seen.faulty)
    return seen.honest.mean(dim=0) - z * seen.honest.std(dim=0)


def a_little_more(seen: Round) -> Tensor:
    """The same with z = 1.5, as in the paper's experiments on MNIST."""
    return a_little(seen, 1.5)


class Tampering(FederatedCallback):
    """Replaces what attackers send after their local work, before anything is done together.

    Args:
        attack: What they send.
        attackers: Their names.
        seed: Names what is drawn.
    """

    phase = Phase.GUARD

    def __init__(self, attack: Attack, attackers: Sequence[str], seed: int) -> None:
        self.attack = attack
        self.attackers = attackers
        self.seed = seed
        self._start = torch.empty(0)

    def on_round_start(self, trainer: L.Trainer, federation: FederationView, round_index: int) -> None:
        """Remember what everyone begins with: what the first one has."""
        del trainer, round_index
        self._start = _sent(federation, next(iter(federation.members())))

    def on_round_end(self, trainer: L.Trainer, federation: FederationView, round_index: int) -> None:
        """Write what is sent into the attackers."""
        del trainer
        if not self.attackers:
            return
        honest = [name for name in federation.members() if name not in self.attackers]
        seen = torch.stack([_sent(federation, name) for name in honest])
        for name in self.attackers:
            generator = stream_generator(self.seed, "attack", name, round_index)
            own = _sent(federation, name)
            sent = self.attack(Round(own, self._start, seen, len(self.attackers), generator))
            participant, position, state = federation[name], 0, {}
            for key, tensor in participant.view_of(participant.shared_keys()).items():
                state[key] = sent[position : position + tensor.numel()].view_as(tensor)
                position += tensor.numel()
            participant.load_state_of(state)


def _sent(federation: FederationView, name: str) -> Tensor:
    participant = federation[name]
    return torch.cat([tensor.flatten() for tensor in participant.view_of(participant.shared_keys()).values()])
