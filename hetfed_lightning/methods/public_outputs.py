"""Outputs of several participants on the public set, computed at once where they are a fleet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hetfed_lightning.distillation.outputs import at_least_float32, two_columns
from hetfed_lightning.methods.to_device import to_device
from hetfed_lightning.modes import evaluating

if TYPE_CHECKING:
    from hetfed_lightning.federation_view import FederationView

BATCH = 128
"""Examples that pass through a network at once: of images, 512 at once fall out of a CPU's cache and take half as long
again."""


class PublicOutputs:
    """Outputs on the public set of those participants of this process that fleets compute at once, made when asked for.

    Args:
        federation: The federation, in a round.
        names: Names of the participants, which stay as they are while the outputs are in use.
    """

    def __init__(self, federation: FederationView, names: Sequence[str]) -> None:
        self._federation, self._names = federation, list(names)
        self._found: dict[str, Tensor] | None = None

    def of(self, name: str) -> Tensor | None:
        """Outputs of one participant, shape ``(P, C)``, in float32 at least; None if no fleet computes them."""
        if self._found is None:
            self._found = self._together()
        return self._found.get(name)

    @torch.no_grad()
    def _together(self) -> dict[str, Tensor]:
        federation, names = self._federation, self._names
        parts: dict[str, list[Tensor]] = {name: [] for name in names}
        members = map(federation.__getitem__, names)
        with evaluating(*members), federation.trainer.precision_plugin.forward_context():
            for indices in torch.arange(federation.federated_data.num_public).split(BATCH):
                found = federation.fleets.outputs(names, on_device(federation, indices))
                names = [name for name in names if name in found]
                if not names:
                    return {}
                for name in names:
                    parts[name].append(at_least_float32(two_columns(found[name])))
        return {name: torch.cat(parts[name]) for name in names}


def on_device(federation: FederationView, indices: Tensor) -> Any:
    """Raw inputs of public examples, on the federation's device and in its precision.

    Args:
        federation: Federation with the public set.
        indices: Indices of public examples, shape ``(B,)``.
    """
    return to_device(federation, federation.federated_data.public_inputs(indices))
