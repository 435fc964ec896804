"""Check that a sender is as it was before its message was made: over ranks and at sites nobody else sees a change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from hetfed_lightning.methods.messages import MessageError

if TYPE_CHECKING:
    from torch import Tensor

    from hetfed_lightning.participants.participant import Participant


@contextmanager
def unchanged(participant: Participant, where: str, *, by_value: bool) -> Iterator[None]:
    """Context that refuses changes to the weights and buffers of a participant.

    Writes in place are seen by torch's counters, without reading a value. Those past them (``.data``, a tensor put in
    the place of another) are seen by value alone, for which a copy is held meanwhile.

    Args:
        participant: The sender.
        where: The hook that makes its message, for messages.
        by_value: True to compare values as well.

    Raises:
        MessageError: At its end, if a tensor has changed; names it.
    """
    before = _tensors(participant)
    versions = {key: one._version for key, one in before.items()}
    copies = {key: one.detach().clone() for key, one in before.items()} if by_value else {}
    yield
    after = _tensors(participant) if by_value else before
    for key, version in versions.items():
        is_as_it_was = before[key]._version == version and (not by_value or _same(copies[key], after.get(key)))
        if not is_as_it_was:
            raise MessageError(
                f"{where}: it changes {key} of the participant, which its message alone is to be made of. Compute with "
                "a clone() or copy.deepcopy; change weights in receive or after_step; pass inputs through the network "
                "by data.features and data.public_outputs, or in evaluation mode, in which BatchNorm keeps its means."
            )


def _tensors(participant: Participant) -> dict[str, Tensor]:
    own: dict[str, Tensor] = participant.state_dict(keep_vars=True)
    return {key: one for key, one in own.items() if isinstance(one, torch.Tensor)}


def _same(before: Tensor, now: Tensor | None) -> bool:
    if now is None or now.shape != before.shape or now.dtype != before.dtype:
        return False
    return torch.equal(before, now) or bool(((before == now) | ((before != before) & (now != now))).all())  # noqa: PLR0124
