"""Teachers' outputs on the public set, batched in fleets; a teacher with non-finite outputs is quarantined."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hetfed_lightning.distillation.outputs import at_least_float32, two_columns
from hetfed_lightning.finite import why_not_heard
from hetfed_lightning.local_training.local_step import seed_for
from hetfed_lightning.methods.distillation.soft_targets import on_device
from hetfed_lightning.methods.participant_data import ParticipantData
from hetfed_lightning.modes import evaluating

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hetfed_lightning.distillation import Ensemble
    from hetfed_lightning.federation_view import FederationView

TEACHER_BATCH = 128
"""Public examples that a teacher sees at once: of images, 512 at once fall out of a CPU's cache and take half as long
again."""


@torch.no_grad()
def finite_answers(
    federation: FederationView, names: Sequence[str], round_index: int, ensemble: Ensemble | None = None
) -> dict[str, Tensor]:
    """Teachers' outputs on the public set, shape ``(P, C)`` by name; a teacher with non-finite outputs is quarantined.

    Args:
        federation: The federation, in a round.
        names: Names of the teachers.
        round_index: Index of the round, for messages.
        ensemble: Ensemble whose message is computed in place of the outputs; None for the outputs.

    Returns:
        Outputs by teacher, gathered from all processes, on the federation's device.

    Raises:
        RuntimeError: If no teacher is left.
    """
    said = own_answers(federation, list(filter(federation.ranks.measures, names)), ensemble)
    asked: dict[str, Tensor] = {}
    for name, logits in federation.ranks.gathered(said, names).items():
        if reason := why_not_heard(logits, federation[name].task.kind):
            federation.quarantine(name, reason)
        else:
            asked[name] = logits.to(federation.device)
    if not asked:
        raise RuntimeError(
            f"Round {round_index}: no teacher has finite predictions on the public set; asked: {', '.join(names)}."
        )
    return asked


@torch.no_grad()
def own_answers(
    federation: FederationView, names: Sequence[str], ensemble: Ensemble | None = None
) -> dict[str, Tensor]:
    """Outputs on the public set of the teachers in this process, shape ``(P, C)`` by name, finite or not.

    Args:
        federation: The federation, in a run.
        names: Names of the teachers.
        ensemble: Ensemble whose message is computed in place of the outputs; None for the outputs.

    Returns:
        Outputs by teacher, in float32 at least. A teacher's random draws depend on (seed, round, teacher, place in the
        public set) alone.
    """
    if ensemble is not None and ensemble.has_own_message:
        return {name: _message(federation, name, ensemble) for name in names}
    parts: dict[str, list[Tensor]] = {name: [] for name in names}
    with evaluating(*map(federation.__getitem__, names)), federation.trainer.precision_plugin.forward_context():
        for indices in torch.arange(federation.federated_data.num_public).split(TEACHER_BATCH):
            inputs = on_device(federation, indices)
            together = federation.fleets.outputs(names, inputs)
            for name in names:
                participant = federation[name]
                if name in together:
                    outputs = together[name]
                else:
                    seed_for(federation, participant, "answer", federation.current_round, name, int(indices[0]))
                    outputs = participant(participant.transformed(inputs))
                parts[name].append(at_least_float32(two_columns(outputs)))
    return {name: torch.cat(own) for name, own in parts.items()}


def _message(federation: FederationView, name: str, ensemble: Ensemble) -> Tensor:
    """A teacher's message to an ensemble that asks for more than its outputs, shape ``(P, C)``."""
    data = ParticipantData(federation, federation[name], type(ensemble).__name__)
    return at_least_float32(ensemble.message(data.public_outputs, data.public_features, data))
