"""One HTML page of runs' results: self-contained, without network, for a screen, a phone or paper."""

from __future__ import annotations

from hetfed_lightning.cli.report.page import page
from hetfed_lightning.cli.report.sources import Subject, read_subject

__all__ = ["Subject", "page", "read_subject"]
