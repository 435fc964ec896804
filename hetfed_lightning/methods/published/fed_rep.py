"""FedRep: a common representation, learned in turns with the personal heads on it (Collins et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hetfed_lightning.methods.averaging.backbone_averaging import BackboneAveraging
from hetfed_lightning.methods.plans import Moment, Part
from hetfed_lightning.methods.search_space import choices, search_space
from hetfed_lightning.participants.participant import Participant


class FedRep(BackboneAveraging):
    """Averaging of what is shared, in rounds of head steps with the rest still, then steps of the shared part alone.

    What travels is the shared state (the backbone by default), weighted by examples. Both parts are trained by the
    participant's own loss and optimizer; whichever is still keeps its values and momenta.

    Args:
        head_epochs: Passes in which personal parameters alone are trained, at least 1; 10 in the paper's experiments.
        backbone_epochs: Passes in which shared parameters alone are trained, at least 1.
        settings: Further arguments of averaging. ``max_share`` is 1: no weight is bounded. The paper's Algorithm 1 has
            ``weighting="uniform"``, its code ``"samples"``, which is the default here.

    Raises:
        ValueError: If a setting is out of its range; before training, if no two participants share a tensor, or one has
            no personal parameter to train, or no shared one.

    Reference:
        Collins et al. (2021), Exploiting Shared Representations for Personalized Federated Learning, ICML, Algorithm 1.
    """

    paper_shares = ("backbone",)
    search_space = search_space(head_epochs=choices(1, 2, 5, 10))

    def __init__(self, head_epochs: int = 10, backbone_epochs: int = 1, **settings: Any) -> None:
        for name, count in (("head_epochs", head_epochs), ("backbone_epochs", backbone_epochs)):
            if count < 1:
                raise ValueError(f"{name}: expected at least 1, got {count}.")
        super().__init__(**{"max_share": 1.0} | settings)
        self.head_epochs, self.backbone_epochs = head_epochs, backbone_epochs

    def plan(self, participant: Participant, moment: Moment, round_index: int) -> Sequence[Part]:
        """Passes over own data for the personal parameters, then for the shared ones.

        Args:
            participant: Participant whose work is planned.
            moment: ``"local"`` alone.
            round_index: Unused.

        Raises:
            ValueError: If the participant has no personal parameter to train, or no shared one.
        """
        del round_index
        if moment != "local":
            return ()
        personal, shared = participant.trained_keys(shared=False), participant.trained_keys(shared=True)
        if not (personal and shared):
            missing = "personal" if shared else "shared"
            raise ValueError(
                f"{participant.label}: FedRep trains personal and shared parameters in turns, and it has no {missing} "
                "one to train: change Participant(shared=...), or take BackboneAveraging."
            )
        return [Part(epochs=self.head_epochs, trains=personal), Part(epochs=self.backbone_epochs, trains=shared)]
