"""Cosine similarity to a direction per class: logits stay bounded for classes that a participant never sees.

A linear head trained without examples of a class pushes that class's logit down without end: every example of another
class lowers it, and no example raises it. Such a participant then vetoes the class in an ensemble. Here a logit is a
cosine times one common scale, so an unseen class can sink no further than ``-scale``. The lengths of features, which
mean nothing across participants, play no part. Not for regression, whose targets need a range.

Ours / the paper's / why: the paper also drops the backbone's last ReLU, so that features take both signs; ours leaves
the backbone as it is, since a head can be exchanged without it.

Reference:
    Gidaris & Komodakis (2018), Dynamic few-shot visual learning without forgetting (the cosine-similarity based
    recognition model).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from hetfed_lightning.heads.checks import require_features
from hetfed_lightning.layers.checks import require_positive

# Below this length a vector has no direction. PyTorch's 1e-12 is zero in half precision, hence 0 / 0.
_SHORTEST = 1e-6


class CosineHead(nn.Module):
    """Logits in [-scale, scale]: cosines between the features and one learned direction per class.

    Args:
        in_features: Width of the features; the backbone's ``out_features``.
        out_features: Classes C.
        scale: Factor of all cosines at the start, above 0; learned from there on. Probabilities of C classes
            can reach ``1 / (1 + (C - 1) * exp(-2 * scale))``, so a small scale cannot be confident.

    Raises:
        ValueError: If a size is below one or the scale not above 0.
    """

    def __init__(self, in_features: int = 64, out_features: int = 10, scale: float = 10.0) -> None:
        super().__init__()
        owner = type(self).__name__
        require_positive(owner, in_features=in_features, out_features=out_features)
        if not 0.0 < scale < float("inf"):
            raise ValueError(f"{owner} expected a finite scale above 0, got {scale}: 10 suits ten classes")
        self.in_features = in_features
        self.out_features = out_features
        # Normal numbers point evenly in all directions, here with unit length on average. The name is not
        # `weight`: a linear head has one of the same shape, and shared heads of both kinds must not be averaged.
        self.directions = nn.Parameter(torch.randn(out_features, in_features) / in_features**0.5)
        self.scale = nn.Parameter(torch.tensor(float(scale)))

    def forward(self, x: Tensor) -> Tensor:
        """Logits for a batch of features.

        Args:
            x: Shape ``(B, in_features)``; a sample without any active feature gets logits of 0.

        Returns:
            Shape ``(B, out_features)``, each at most the absolute scale in size.

        Raises:
            ValueError: If the features have another width.
        """
        require_features(x, self.in_features, owner=type(self).__name__)
        features = functional.normalize(x, dim=-1, eps=_SHORTEST)
        directions = functional.normalize(self.directions, dim=-1, eps=_SHORTEST)
        return self.scale * functional.linear(features, directions)
