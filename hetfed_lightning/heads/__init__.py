"""Heads: the part of a network that stays with its participant; ``torch.nn.Linear`` is the ordinary one.

A head of one's own is an ``nn.Module`` whose ``forward`` takes features ``(B, in_features)`` and returns outputs ``(B,
out_features)``. It keeps examples independent, and names its tensors unlike those of other heads, since shared tensors
meet by key and shape.
"""

from hetfed_lightning.heads.cosine import CosineHead
from hetfed_lightning.heads.mlp import MLPHead

__all__ = ["CosineHead", "MLPHead"]
