"""What backbones, heads and participants have in common; it knows none of them."""

from __future__ import annotations

from hetfed_lightning.layers.standardise import Standardise
from hetfed_lightning.layers.transforms import Fittable, InvertibleTransform, TransformByName

__all__ = ["Fittable", "InvertibleTransform", "Standardise", "TransformByName"]
