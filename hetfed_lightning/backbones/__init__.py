"""Backbones: the part of a network that participants may share, one architecture per file.

To add one, write a subclass of ``Backbone`` in a file of its own; the contract tests find it by walking this
package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hetfed_lightning._moved import names_moved_from
from hetfed_lightning.backbones.backbone import Backbone
from hetfed_lightning.backbones.conv import ConvBackbone
from hetfed_lightning.backbones.conv1d import Conv1dBackbone
from hetfed_lightning.backbones.mlp import MLPBackbone
from hetfed_lightning.backbones.recurrent import RecurrentBackbone
from hetfed_lightning.backbones.residual import ResidualBackbone
from hetfed_lightning.backbones.sequences import as_sequence
from hetfed_lightning.backbones.transformer import TransformerBackbone

if not TYPE_CHECKING:  # What has moved to the showcases is found by its old name.
    __getattr__ = names_moved_from(__name__)

__all__ = [
    "Backbone",
    "Conv1dBackbone",
    "ConvBackbone",
    "MLPBackbone",
    "RecurrentBackbone",
    "ResidualBackbone",
    "TransformerBackbone",
    "as_sequence",
]
