"""What is promised of runs: nothing is lost when something stops, breaks or fills up."""

from __future__ import annotations

from scripts.promises.promise import Promise

PROMISES: tuple[Promise, ...] = ()
