"""Backbones: the part of a network that participants may share, one architecture per file.

To add one, write a subclass of ``Backbone`` in a file of its own; the contract tests find it by walking this
package.
"""

from hetfed_lightning.backbones.backbone import Backbone
from hetfed_lightning.backbones.conv import ConvBackbone
from hetfed_lightning.backbones.conv1d import Conv1dBackbone
from hetfed_lightning.backbones.mlp import MLPBackbone
from hetfed_lightning.backbones.peaks import PeakBackbone
from hetfed_lightning.backbones.recurrent import RecurrentBackbone
from hetfed_lightning.backbones.residual import ResidualBackbone
from hetfed_lightning.backbones.sequences import as_sequence
from hetfed_lightning.backbones.transformer import TransformerBackbone

__all__ = [
    "Backbone",
    "Conv1dBackbone",
    "ConvBackbone",
    "MLPBackbone",
    "PeakBackbone",
    "RecurrentBackbone",
    "ResidualBackbone",
    "TransformerBackbone",
    "as_sequence",
]
