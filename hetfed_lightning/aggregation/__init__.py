"""Rules that turn the participants' states into one: pure functions of tensors, one file each.

A rule takes ``(states, weights)`` and returns a state of the same keys, shapes, dtypes and device. A rule
without settings is a function; a rule with settings is a class below `AggregationRule`. To add one, add a
file: the tests find it by walking this package.
"""

from __future__ import annotations

from hetfed_lightning.aggregation.clipping import clip_updates
from hetfed_lightning.aggregation.coordinate_median import coordinate_median
from hetfed_lightning.aggregation.geometric_median import GeometricMedian
from hetfed_lightning.aggregation.multi_krum import MultiKrum
from hetfed_lightning.aggregation.rule import AggregationRule
from hetfed_lightning.aggregation.state import AggregationFunction, State, check_states
from hetfed_lightning.aggregation.trimmed_mean import TrimmedMean
from hetfed_lightning.aggregation.weighted_mean import weighted_mean

__all__ = [
    "AggregationFunction",
    "AggregationRule",
    "GeometricMedian",
    "MultiKrum",
    "State",
    "TrimmedMean",
    "check_states",
    "clip_updates",
    "coordinate_median",
    "weighted_mean",
]
