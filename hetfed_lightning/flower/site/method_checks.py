"""Bounds within which a site lets a coordinator act through its methods."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hetfed_lightning.finite import LARGEST, is_finite, largest_number
from hetfed_lightning.flower.protocol.untrusted import NAME, one_line
from hetfed_lightning.methods.method import Method
from hetfed_lightning.methods.participant_side import ParticipantSide

if TYPE_CHECKING:
    from hetfed_lightning.federation_view import FederationView
    from hetfed_lightning.flower.protocol.orders import Order
    from hetfed_lightning.participants.participant import Participant

MOST_BYTES = 2**32
"""Largest number of bytes of one method's result, of which each state of the site holds a copy."""


def fault_of_messages(methods: Mapping[int, Method], order: Order, participant: Participant) -> str:
    """Reason why messages cannot be asked for; empty if they can.

    Args:
        methods: Methods of the site by place among its callbacks.
        order: Order of a coordinator.
        participant: The site's participant.
    """
    moments = {"start"} if order.enter is not None else set()
    if order.begin is not None or order.learn is not None or order.attend is not None:
        moments.add("end")
    for place, keys in order.messages.items():
        method = methods.get(place)
        if method is None:
            return f"asks for a message of callback {place}, which is no method of this site"
        if fault := _fault_of_keys(method, keys, participant):
            return fault
        if method.sends_state and method.synchronise_start and not moments:
            continue  # A group begins with this state.
        own = {exchange.when for exchange in method.exchanges}
        if not moments or not moments <= own:
            return (
                f"asks for a message of {method.title} at {_listed(moments) or 'no moment'} of a round; here it sends "
                f"at {_listed(own) or 'none'}"
            )
    return ""


def _fault_of_keys(method: Method, keys: Sequence[str], participant: Participant) -> str:
    """Whatever keys a coordinator names, personal tensors stay at their site."""
    if not keys and not method.sends_state:
        return ""
    own = method.offered_keys(participant) if method.sends_state else ()
    if strange := [key for key in keys if key not in (own or ())]:
        return f"asks for {one_line(strange[0], NAME)}, which this site does not share by {method.title}"
    if len(keys) > len(set(keys)):
        return (
            f"asks for {len(keys):,} keys of {method.title}, some of them several times; this site shares "
            f"{len(own or ())}"
        )
    return ""


def fault_of_result(federation: FederationView, method: Method, handed: Mapping[str, Tensor]) -> str:
    """Reason why a result of a method cannot be received; empty if it can.

    Args:
        federation: The site's federation, in a fit that has begun.
        method: Method of the site.
        handed: Tensors that the coordinator hands out, by key.
    """
    if not method.exchanges:
        return f"sends a result of {method.title}, which has no exchanges here"
    if (size := sum(one.numel() * one.element_size() for one in handed.values())) > MOST_BYTES:
        return f"sends a result of {method.title} of {size:,} bytes; {MOST_BYTES:,} is the most"
    for key, tensor in handed.items():
        if not is_finite([tensor]):
            return f"sends a result of {method.title} that is not finite at {one_line(key, NAME)}"
    if method.replaces_state:
        for name, participant in federation.members().items():
            return _fault_of_replaced(federation, method, name, participant, handed)
    return ""


def _fault_of_replaced(
    federation: FederationView, method: Method, name: str, participant: Participant, handed: Mapping[str, Tensor]
) -> str:
    """Whatever a method is handed, tensors that it does not send and the participant does not share stay."""
    own = participant.view_of()
    replaced = [key for key in handed if key in own]
    offered = method.offered_keys(participant)
    sent = {*(participant.averaged_keys(buffers=True) if offered is None else offered)}
    if offered is None and not sent.issuperset(replaced):
        sent |= ParticipantSide(method, lambda _: {}).layout(federation, name).keys()
    parameters = dict(participant.named_parameters(remove_duplicate=False))
    for key in replaced:
        found, here = handed[key], own[key]
        if key not in sent:
            return f"replaces {key}, which {method.title} does not send and this site does not share"
        if found.shape != here.shape or not torch.can_cast(found.dtype, here.dtype):
            return (
                f"replaces {key} by a tensor of shape {tuple(found.shape)} and {found.dtype}; here it is of "
                f"{tuple(here.shape)} and {here.dtype}"
            )
        if not is_finite([found.to(here.dtype)]):
            return f"replaces {key} by numbers that {here.dtype} does not hold"
        if key in parameters and (largest := largest_number([found])) > LARGEST:
            return f"replaces {key} by a number of magnitude {largest:.3g}; {LARGEST:g} is the most that is taken over"
    return ""


def _listed(moments: Collection[str]) -> str:
    return " and ".join(f"the {one}" for one in sorted(moments, reverse=True))
