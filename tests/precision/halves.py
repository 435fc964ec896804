"""Real float16 autocast and loss scaling on a CPU, where Lightning's "16-mixed" stands for bfloat16 without scaling."""

from typing import Any

import torch
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor

from hetfed_lightning import FederatedCallback, Federation, FederationView, Participant


def float16(start: float = 1024.0, growth_interval: int = 1000) -> MixedPrecision:
    """What ``Trainer(precision="16-mixed")`` makes on a GPU, for ``Trainer(plugins=[...])`` on a CPU."""
    return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", start, growth_interval=growth_interval))


class Overflowing(FederatedCallback):
    """Gives some local steps of some participants an infinite gradient and a finite loss.

    Args:
        steps: (name, round, batch); a batch of None stands for all of the round.
    """

    def __init__(self, *steps: tuple[str, int, int | None]) -> None:
        self.steps = steps

    def local_loss(self, federation: FederationView, participant: Participant, batch_idx: int) -> Tensor | None:
        here = (participant.name, federation.current_round)
        if (*here, batch_idx) not in self.steps and (*here, None) not in self.steps:
            return None
        # 1e38 times any scale above 3 is more than float32 holds.
        return 1e38 * next(participant.parameters()).sum()


def scales(federation: Federation) -> dict[str, dict[str, Any]]:
    """The scale of every participant with all that decides how it goes on."""
    return {name: local.scale.state_dict() for name, local in federation.local.items() if local.scale is not None}
