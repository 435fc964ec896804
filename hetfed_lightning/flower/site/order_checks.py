"""Checks of an order against the site's own bounds, before any part of it is carried out.

A coordinator decides which site trains when and on which shared state. It does not decide the duration of a site's
work, the numbers that its network may receive, or the fate of its files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hetfed_lightning.distillation.outputs import KINDS
from hetfed_lightning.finite import LARGEST_PREDICTION, is_finite, largest_number
from hetfed_lightning.flower.protocol.deployable import carried_methods
from hetfed_lightning.flower.protocol.description import subjects
from hetfed_lightning.flower.protocol.untrusted import NAME, one_line
from hetfed_lightning.flower.site.method_checks import fault_of_messages, fault_of_result
from hetfed_lightning.methods.distillation.ensemble_distillation import TARGETS, EnsembleDistillation
from hetfed_lightning.participants.first_batch import outputs_of
from hetfed_lightning.participants.participant import STUDENT, output_width

if TYPE_CHECKING:
    from hetfed_lightning.federated_callback import FederatedCallback
    from hetfed_lightning.federation_view import FederationView
    from hetfed_lightning.flower.protocol.orders import Order
    from hetfed_lightning.participants.participant import Participant

MORE_ROUNDS = 10
"""Largest number of rounds, over the number in the site's own file, since runs are made longer and resumed."""

UNSAID_ROUNDS = 1_000
"""Largest number of rounds if the site's own file has none: as many as Lightning trains by default."""

LEAST_REPEATS = 100
"""Least number of orders that may bring a run no further, since a restarted coordinator asks again for a round."""

_PRECISIONS = (torch.float32, torch.float64)
"""Dtypes of an ensemble's targets."""

_TOLERANCE = 1e-2
"""Tolerance by which probabilities, rounded on the way, may miss 0, 1 and their sum."""


class OrderError(ValueError):
    """An order that this site will not carry out; the message names the part at fault."""


def most_repeats(rounds: int) -> int:
    """Largest number of orders that may bring a run no further, by the number of rounds in the site's own file."""
    return max(LEAST_REPEATS, MORE_ROUNDS * rounds)


def check_rounds(order: Order, name: str, most: int) -> None:
    """Refuse rounds outside the site's bounds.

    Args:
        order: Order of a coordinator.
        name: Name of the participant.
        most: Largest number of rounds that the site takes part in.

    Raises:
        OrderError: If a round is outside; names the participant, the round and the bound.
    """
    entered = ("enter", order.enter), ("attend", order.attend)
    for does, found in (("close", order.finish), *entered, ("train in", order.begin), ("learn in", order.learn)):
        if found is None or 0 <= found < most:
            continue
        raise OrderError(
            f"participant {name!r}: the coordinator asks it to {does} round index {found:,}, counted from 0; this site "
            f"takes part in at most {most:,} rounds, {MORE_ROUNDS} times trainer.max_epochs of its site.yaml (1,000 "
            "where that says none). If the run is meant to be so long, raise max_epochs."
        )


class OrderChecks:
    """Bounds of one site, from what its own configuration shares and learns from.

    Args:
        callbacks: Callbacks of the configuration that act between participants, in its order.
    """

    def __init__(self, callbacks: Sequence[FederatedCallback]) -> None:
        self._methods = carried_methods(callbacks)

    def check(self, federation: FederationView, order: Order) -> None:
        """Check all of an order, in a fit that has begun, when precision and data are as in training.

        Args:
            federation: The site's federation.
            order: Order of a coordinator.

        Raises:
            OrderError: If a part is refused; names the participant, the key or the callback's place, and the expected
                value.
        """
        for participant in federation.members().values():
            if fault := fault_of_messages(self._methods, order, participant):
                raise OrderError(f"{participant.label}: the coordinator {fault}.")
            for place, state in order.shared.items():
                if place not in self._methods:
                    raise OrderError(
                        f"{participant.label}: the coordinator sends a result of callback {place}, which is no method "
                        "of this site."
                    )
                if fault := fault_of_result(federation, self._methods[place], state):
                    raise OrderError(f"{participant.label}: the coordinator {fault}.")
        distilling = {place: one for place, one in self._methods.items() if isinstance(one, EnsembleDistillation)}
        for participant in subjects(federation).values():
            for place, method in distilling.items():
                if fault := _fault_of_distilling(federation, participant, order, place, method):
                    raise OrderError(f"{participant.label}: the coordinator {fault}.")


def _fault_of_distilling(
    federation: FederationView, participant: Participant, order: Order, place: int, method: EnsembleDistillation
) -> str:
    """What is wrong with an order's part on distillation; empty if nothing is."""
    if place in order.messages and not _reads_public(federation, participant):
        return "asks for answers to the public set, which it does not read"
    if place not in order.shared:
        return ""
    if fault := _fault_of_targets(federation, participant, order.shared[place]):
        return f"sends targets for the public set {fault}"
    return _fault_of_moment(order, participant, place, method)


def _fault_of_moment(order: Order, participant: Participant, place: int, method: EnsembleDistillation) -> str:
    """Why targets come at a moment at which the site's own configuration does not distil; empty if it does."""
    is_late = order.learn is not None
    if is_late:
        fits = method.mode == "phase" or participant.name == STUDENT
    else:
        fits = method.mode == "mixed" or order.is_pupil
    if order.finish is None and fits:
        return ""
    moment = "as a round closes" if order.finish is not None else "in the local steps"
    return (
        f"sends targets to learn {'after them' if is_late else moment}; callback {place} distils with "
        f"mode={method.mode!r} here"
    )


def _fault_of_targets(federation: FederationView, participant: Participant, handed: Mapping[str, Tensor]) -> str:
    if not _reads_public(federation, participant):
        return "which it does not read"
    if handed.keys() != {TARGETS}:
        return f"under {', '.join(one_line(key, NAME) for key in handed) or 'no key'}; expected them under {TARGETS}"
    targets = handed[TARGETS]
    data = federation.federated_data
    inputs = data.public_inputs(torch.arange(1))
    wanted = data.num_public, output_width(outputs_of(participant, inputs, "the public set"))
    if tuple(targets.shape) != wanted or targets.dtype not in _PRECISIONS or not is_finite([targets]):
        return f"of shape {tuple(targets.shape)} and {targets.dtype}; expected finite ones of shape {wanted} in float32"
    kind = participant.task.kind
    if kind in KINDS and kind != "regression" and not _are_probabilities(targets, sums=kind == "multiclass"):
        sums = " and sums to 1" if kind == "multiclass" else ""
        return f"that are no probabilities; what an ensemble says of {kind} outputs lies in [0, 1]{sums}"
    largest = largest_number([targets])
    return (
        f"with a number of magnitude {largest:.3g}; {LARGEST_PREDICTION:g} is the most"
        if largest > LARGEST_PREDICTION
        else ""
    )


def _reads_public(federation: FederationView, participant: Participant) -> bool:
    data = federation.federated_data
    return data.num_public > 0 and participant.reads_any_of(data.public_inputs(torch.arange(1)))


def _are_probabilities(targets: Tensor, *, sums: bool) -> bool:
    if bool(((targets < -_TOLERANCE) | (targets > 1 + _TOLERANCE)).any()):
        return False
    return not sums or bool(((targets.double().sum(dim=1) - 1).abs() <= _TOLERANCE).all())
