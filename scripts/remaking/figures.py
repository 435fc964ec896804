"""Figures of papers beside ours, with the range in which ours are taken for the same."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One figure made again.

    Attributes:
        paper: Name of the method and the setting.
        what: What is measured.
        ours: Value that was measured.
        low: Least value that counts as reached.
        high: Largest value that counts as reached.
        target: What the paper or its closed form says.
    """

    paper: str
    what: str
    ours: float
    low: float
    high: float
    target: str

    @property
    def is_reached(self) -> bool:
        """True if the value is within its range."""
        return self.low <= self.ours <= self.high

    def row(self) -> str:
        """Row of a markdown table."""
        reached = "yes" if self.is_reached else "no"
        return f"| {self.paper} | {self.what} | {self.ours:.4g} | {self.target} | {reached} |"


HEADER = "| paper | figure | ours | target | reached |\n| --- | --- | ---: | --- | --- |"
