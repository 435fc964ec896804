"""Handwritten digits from scikit-learn, dealt out to participants."""

from __future__ import annotations

from hetfed_lightning.showcases.digits.data_module import DigitsDataModule
from hetfed_lightning.showcases.digits.images import load_digits_images

__all__ = ["DigitsDataModule", "load_digits_images"]
