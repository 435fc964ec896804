"""Check of a result that replaces tensors of its receivers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hetfed_lightning.data.name_checks import did_you_mean
from hetfed_lightning.finite import is_finite
from hetfed_lightning.methods.messages import MessageError

if TYPE_CHECKING:
    from hetfed_lightning.participants.participant import Participant


def check_replaced(participant: Participant, handed: Mapping[str, Tensor], where: str) -> None:
    """Refuse a result that replaces nothing of a receiver, or that its tensors cannot hold.

    Args:
        participant: A receiver.
        handed: Result by key; keys that the participant has no tensor for are allowed beside others.
        where: The hook that made the result, for messages.

    Raises:
        MessageError: If no key is one of the participant's, or a tensor is of another shape, of a dtype that cannot be
            converted, or out of range.
    """
    own = participant.state_dict(keep_vars=True)
    if handed and not own.keys() & handed.keys():
        raise MessageError(
            f"{where}: replaces_state is True, and {participant.label} has no tensor {next(iter(handed))!r}"
            f"{did_you_mean(next(iter(handed)), own)}. Name tensors as its state does, or set replaces_state to False."
        )
    for key, found in handed.items():
        here = own.get(key)
        if here is None:
            continue
        if found.shape != here.shape or not torch.can_cast(found.dtype, here.dtype):
            raise MessageError(
                f"{where}: expected {key} of shape {tuple(here.shape)} and {here.dtype}, as of {participant.label}, "
                f"got shape {tuple(found.shape)} and {found.dtype}."
            )
        if found.dtype != here.dtype and not is_finite([found.to(here.dtype)]):
            raise MessageError(f"{where}: {key} has numbers that {here.dtype} of {participant.label} does not hold.")
