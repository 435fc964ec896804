"""Base of methods whose common model is a small backbone with a head, of which features are used as well."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from copy import deepcopy
from typing import TYPE_CHECKING

from torch import Tensor, nn

from hetfed_lightning.methods.common_model import COMMON, CommonModel, check_one_input

if TYPE_CHECKING:
    from hetfed_lightning.methods.context import Context
    from hetfed_lightning.participants.participant import Participant

BACKBONE, HEAD = "backbone", "head"


class CommonNetwork(CommonModel):
    """Methods with a common backbone and head beside each participant's own network, both averaged by examples.

    Args:
        backbone: Maps the inputs of the participants' backbones to features ``(B, D)``; each participant gets a copy.
            None for copies of the participants' own, which then have to be of one architecture.
        head: Maps these features to outputs ``(B, C)``; given if and only if ``backbone`` is.

    Raises:
        ValueError: If one of them is given without the other.
    """

    def __init__(self, backbone: nn.Module | None = None, head: nn.Module | None = None) -> None:
        if (backbone is None) is not (head is None):
            raise ValueError("common network: give a backbone and a head for it, or neither.")
        parts = None if backbone is None or head is None else OrderedDict(backbone=backbone, head=head)
        super().__init__(None if parts is None else nn.Sequential(parts))

    @property
    def remedy(self) -> str:
        """Sentence on what to change if participants have nothing in common."""
        return f"Give {type(self).__name__}(backbone=..., head=...) a network that all can train beside their own."

    def modules(self, participant: Participant) -> Mapping[str, nn.Module]:
        """The common network.

        Args:
            participant: Participant that gets it.
        """
        check_one_input(participant, self.title)
        if self.model is not None:
            return {COMMON: deepcopy(self.model)}
        return super().modules(participant)

    def widths(self, participant: Participant, modules: Mapping[str, nn.Module]) -> tuple[int, int]:
        """Widths of the common features and of the participant's own.

        Args:
            participant: The participant.
            modules: The common network.

        Raises:
            ValueError: If a head does not say how many features it takes.
        """
        common = _width(modules[COMMON].get_submodule(HEAD), f"{self.title}'s common head")
        return common, _width(participant.head, f"{participant.label}: its head")


def common_parts(context: Context) -> tuple[nn.Module, nn.Module]:
    """Backbone and head of a participant's copy of the common network.

    Args:
        context: Its side of the method.
    """
    common = context.modules[COMMON]
    return common.get_submodule(BACKBONE), common.get_submodule(HEAD)


def common_features(context: Context, inputs: Tensor) -> Tensor:
    """Features of the common network, shape ``(B, D)``.

    Args:
        context: A participant's side of the method.
        inputs: Inputs of B examples.
    """
    found: Tensor = common_parts(context)[0](inputs)
    return found.flatten(1)


def _width(head: nn.Module, where: str) -> int:
    width = next((one.in_features for one in head.modules() if isinstance(one, nn.Linear)), None)
    if width is None:
        raise ValueError(f"{where} is a {type(head).__name__}, and a linear layer is needed, which says what it takes.")
    return width
