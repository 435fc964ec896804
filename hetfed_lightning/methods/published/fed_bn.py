"""FedBN: everything that is shared is averaged but the normalisation layers (Li et al. 2021)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch.nn.modules.batchnorm import _NormBase

from hetfed_lightning.methods.averaging.backbone_averaging import BackboneAveraging

if TYPE_CHECKING:
    from torch import Tensor

    from hetfed_lightning.participants.participant import Participant


class FedBN(BackboneAveraging):
    """Averaging of shared weights, weighted by examples, of which batch normalisation stays at home.

    What travels is what participants share, without weights, biases and running statistics of batch and instance
    normalisation. Local training is the participant's own. Many implementations called FedAvg do the same unsaid, by
    leaving buffers aside.

    Args:
        settings: Further arguments of averaging. ``max_share`` is 1: no weight is bounded.

    Raises:
        ValueError: Before training, if no two participants share a tensor.

    Reference:
        Li, Jiang, Zhang, Kamp, Dou (2021), FedBN: Federated Learning on Non-IID Features via Local Batch Normalization,
        ICLR, Algorithm 1.
    """

    paper_shares = ("*",)

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"max_share": 1.0} | settings)

    def shareable(self, participant: Participant) -> dict[str, Tensor]:
        """Views of a participant's averaged tensors by key, without those of normalisation layers.

        Args:
            participant: The participant.
        """
        apart = tuple(f"{name}." for name, one in participant.named_modules() if isinstance(one, _NormBase))
        return {key: one for key, one in super().shareable(participant).items() if not key.startswith(apart or (" ",))}
