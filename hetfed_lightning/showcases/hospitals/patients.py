"""Patients of four hospitals with suspected heart disease (UCI): real tables whose columns differ from site to site.

Every patient is a row of all columns, NaN where the hospital did not record the value. So rows of several hospitals lie
in one tensor, and each hospital's transform selects its columns (:class:`HospitalInputs`). A value of 0 for cholesterol
or blood pressure, as all of Switzerland's cholesterol is, stands for a missing one.

Reference:
    Janosi, Steinbrunn, Pfisterer and Detrano (1989), Heart Disease, UCI Machine Learning Repository, CC BY 4.0; Detrano
    et al. (1989), International application of a new probability algorithm for the diagnosis of coronary artery
    disease, American Journal of Cardiology 64.
"""

from __future__ import annotations

import csv
import gzip
import io
import math
from collections.abc import Callable, Mapping, Sequence
from importlib import resources

import torch
from torch import Tensor

from hetfed_lightning.data.examples import Examples
from hetfed_lightning.seeding import stream_generator
from hetfed_lightning.showcases.hospitals.own_columns import OwnColumns

__all__ = ["COLUMNS", "COMMON", "HOSPITALS", "UNITS", "HospitalInputs", "invented_patients", "read_hospitals"]

HOSPITALS = {
    "cleveland": "Cleveland",
    "hungary": "Hungary",
    "switzerland": "Switzerland",
    "va_long_beach": "VA Long Beach",
}
"""Names of the participants, and of the hospitals in the file."""

Read = Callable[[str], float]


def _number(text: str) -> float:
    return float(text) if text else math.nan


def _positive(text: str) -> float:
    """A quantity that no living patient has at 0."""
    return _number(text) or math.nan


def _is(*wanted: str) -> Read:
    return lambda text: float(text.lower() in wanted) if text else math.nan


def _step(*steps: str) -> Read:
    return lambda text: float(steps.index(text)) if text else math.nan


_READERS: dict[str, tuple[str, Read]] = {
    "age": ("age", _number),
    "male": ("sex", _is("male")),
    "typical_angina": ("cp", _is("typical angina")),
    "atypical_angina": ("cp", _is("atypical angina")),
    "non_anginal_pain": ("cp", _is("non-anginal")),
    "no_chest_pain": ("cp", _is("asymptomatic")),
    "blood_pressure": ("trestbps", _positive),
    "heart_rate": ("thalch", _number),
    "exercise_angina": ("exang", _is("true")),
    "st_depression": ("oldpeak", _number),
    "ecg_hypertrophy": ("restecg", _is("lv hypertrophy")),
    "ecg_st_t": ("restecg", _is("st-t abnormality")),
    "cholesterol": ("chol", _positive),
    "high_sugar": ("fbs", _is("true")),
    "st_slope": ("slope", _step("upsloping", "flat", "downsloping")),
    "vessels": ("ca", _number),
    "thal_fixed": ("thal", _is("fixed defect")),
    "thal_reversible": ("thal", _is("reversable defect")),
}

COLUMNS = tuple(_READERS)
"""Columns of every patient, in order.

Quantities are in the unit of the file, yes or no as 1 and 0, the slope of the ST segment as 0 (up), 1 (flat), 2 (down),
the number of major vessels coloured by fluoroscopy from 0 to 3.
"""

COMMON = COLUMNS[:12]
"""Columns that all four hospitals record."""

_YES_NO = (0.5, 0.45)
UNITS: Mapping[str, tuple[float, float]] = {
    "age": (54.0, 9.0),
    "male": _YES_NO,
    "typical_angina": _YES_NO,
    "atypical_angina": _YES_NO,
    "non_anginal_pain": _YES_NO,
    "no_chest_pain": _YES_NO,
    "blood_pressure": (130.0, 18.0),
    "heart_rate": (140.0, 25.0),
    "exercise_angina": _YES_NO,
    "st_depression": (1.0, 1.1),
    "ecg_hypertrophy": _YES_NO,
    "ecg_st_t": _YES_NO,
}
"""Origin and unit of the common columns, agreed on before training and equal everywhere.

Units are years, mm Hg, beats a minute and mm. A heart rate of 120 thus means the same to a backbone that several
hospitals share.
"""


class HospitalInputs(OwnColumns):
    """Inputs of one hospital's patients: the common columns in shared units, and its own columns in its own.

    Args:
        private: Columns beyond the common ones that this hospital records; see :data:`COLUMNS`.
        indicators: Columns whose absence is an input of the head.
        common_scale: Factor of the common columns before the head.
        private_scale: Factor of the private columns and the indicators before the head.
    """

    def __init__(
        self,
        private: Sequence[str] = (),
        indicators: Sequence[str] = (),
        common_scale: float = 1.0,
        private_scale: float = 1.0,
    ) -> None:
        super().__init__(COLUMNS, COMMON, private, indicators, UNITS, common_scale, private_scale)


def read_hospitals() -> dict[str, Examples]:
    """Patients of every hospital, by name of the participant.

    Returns:
        Inputs of shape ``(N, 18)``, float32, the columns of :data:`COLUMNS`, NaN where a value is missing; targets 1
        where the coronary angiography found a vessel narrowed by more than half, else 0.
    """
    packed = (resources.files(__package__) / "heart_disease.csv.gz").read_bytes()
    rows = list(csv.DictReader(io.StringIO(gzip.decompress(packed).decode("utf-8"))))
    found = {}
    for name, hospital in HOSPITALS.items():
        own = [row for row in rows if row["hospital"] == hospital]
        inputs = torch.tensor([[read(row[column]) for column, read in _READERS.values()] for row in own])
        targets = torch.tensor([int(row["num"]) > 0 for row in own])
        found[name] = Examples(inputs, targets, missing=True)
    return found


def invented_patients(count: int, seed: int) -> Tensor:
    """Invented rows for a public set, which belong to no patient.

    Quantities are normal around the origins of :data:`UNITS` with their units as standard deviation, rounded and cut to
    the possible range. Yes or no is even, but that seven in ten are male; of the four kinds of chest pain, and of the
    two findings in the ECG, each patient has at most one. Columns that only some hospitals record are missing.

    Args:
        count: Number of rows, at least 1.
        seed: Seed of the draw alone.

    Returns:
        Shape ``(count, 18)``, with the columns of :func:`read_hospitals`.
    """
    stream = stream_generator(seed, "invented patients")
    rows = torch.full((count, len(COLUMNS)), math.nan)
    for column, low, high, digits in (
        ("age", 25, 85, 0),
        ("blood_pressure", 80, 220, 0),
        ("heart_rate", 60, 205, 0),
        ("st_depression", 0, 6, 1),
    ):
        origin, unit = UNITS[column]
        values = origin + unit * torch.randn(count, generator=stream)
        rows[:, COLUMNS.index(column)] = values.clamp(low, high).round(decimals=digits)
    for column, share in (("male", 0.7), ("exercise_angina", 0.5)):
        rows[:, COLUMNS.index(column)] = (torch.rand(count, generator=stream) < share).float()
    for columns in (COLUMNS[2:6], (*COLUMNS[10:12], None)):
        chosen = torch.randint(len(columns), (count,), generator=stream)
        for index, name in enumerate(columns):
            if name is not None:
                rows[:, COLUMNS.index(name)] = (chosen == index).float()
    return rows
