"""What is promised of security: nobody is let in, nothing gets out."""

from __future__ import annotations

from scripts.promises.promise import Promise

PROMISES: tuple[Promise, ...] = ()
