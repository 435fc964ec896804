"""Part of a plan in progress: its trained parameters, and its own optimizer if it has one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hetfed_lightning.local_training.step_checks import needs_closure

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn
    from torch.optim import Optimizer

    from hetfed_lightning.methods.plans import Part
    from hetfed_lightning.participants.participant import Participant


class PartInProgress:
    """One part of a participant's plan, from its first batch to its last.

    Args:
        participant: The participant.
        index: Index of the part in the plan, from 0.
        part: The part.
        saved: State of an earlier :meth:`state`, loaded if it belongs to this part.

    Attributes:
        trained: Trained parameters, of those that require a gradient.
        optimizer: Optimizer of the part; None for the participant's own.

    Raises:
        ValueError: If its optimizer's step needs a closure.
    """

    def __init__(
        self, participant: Participant, index: int, part: Part, saved: Mapping[str, Any] | None = None
    ) -> None:
        self.index = index
        parameters = dict(participant.named_parameters())
        keys = set(part.keys(list(parameters)))
        trainable = {key: one for key, one in parameters.items() if one.requires_grad}
        self.trained: list[nn.Parameter] = [one for key, one in trainable.items() if key in keys]
        self._still = [one for key, one in trainable.items() if key not in keys]
        self.optimizer: Optimizer | None = None
        if part.optimizer is not None:
            self.optimizer = part.optimizer(self.trained)
            if needs_closure(self.optimizer):
                raise ValueError(
                    f"{participant.label}: Part(optimizer=...) gave {type(self.optimizer).__name__}, which evaluates "
                    "the loss several times a step, by a closure. Take another optimizer."
                )
            if saved is not None and saved["index"] == index:
                self.optimizer.load_state_dict(saved["optimizer"])

    def hold_still(self) -> None:
        """Drop the gradients of untrained parameters: optimizers skip parameters without one."""
        for parameter in self._still:
            parameter.grad = None

    @property
    def has_gradients(self) -> bool:
        """True if a trained parameter has a gradient."""
        return any(parameter.grad is not None for parameter in self.trained)

    def state(self) -> dict[str, Any]:
        """Index in the plan and state of its own optimizer, for a checkpoint; empty without one."""
        return {} if self.optimizer is None else {"index": self.index, "optimizer": self.optimizer.state_dict()}
