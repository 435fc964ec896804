"""Small federations drawn at random, for laws that hold of any: equal seeds draw equal ones, in any process."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import torch

from hetfed_lightning import BackboneAveraging, EnsembleDistillation, FederatedCallback, Participant, Transfer
from tests.federations import sgd

ROUNDS = 3


@dataclass(frozen=True)
class Drawn:
    """What was drawn.

    Attributes:
        own: Settings of each participant, by name, as attributes; the first one is there from the first round to the
            last.
        steps: Rounds in which a participant takes steps; all where it is not named.
        participation: Of the federation.
        callbacks: Makes what they do together.
    """

    own: dict[str, dict[str, Any]]
    steps: dict[str, frozenset[int]]
    participation: float
    callbacks: Callable[[], list[FederatedCallback]]

    def change(self, name: str, participant: Participant) -> None:
        """Make a participant what was drawn of it."""
        for key, value in self.own[name].items():
            setattr(participant, key, value)
        if name in self.steps:
            steps = self.steps[name]

            def step(batch: Any, batch_idx: int) -> Any:
                here = participant.current_epoch in steps
                return Participant.training_step(participant, batch, batch_idx) if here else None

            participant.training_step = step  # type: ignore[method-assign]


def decaying(optimizer: Any) -> Any:
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.9**step)


def drawn(seed: int, names: str = "abc") -> Drawn:
    """A federation of ``names``."""
    random = Random(seed)  # noqa: S311
    own: dict[str, dict[str, Any]] = {}
    for name in names:
        own[name] = {
            "local_epochs": random.choice([1, 1, 2]),
            "step_budget": random.choice([None, None, 2, 4]),
            "accumulate_grad_batches": random.choice([1, 1, 2, 5]),
            "optimizer_factory": sgd(0.1, momentum=random.choice([0.0, 0.9])),
            "gradient_clip_val": random.choice([None, 0.5]),
        }
        if random.random() < 0.4:
            own[name] |= {"lr_scheduler_factory": decaying, "lr_scheduler_interval": "step"}
        if name != names[0] and random.random() < 0.4:
            own[name]["joins_at"] = random.choice([1, 2])
            own[name]["transfer"] = random.choice([None, Transfer(distillation_epochs=1)])
        elif name != names[0] and random.random() < 0.3:
            own[name]["leaves_at"] = random.choice([1, 2])
    steps = {
        name: frozenset(random.sample(range(ROUNDS), random.randrange(ROUNDS)))
        for name in names
        if random.random() < 0.3
    }
    together = random.choice(["averaging", "phase", "mixed", "all"])
    every, proximal = random.choice([1, 1, 2]), random.choice([0.0, 0.1])
    reset: Any = random.choice(["keep", "reset"])
    epochs = random.choice([1, 2])

    def callbacks() -> list[FederatedCallback]:
        averaging = BackboneAveraging(every_n_rounds=every, proximal=proximal, optimizer_state=reset)
        if together == "averaging":
            return [averaging]
        mode: Any = "mixed" if together == "mixed" else "phase"
        distilling = EnsembleDistillation(mode=mode, epochs=epochs, batch_size=4)
        return [distilling] if together == "phase" else [distilling, averaging]

    return Drawn(own, steps, random.choice([1.0, 1.0, 0.5]), callbacks)
