"""Public batches of a participant's steps: which examples, and in which order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from hetfed_lightning.seeding import stream_generator

if TYPE_CHECKING:
    from torch import Tensor

    from hetfed_lightning.federation_view import FederationView, PublicLoss
    from hetfed_lightning.participants.participant import Participant


@dataclass(frozen=True)
class PublicBatch:
    """A public batch of one step of a participant.

    Attributes:
        method: Method that has planned it, whose loss is that of the batch.
        indices: Places of its examples in the public set, shape ``(B,)``.
    """

    method: PublicLoss
    indices: Tensor

    def loss(self, federation: FederationView, participant: Participant) -> Tensor:
        """Loss of the batch, a scalar.

        Args:
            federation: The federation, in a round.
            participant: Participant that learns.
        """
        return self.method.public_loss(federation, participant, self.indices)


class PublicOrders:
    """Orders of the public examples: pass after pass, each named by (seed, stream, participant, round, pass)."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], tuple[tuple[int, ...], Tensor]] = {}

    def batch(
        self,
        federation: FederationView,
        stream: str,
        name: str,
        round_index: int,
        batch_size: int,
        place: tuple[int, int],
    ) -> Tensor:
        """Places of the examples of one batch, shape ``(B,)``.

        Args:
            federation: The federation, in a round.
            stream: First name of the stream.
            name: Name of the participant.
            round_index: Index of the round, from 0.
            batch_size: Public examples in a batch.
            place: Index of the pass, and of the batch in it.
        """
        done, position = place
        size = federation.federated_data.num_public
        which = (federation.seed, round_index, size, done)
        kept, order = self._kept.get((stream, name), ((), torch.empty(0)))
        if kept != which:
            generator = stream_generator(federation.seed, stream, name, round_index, done)
            order = torch.randperm(size, generator=generator)
            self._kept[stream, name] = which, order
        return order[position * batch_size : (position + 1) * batch_size]
