"""Who trained or learned one after another, and what the log said of fleets."""

from typing import Any

import pytest

from hetfed_lightning.federation import federation
from hetfed_lightning.local_training import local_step as local_steps
from hetfed_lightning.methods.distillation.distillation_phase import LearningPhase


def alone(patch: pytest.MonkeyPatch) -> list[str]:
    """Names of those who from now on take a local step, or distil, by themselves; as long as ``patch`` lasts."""
    found: list[str] = []
    step, phase = local_steps.take_local_step, LearningPhase.alone

    def take_local_step(host: Any, name: str, *rest: Any) -> None:
        found.append(name)
        step(host, name, *rest)

    def learn(self: LearningPhase, participant: Any, *rest: Any) -> None:
        found.append(participant.name)
        phase(self, participant, *rest)

    patch.setattr(federation, "take_local_step", take_local_step)
    patch.setattr(LearningPhase, "alone", learn)
    return found


def lines(caplog: pytest.LogCaptureFixture) -> str:
    """What was said of fleets."""
    return "\n".join(record.message for record in caplog.records if record.message.startswith("Fleets:"))
