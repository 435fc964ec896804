"""Layouts of answers to the public set, for methods that exchange them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from hetfed_lightning.methods.messages import About
    from hetfed_lightning.methods.participant_data import ParticipantData
    from hetfed_lightning.participants.participant import Participant

LAYOUT = "layout"
"""Key of the layout of the answers in a description."""


def answer_layout(participant: Participant, data: ParticipantData, title: str) -> dict[str, Tensor]:
    """Description with the layout of a participant's outputs on the public set, shape ``(P, C)``.

    Args:
        participant: Participant that answers.
        data: The public set.
        title: Name of the method.

    Raises:
        ValueError: If there is no public set, or the participant reads nothing of it.
    """
    if not data.num_public:
        raise ValueError(
            f"{title} needs a public set, and the data module has none: give FederatedDataModule(public=...) "
            "(public_size in the built-in data modules)."
        )
    if not data.reads_public:
        raise ValueError(
            f"{participant.label} reads nothing of the public set, and {title} needs everyone's answers to it: name "
            "its inputs as the participant's, or take EnsembleDistillation, which leaves such participants aside."
        )
    return {LAYOUT: data.public_layout}


def refuse_unlike_answers(about: About, title: str) -> None:
    """Refuse participants whose answers have no mean.

    Args:
        about: Descriptions of all participants, by name.
        title: Name of the method.

    Raises:
        ValueError: If two have other numbers of outputs; names both.
    """
    first = next(iter(about), "")
    for name, one in about.items():
        if one[LAYOUT].shape != about[first][LAYOUT].shape:
            raise ValueError(
                f"{title} combines outputs of all participants: {first!r} has {about[first][LAYOUT].shape[1]}, "
                f"{name!r} has {one[LAYOUT].shape[1]}. Give their heads one label space."
            )
