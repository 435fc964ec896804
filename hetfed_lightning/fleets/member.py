"""A member of a fleet: one participant with its optimizer and the parameters that it steps."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from torch.optim import Optimizer

from hetfed_lightning.fleets.snapshot import Modes, Snapshot
from hetfed_lightning.local_training.local_optimization import LocalOptimization
from hetfed_lightning.participants.participant import Participant


@dataclass(frozen=True)
class Member:
    """A participant in a fleet.

    Attributes:
        name: Name of the participant.
        local: Its optimizer and schedulers.
        parameters: Parameters that its optimizer steps, by key of its state, in the optimizer's order.
        optimizer: Its only optimizer.
        found: Snapshot of its network, taken when its kind was found; None for a copy.
    """

    name: str
    local: LocalOptimization
    parameters: dict[str, nn.Parameter]
    optimizer: Optimizer
    found: Snapshot | None = None

    @property
    def transforms(self) -> bool:
        """True if the participant transforms its batches."""
        participant = self.local.participant
        as_usual = all(
            getattr(getattr(participant, method), "__func__", None) is getattr(Participant, method)
            for method in ("on_after_batch_transfer", "transformed")
        )
        transforms = participant.transform is not None or participant.target_transform is not None
        return transforms or not as_usual

    def change(self, modes: Modes = "training") -> str | None:
        """First change since the snapshot, as a clause that follows "since"; None without one.

        Args:
            modes: Modes that the modules ought to be in.
        """
        return None if self.found is None else self.found.difference(modes)

    @classmethod
    def of(cls, name: str, local: LocalOptimization, found: Snapshot) -> Member:
        """Member with its parameters in the order in which the optimizer holds them.

        Args:
            name: Name of the participant.
            local: Its optimizer and schedulers.
            found: Snapshot of its network.
        """
        keys = {id(parameter): key for key, parameter in local.participant.named_parameters()}
        optimizer = local.optimizers[0]
        held = optimizer.param_groups[0]["params"]
        return cls(name, local, {keys[id(parameter)]: parameter for parameter in held}, optimizer, found)
