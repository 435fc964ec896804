"""FedBABU: the body alone is trained by the federation, the head in a fine-tuning at the end (Oh et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hetfed_lightning.methods.averaging.backbone_averaging import BackboneAveraging
from hetfed_lightning.methods.plans import Moment, Part
from hetfed_lightning.methods.search_space import choices, search_space
from hetfed_lightning.participants.participant import Participant


class FedBABU(BackboneAveraging):
    """Averaging of backbones that are trained under heads which stay as they began, until all are fine-tuned at home.

    What travels is the shared state, weighted by examples; the local loss is the participant's own, and no step of a
    round changes a head. After the exchange of the last round every participant trains all of its network on its own
    data. In the paper all heads begin alike: ``Participant(shared=("*",))`` makes them so. With the default, heads stay
    personal, each as its participant begins.

    Args:
        fine_tune_epochs: Passes over own data after the last round, at least 0; 5 in the paper's tables.
        local_epochs: Passes of a round; None for the participant's own number.
        settings: Further arguments of averaging. ``max_share`` is 1: no weight is bounded.

    Raises:
        ValueError: If a setting is out of its range; before training, if no two participants share a tensor, or one has
            no parameter to train outside of its head.

    Reference:
        Oh, Kim, Yun (2022), FedBABU: Toward Enhanced Representation for Federated Image Classification, ICLR,
        Algorithm 1 and section 5.1.
    """

    paper_shares = ("*",)
    search_space = search_space(fine_tune_epochs=choices(1, 2, 5, 10))

    def __init__(self, fine_tune_epochs: int = 5, local_epochs: int | None = None, **settings: Any) -> None:
        if fine_tune_epochs < 0:
            raise ValueError(f"fine_tune_epochs: expected at least 0, got {fine_tune_epochs}.")
        if local_epochs is not None and local_epochs < 1:
            raise ValueError(f"local_epochs: expected at least 1 or None, got {local_epochs}.")
        super().__init__(**{"max_share": 1.0} | settings)
        self.fine_tune_epochs, self.local_epochs = fine_tune_epochs, local_epochs

    def plan(self, participant: Participant, moment: Moment, round_index: int) -> Sequence[Part]:
        """Passes for all but the head in a round, and for everything after the last.

        Args:
            participant: Participant whose work is planned.
            moment: ``"local"`` or ``"last"``.
            round_index: Unused.

        Raises:
            ValueError: If the participant trains nothing but its head.
        """
        del round_index
        if moment == "last":
            return [Part(epochs=self.fine_tune_epochs)]
        if moment != "local":
            return ()
        body = [key for key in participant.trained_keys() if not key.startswith("head.")]
        if not body:
            raise ValueError(
                f"{participant.label}: FedBABU trains all but the head, and there is nothing else to train."
            )
        return [Part(epochs=self.local_epochs or participant.local_epochs, trains=body)]
