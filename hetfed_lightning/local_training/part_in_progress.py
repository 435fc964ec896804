"""A part of a plan that is being worked on: parameters that it trains, and an optimizer of its own if it has one."""

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
    """One part of one participant's plan, from its first batch to its last.

    Args:
        participant: The participant.
        index: Place of the part in the plan.
        part: The part.
        saved: State of an earlier :meth:`state`, to go on with if it is this part's.

    Attributes:
        trained: Parameters that it trains, of those that require a gradient.
        optimizer: Optimizer of its own; None where the participant's steps.

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
        """Drop the gradients of parameters that it does not train: optimizers skip those without one."""
        for parameter in self._still:
            parameter.grad = None

    @property
    def has_gradients(self) -> bool:
        """True if a parameter that it trains has a gradient."""
        return any(parameter.grad is not None for parameter in self.trained)

    def state(self) -> dict[str, Any]:
        """Place in the plan and the state of its own optimizer, for a checkpoint; empty without one."""
        return {} if self.optimizer is None else {"index": self.index, "optimizer": self.optimizer.state_dict()}
