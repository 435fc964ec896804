"""A participant as a fleet sees it: its optimizer, and what that steps."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from torch.optim import Optimizer

from hetfed_lightning.fleets.snapshot import Modes, Snapshot
from hetfed_lightning.optimization import LocalOptimization
from hetfed_lightning.participant import Participant


@dataclass(frozen=True)
class Member:
    """A participant in a fleet.

    Attributes:
        name: Its name.
        local: Its optimizer and schedulers.
        parameters: What its optimizer steps, by key of its state.
        optimizer: Its only one.
        found: Its network as it was when its kind was found; None of a copy.
    """

    name: str
    local: LocalOptimization
    parameters: dict[str, nn.Parameter]
    optimizer: Optimizer
    found: Snapshot | None = None

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

    def change(self, modes: Modes = "training") -> str | None:
        """What is no longer as it was found, in words that follow "since"; None if nothing."""
        return None if self.found is None else self.found.difference(modes)

    @classmethod
    def of(cls, name: str, local: LocalOptimization, found: Snapshot) -> Member:
        """In the order in which the optimizer holds them."""
        keys = {id(parameter): key for key, parameter in local.participant.named_parameters()}
        optimizer = local.optimizers[0]
        held = optimizer.param_groups[0]["params"]
        return cls(name, local, {keys[id(parameter)]: parameter for parameter in held}, optimizer, found)
