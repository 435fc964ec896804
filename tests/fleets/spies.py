"""Who trained or learned one after another, and what the log said of fleets."""

from typing import Any

import pytest

from hetfed_lightning.federation import federation
from hetfed_lightning.local_training import local_step as local_steps
from hetfed_lightning.methods import planned_work


def alone(patch: pytest.MonkeyPatch) -> list[str]:
    """Names of those who from now on take a local step, or work on a plan, alone; as long as ``patch`` lasts."""
    found: list[str] = []
    step, public, work = local_steps.take_local_step, local_steps.take_public_step, planned_work._work

    def take_local_step(host: Any, name: str, *rest: Any) -> None:
        found.append(name)
        step(host, name, *rest)

    def take_public_step(host: Any, name: str, *rest: Any) -> None:
        found.append(name)
        public(host, name, *rest)

    def learn(host: Any, method: Any, name: str, *rest: Any) -> None:
        found.append(name)
        work(host, method, name, *rest)

    patch.setattr(federation, "take_local_step", take_local_step)
    patch.setattr(federation, "take_public_step", take_public_step)
    patch.setattr(planned_work, "_work", learn)
    return found


def lines(caplog: pytest.LogCaptureFixture) -> str:
    """What was said of fleets."""
    return "\n".join(record.message for record in caplog.records if record.message.startswith("Fleets:"))
