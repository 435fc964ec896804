"""Public batches of a participant's steps: which examples, and in which order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from hetfed_lightning.methods.augmentation import augmented
from hetfed_lightning.seeding import stream_generator, stream_seed

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
        stream: Names of the batch among all of the method's: moment, participant, round, pass and place in it.
    """

    method: PublicLoss
    indices: Tensor
    stream: tuple[int | str, ...]

    def loss(self, federation: FederationView, participant: Participant) -> Tensor:
        """Loss of the batch, a scalar.

        Args:
            federation: The federation, in a round.
            participant: Participant that learns.
        """
        transform = self.method.public_transform
        if transform is None:
            return self.method.public_loss(federation, participant, self.indices)

        def augment(inputs: Any) -> Tensor:
            return augmented(federation, transform, [inputs], [self.transform_seed(federation)])[0]

        return self.method.public_loss(federation, participant, self.indices, augment)

    def transform_seed(self, federation: FederationView) -> int:
        """Seed of the method's ``public_transform`` on this batch, in [0, 2**63).

        Args:
            federation: The federation, in a round.
        """
        return stream_seed(federation.seed, "public transform", self.method.title, *self.stream)


class PublicOrders:
    """Orders of the public examples: pass after pass, each named by (seed, stream, participant, round, pass).

    Where a method's participants share them, the participant is not among the names.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], tuple[tuple[int, ...], Tensor]] = {}

    def batch(
        self,
        federation: FederationView,
        method: PublicLoss,
        stream: str,
        name: str,
        round_index: int,
        batch_size: int,
        place: tuple[int, int],
    ) -> PublicBatch:
        """One batch of a participant.

        Args:
            federation: The federation, in a round.
            method: Method that has planned it.
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
            whose = () if method.shares_order else (name,)
            generator = stream_generator(federation.seed, stream, *whose, round_index, done)
            order = torch.randperm(size, generator=generator)
            self._kept[stream, name] = which, order
        indices = order[position * batch_size : (position + 1) * batch_size]
        return PublicBatch(method, indices, (stream, name, round_index, *place))
