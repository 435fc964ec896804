"""Federation of participants: its rounds and their clock, cohort, checks before training, quarantine and evaluation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hetfed_lightning._moved import names_moved_from

if not TYPE_CHECKING:
    __getattr__ = names_moved_from(__name__)
