"""Distillation: losses of a student, and ensembles that combine many teachers' outputs into one target.

Pure functions of tensors. A loss takes the student's logits and a target; an `Ensemble` takes the `Teachers`' outputs
on the public set and returns that target. To add an ensemble, add a file: the tests find it by walking this package.
"""

from __future__ import annotations

from hetfed_lightning.distillation.class_prior_weighted import ClassPriorWeighted
from hetfed_lightning.distillation.clipped_logits import ClippedLogits
from hetfed_lightning.distillation.density_ratio_posterior import DensityRatioPosterior
from hetfed_lightning.distillation.ensemble import Ensemble
from hetfed_lightning.distillation.geometric_median_probabilities import GeometricMedianProbabilities
from hetfed_lightning.distillation.losses import (
    binary_soft_target_loss,
    distillation_loss,
    distillation_losses,
    kd_loss,
    regression_distillation_loss,
    soft_target_loss,
)
from hetfed_lightning.distillation.mean_logits import MeanLogits
from hetfed_lightning.distillation.mean_probabilities import MeanProbabilities
from hetfed_lightning.distillation.median_probabilities import MedianProbabilities
from hetfed_lightning.distillation.outputs import OutputKind, check_temperature, renormalise, soften
from hetfed_lightning.distillation.sample_weighted import SampleWeighted
from hetfed_lightning.distillation.teachers import Teachers
from hetfed_lightning.distillation.trimmed_probabilities import TrimmedProbabilities
from hetfed_lightning.distillation.validation_weighted import ValidationWeighted

__all__ = [
    "ClassPriorWeighted",
    "ClippedLogits",
    "DensityRatioPosterior",
    "Ensemble",
    "GeometricMedianProbabilities",
    "MeanLogits",
    "MeanProbabilities",
    "MedianProbabilities",
    "OutputKind",
    "SampleWeighted",
    "Teachers",
    "TrimmedProbabilities",
    "ValidationWeighted",
    "binary_soft_target_loss",
    "check_temperature",
    "distillation_loss",
    "distillation_losses",
    "kd_loss",
    "regression_distillation_loss",
    "renormalise",
    "soft_target_loss",
    "soften",
]
