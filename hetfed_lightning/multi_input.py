"""A participant whose examples are several named inputs: one for the backbone, the others for branches of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hetfed_lightning.participant import Participant


class MultiInputParticipant(Participant):
    """A backbone that may be shared reads one input; personal branches read the others; the head sees all features.

    So a hospital reads images by a backbone that all hospitals share and its own panel of genes by a branch that nobody
    else has. Data sets hold inputs by name: ``Examples({"image": ..., "genes": ...}, targets)``.

    Args:
        backbone: Maps ``inputs[reads]`` to features ``(B, D)``.
        head: Maps the features of the backbone and then of every branch, side by side, to outputs ``(B, C)``.
        reads: Name of the backbone's input.
        branches: By name of their input; each maps it to features ``(B, D_i)``.
        settings: As :class:`Participant` takes them; ``transform`` may be a mapping by name of the input.

    Raises:
        ValueError: If a branch reads what the backbone reads.
        KeyError: In use, if a batch lacks an input, by its name.
    """

    def __init__(
        self,
        backbone: nn.Module,
        head: nn.Module,
        *,
        reads: str,
        branches: Mapping[str, nn.Module] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(backbone, head, **settings)
        if reads in (branches or {}):
            raise ValueError(f"branches: {reads!r} is read by the backbone; a branch reads another input.")
        self.reads = reads
        self.branches = nn.ModuleDict(branches or {})

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Outputs ``(B, C)`` for inputs by name that have passed through ``transform``."""
        if missing := [name for name in (self.reads, *self.branches) if name not in inputs]:
            raise KeyError(f"{self.label} reads {', '.join(missing)}, and the batch has {', '.join(inputs)}.")
        features = [self.backbone(inputs[self.reads])]
        features += [branch(inputs[name]) for name, branch in self.branches.items()]
        outputs: Tensor = self.head(torch.cat(features, dim=1))
        return outputs
