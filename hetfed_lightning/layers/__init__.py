"""Layers, transforms and checks that backbones, heads and participants share."""

from __future__ import annotations

from hetfed_lightning.layers.own_columns import OwnColumns
from hetfed_lightning.layers.standardise import Standardise
from hetfed_lightning.layers.transforms import Fittable, InvertibleTransform, TransformByName

__all__ = ["Fittable", "InvertibleTransform", "OwnColumns", "Standardise", "TransformByName"]
