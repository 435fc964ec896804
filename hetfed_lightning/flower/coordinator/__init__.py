"""The coordinator: its rounds, the averaging of sites' states, and its records of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hetfed_lightning._moved import names_moved_from

if not TYPE_CHECKING:
    __getattr__ = names_moved_from(__name__)
