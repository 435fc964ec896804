"""Answers of methods in evaluation and prediction: outputs in place of the network's, and those of further models.

A personal and a common model of one participant, or a prediction by the nearest prototype, are measured on the same
batches as the network. Training, teachers' outputs and exported participants keep to the network alone.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from hetfed_lightning.federated_callback import acting_callbacks
from hetfed_lightning.methods.hook_results import naming, tensors_by_key
from hetfed_lightning.methods.local_carrier import LocalCarrier
from hetfed_lightning.methods.messages import MessageError
from hetfed_lightning.methods.method import Method
from hetfed_lightning.methods.method_hooks import NETWORK, PREDICTION
from hetfed_lightning.participants.participant import OWN, Participant

if TYPE_CHECKING:
    from hetfed_lightning.federation_view import FederationView

log = logging.getLogger(__name__)

_NAME = re.compile(r"[A-Za-z0-9_-]+")
"""Names of further models, which become parts of tags."""


class Answering:
    """Methods of one run that have ``answers``, asked for every evaluated batch of a member.

    Args:
        federation: The federation, attached to its trainer.

    Raises:
        ValueError: If there is such a method, and a participant's ``forward`` is not its head on its backbone.
    """

    def __init__(self, federation: FederationView) -> None:
        acting = acting_callbacks(federation.trainer)
        self._methods = [one for one in acting if isinstance(one, Method) and one.gives_answers()]
        self._members = federation.members() if self._methods else {}
        self._scores = any(isinstance(one, Method) and one.needs_scores for one in acting)
        self._round: int | None = None
        for participant in self._members.values():
            if type(participant).forward is not Participant.forward:
                raise ValueError(
                    f"{participant.label}: {self._methods[0].title}.answers takes features and outputs of a backbone "
                    f"and a head, and {type(participant).__name__}.forward is another network. Leave out one of the "
                    "two."
                )

    def begin(self, federation: FederationView, round_index: int, *, of_checkpoint: bool) -> None:
        """Give the methods what a checkpoint has of them, as an evaluation outside of a fit begins.

        Args:
            federation: The federation, on its device.
            round_index: Index of the last round that the evaluated models have trained, from 0.
            of_checkpoint: True if they are those of a checkpoint, of which a method lacks its part with a warning.
        """
        self._round = round_index
        for method in self._methods:
            begins = method.carrier is None
            if method.carrier is None:
                method.carrier = LocalCarrier(method)
            if not method.take_up(federation) and begins and method.exchanges and of_checkpoint:
                log.warning(
                    "%s: the checkpoint has nothing of what it received: participants are measured as before the first "
                    "exchange. Take a checkpoint of a run with the method, saved whole (save_weights_only=False).",
                    method.title,
                )

    def outputs(self, federation: FederationView, participant: Participant, inputs: Any) -> dict[str, Tensor]:
        """Outputs of one participant by model, shape ``(B, C)`` each: the one it predicts with under ``""`` first.

        Args:
            federation: The federation, in an evaluation.
            participant: A member, or the student, for which no method answers.
            inputs: Inputs of the backbone, of B examples.

        Raises:
            MessageError: If a method returns anything but tensors of the outputs' shape by name, or two methods one
                name, or the name of the network where its scores count.
        """
        if participant.name not in self._members:
            return {OWN: participant(inputs)}
        features = participant.features_of(inputs)
        own = participant.head(features)
        found = {OWN: own}
        by: dict[str, str] = {}
        for method in self._methods:
            context = method.context_of(federation, participant)
            if self._round is not None:
                context = replace(context, round_index=self._round)
            where = f"Round {context.round_index}: {participant.label}: {method.title}.answers"
            with naming(where):
                answers = method.answers(inputs, features, own, context)
            for name, outputs in _checked(answers, own, where).items():
                if name in by:
                    raise MessageError(f"{where}: {name!r} is answered by {by[name]} too. Give them two names.")
                by[name] = method.title
                found[OWN if name == PREDICTION else name] = outputs
        if self._scores and PREDICTION in by and found.setdefault(NETWORK, own) is not own:
            raise MessageError(
                f"{participant.label}: {by[NETWORK]}.answers: {NETWORK!r} is the participant's own network, since "
                f"{by[PREDICTION]} answers in its place and its scores weigh what it teaches. Choose another name, or "
                "return outputs as they are."
            )
        return found


def _checked(answers: Any, own: Tensor, where: str) -> Mapping[str, Tensor]:
    """Answers, if they can be measured as the network's outputs are."""
    found = tensors_by_key(answers, where)
    for name, outputs in found.items():
        if not _NAME.fullmatch(name):
            raise MessageError(f"{where}: expected a name of letters, digits, '_' and '-', got {name!r}.")
        if outputs.shape != own.shape or not outputs.is_floating_point():
            raise MessageError(
                f"{where}: expected {name!r} of shape {tuple(own.shape)} as the outputs, got shape "
                f"{tuple(outputs.shape)} of {str(outputs.dtype).removeprefix('torch.')}."
            )
    return found
