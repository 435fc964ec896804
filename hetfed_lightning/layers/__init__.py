"""Layers, transforms and checks that backbones, heads and participants share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hetfed_lightning._moved import names_moved_from
from hetfed_lightning.layers.augmentations import GaussianNoise, RandomCrop, RandomShift
from hetfed_lightning.layers.standardise import Standardise
from hetfed_lightning.layers.transforms import Fittable, InvertibleTransform, TransformByName

if not TYPE_CHECKING:  # What has moved to the showcases is found by its old name.
    __getattr__ = names_moved_from(__name__)

__all__ = [
    "Fittable",
    "GaussianNoise",
    "InvertibleTransform",
    "RandomCrop",
    "RandomShift",
    "Standardise",
    "TransformByName",
]
