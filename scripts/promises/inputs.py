"""What is promised of inputs: bad ones are refused by name before training."""

from __future__ import annotations

from scripts.promises.promise import Promise

PROMISES: tuple[Promise, ...] = ()
