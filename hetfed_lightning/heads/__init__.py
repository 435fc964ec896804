"""Heads: the part of a network that stays with its participant; ``torch.nn.Linear`` is the ordinary one."""

from hetfed_lightning.heads.cosine import CosineHead
from hetfed_lightning.heads.mlp import MLPHead

__all__ = ["CosineHead", "MLPHead"]
