"""FedRolex: parts of one large network that roll from round to round (Alam et al. 2022)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from hetfed_lightning.methods.common_start import SAMPLES
from hetfed_lightning.methods.published.hetero_fl import CHANNELS, HeteroFL

if TYPE_CHECKING:
    from hetfed_lightning.methods.method import About


class FedRolex(HeteroFL):
    """Averaging of networks of unlike widths whose channels are a window on those of the widest, moved every round.

    As in :class:`~hetfed_lightning.methods.published.hetero_fl.HeteroFL`, but in round t a layer of r of R channels
    trains the channels t, t + 1, ..., t + r - 1 (modulo R), so that every channel of the widest network is trained by
    narrow participants too. What travels is what travels there. Momenta of a participant's optimizer belong to places
    and not to channels; ``torch.optim.SGD`` without momentum, or a reset, suits the method.

    Args:
        weighting: ``"uniform"`` over those who hold a coordinate, as in the paper; ``"samples"`` by their examples.
        masks_absent: True to mask classes without own examples; for multiclass tasks.

    Raises:
        ValueError: Before training, also if a layer takes inputs that are no other layer's channels, such as those of
            a flattened image, since it is not known then which of them move together.

    Reference:
        Alam, Liu, Yan, Zhang (2022), FedRolex: Model-Heterogeneous Federated Learning with Rolling Sub-Model
        Extraction, NeurIPS, eq. 3 and Algorithm 1.
    """

    def __init__(self, weighting: Literal["uniform", "samples"] = "uniform", *, masks_absent: bool = True) -> None:
        super().__init__(weighting, masks_absent=masks_absent)

    def indices(self, size: int, full: int, round_index: int) -> Tensor:
        """Indices of the window that a participant's dimension has in a round, shape ``(size,)``.

        Args:
            size: Size of the dimension.
            full: Size of the widest network's.
            round_index: Index of the round in which the part is trained.
        """
        own = torch.arange(size)
        return own if size == full else (own + round_index) % full

    def groups(self, about: About) -> Mapping[str, Sequence[str]]:
        """One group of all, which bears the name of the widest.

        Args:
            about: Descriptions of all participants, by name.

        Raises:
            ValueError: If a layer's inputs that differ in number are no other layer's channels.
        """
        found = super().groups(about)
        (widest,) = found
        channels = {one.shape[0] for key, one in about[widest].items() if key != SAMPLES and one.ndim}
        for name, own in about.items():
            for key, one in own.items():
                full = about[widest][key]
                if key == SAMPLES or one.ndim < CHANNELS or one.shape[1] == full.shape[1]:
                    continue
                if full.shape[1] not in channels:
                    raise ValueError(
                        f"FedRolex: {key} takes {full.shape[1]} inputs ({one.shape[1]} of {name!r}), which are no "
                        "other layer's channels, so that it is not known which of them roll together. Pool features "
                        "before a linear layer, or take HeteroFL."
                    )
        return found
