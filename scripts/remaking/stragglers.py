"""FedProx's Synthetic(1, 1) with 90 % stragglers: dropped, kept, kept with a proximal term (Li et al. 2020, fig. 1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import mean
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from hetfed_lightning import BackboneAveraging, FederatedCallback, FederatedDataModule, FederationView
from hetfed_lightning.data import Examples
from hetfed_lightning.methods.plans import Moment, Part
from hetfed_lightning.participants.participant import Participant
from scripts.remaking.figures import Figure
from scripts.remaking.fitting import fit
from scripts.remaking.synthetic import drawn, softmax_regressions

RATE, EPOCHS, BATCH, STRAGGLERS, SAMPLED = 0.01, 20, 10, 0.9, 1 / 3
DATA_SEED = 27


class Stragglers(BackboneAveraging):
    """Averaging in rounds of which most participants finish a part of their epochs.

    Args:
        cohort: Names of those who train in a round.
        keeps: True to average what stragglers have done; False to leave them out.
        proximal: Weight mu of the proximal term.
        seed: Of who straggles, and how far they come.
    """

    def __init__(self, cohort: Callable[[int], Sequence[str]], *, keeps: bool, proximal: float, seed: int) -> None:
        super().__init__(max_share=1.0, proximal=proximal)
        self.cohort, self.keeps, self.seed = cohort, keeps, seed

    def epochs(self, round_index: int) -> dict[str, int]:
        """Epochs of each sampled participant: all 20, or 1 to 19 of stragglers."""
        names = list(self.cohort(round_index))
        draw = np.random.default_rng((self.seed, round_index))
        late = draw.permutation(len(names))[: round(STRAGGLERS * len(names))]
        found = dict.fromkeys(names, EPOCHS)
        return found | {names[place]: int(draw.integers(1, EPOCHS)) for place in late}

    def plan(self, participant: Participant, moment: Moment, round_index: int) -> Sequence[Part]:
        """Epochs of the participant; none if its work would be left out.

        Args:
            participant: Participant, for its name.
            moment: ``"local"`` alone.
            round_index: Index of the round, from 0.
        """
        if moment != "local":
            return ()
        count = self.epochs(round_index).get(participant.name or "", EPOCHS)
        return [Part(epochs=count if self.keeps or count == EPOCHS else 0)]

    def senders(self, *args: Any) -> Sequence[str]:
        """Names of those whose work is averaged."""
        epochs = self.epochs(args[1])
        asked: Sequence[str] = super().senders(*args)
        return [name for name in asked if self.keeps or epochs.get(name, EPOCHS) == EPOCHS]


class Losses(FederatedCallback):
    """Mean loss of the common model over all training examples, after each round."""

    def __init__(self, sets: dict[str, Examples]) -> None:
        self.inputs = torch.cat([torch.as_tensor(one.inputs) for one in sets.values()])
        self.targets = torch.cat([torch.as_tensor(one.targets) for one in sets.values()])
        self.rounds: list[float] = []

    @torch.no_grad()
    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Measure the model of the first participant that trained."""
        federation: FederationView = pl_module
        newest = federation[federation.active_names(trainer.current_epoch)[0]]
        self.rounds.append(float(functional.cross_entropy(newest(self.inputs), self.targets)))


def losses(rounds: int, seed: int, *, keeps: bool, proximal: float) -> list[float]:
    """Training loss after each round.

    Args:
        rounds: Number of rounds.
        seed: Of samples, batches and stragglers.
        keeps: True to average what stragglers have done.
        proximal: Weight mu of the proximal term.
    """
    training, _ = drawn(1, 1, 30, DATA_SEED)
    federation = softmax_regressions(list(training), RATE, seed, participation=SAMPLED)
    watch = Losses(training)
    method = Stragglers(federation.active_names, keeps=keeps, proximal=proximal, seed=seed)
    fit(federation, FederatedDataModule(training, batch_size=BATCH), rounds, method, watch, double=False)
    return watch.rounds


def made_again(seed: int, rounds: int | None = None) -> list[Figure]:
    """Losses over the last tenth of the rounds, and how much they swing.

    Args:
        seed: Of samples, batches and stragglers; the data are those of seed 27.
        rounds: Number of rounds; None for the paper's 200.
    """
    count = rounds or 200
    tail = max(1, count // 10)
    arms = {(False, 0.0): "dropped", (True, 0.0): "kept, mu 0", (True, 1.0): "kept, mu 1"}
    found = {said: losses(count, seed, keeps=keeps, proximal=mu) for (keeps, mu), said in arms.items()}
    last = {said: mean(one[-tail:]) for said, one in found.items()}
    swings = {said: float(np.abs(np.diff(one[len(one) // 2 :])).mean()) for said, one in found.items()}
    what, paper = f"training loss, {count} rounds", "FedProx, Synthetic(1, 1)"
    return [
        Figure(paper, f"{what}, stragglers dropped", last["dropped"], 1.0, 1.6, "1.28"),
        Figure(paper, f"{what}, kept, mu 0", last["kept, mu 0"], 0.55, 0.85, ".70"),
        Figure(paper, f"{what}, kept, mu 1", last["kept, mu 1"], 0.45, 0.7, ".59"),
        Figure(paper, "swing, dropped over mu 1", swings["dropped"] / swings["kept, mu 1"], 5, float("inf"), "above 5"),
    ]
