"""A participant as a fleet sees it: its optimizer, and what that steps."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from hetfed_lightning.optimization import LocalOptimization
from hetfed_lightning.participant import Participant


@dataclass(frozen=True)
class Member:
    """A participant in a fleet.

    Attributes:
        name: Its name.
        local: Its optimizer and schedulers.
        parameters: What its optimizer steps, by key of its state.
    """

    name: str
    local: LocalOptimization
    parameters: dict[str, nn.Parameter]

    @property
    def transforms(self) -> bool:
        """Whether the participant does something to its batches."""
        participant = self.local.participant
        as_usual = all(
            getattr(getattr(participant, method), "__func__", None) is getattr(Participant, method)
            for method in ("on_after_batch_transfer", "transformed")
        )
        transforms = participant.transform is not None or participant.target_transform is not None
        return transforms or not as_usual

    @classmethod
    def of(cls, name: str, local: LocalOptimization) -> Member:
        """In the order in which the optimizer holds them."""
        keys = {id(parameter): key for key, parameter in local.participant.named_parameters()}
        held = local.optimizers[0].param_groups[0]["params"]
        return cls(name, local, {keys[id(parameter)]: parameter for parameter in held})
