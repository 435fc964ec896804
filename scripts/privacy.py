"""What does participant-level privacy cost? Accuracy against epsilon on digits, with 10, 30 and 100 participants.

python scripts/privacy.py --seeds 5
python scripts/privacy.py --seeds 2 --first-seed 100 --choose   # how the settings below were chosen
python scripts/privacy.py --account 50                          # epsilon after 50 rounds, nothing trained

Digits of scikit-learn (1,797 images of 8 x 8) are dealt out evenly, but for a fifth that everyone is measured on. A
softmax regression, shared altogether, is averaged by PrivateAveraging after every round of 5 local epochs. The noise is
drawn with a seed (a rehearsal), so that the table can be made again. Epsilon is that of participants at DELTA. Beside
it: DP-SGD in 20 rounds of one local epoch, which protects the examples of each of four participants, at EXAMPLE_DELTA;
its noise has no seed, so its accuracies differ from run to run.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from statistics import mean, stdev
from time import perf_counter

import lightning as L
import torch
from torch import nn

from hetfed_lightning import DPSGD, BackboneAveraging, Federation, Participant, PrivateAveraging
from hetfed_lightning.data.partitions import IID
from hetfed_lightning.privacy import epsilon_of
from hetfed_lightning.showcases import DigitsDataModule

DELTA, EXAMPLE_DELTA = 1e-3, 1e-4
PARTICIPANTS = (10, 30, 100)
MULTIPLIERS = (0.5, 1.0, 2.0, 5.0, 10.0)
ROUNDS, MAX_UPDATE_NORM = 10, 1.0
"""Chosen on seeds 100 and 101, for 100 participants and a multiplier of 5: the fewest rounds above .85."""

CHOICES = [(rounds, norm) for rounds in (5, 10, 20, 50) for norm in (0.3, 1.0, 3.0)]


def participant(privacy: DPSGD | None = None) -> Participant:
    """A softmax regression that is shared altogether."""
    return Participant(
        nn.Sequential(nn.Flatten(), nn.Linear(64, 10)),
        shared=("*",),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.5 if privacy is None else 1.0),
        local_epochs=5 if privacy is None else 1,
        privacy=privacy,
    )


def accuracy(federation: Federation, averaging: L.Callback, rounds: int, seed: int) -> float:
    """On everybody's test images, of what all of them share in the end."""
    names = list(federation.members())
    data = DigitsDataModule(IID(), image_size=8, public_size=0, own_fractions=(1.0, 0.0, 0.0), batch_size=32, seed=seed)
    trainer = L.Trainer(
        max_epochs=rounds,
        accelerator="cpu",
        callbacks=[averaging],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(federation, datamodule=data)
    (found,) = [trainer.test(federation, datamodule=data, verbose=False)]
    scores = {key: value for row in found for key, value in row.items()}
    return float(scores[f"test_global_accuracy/{names[0]}"])


def averaged(participants: int, multiplier: float | None, seed: int, rounds: int, norm: float) -> float:
    """Accuracy of one run with participant-level privacy; without any if ``multiplier`` is None."""
    L.seed_everything(seed, verbose=False)
    federation = Federation({f"p{place:03d}": participant() for place in range(participants)}, seed=seed)
    if multiplier is None:
        return accuracy(federation, BackboneAveraging(weighting="uniform"), rounds, seed)
    averaging = PrivateAveraging(noise_multiplier=multiplier, max_update_norm=norm, delta=DELTA, noise_seed=seed)
    return accuracy(federation, averaging, rounds, seed)


def by_example(multiplier: float | None, seed: int, rounds: int = 20) -> tuple[float, float]:
    """Accuracy and epsilon (of the worst protected) of four participants that take DP-SGD steps."""
    L.seed_everything(seed, verbose=False)
    settings = None if multiplier is None else DPSGD(multiplier, 1.0, EXAMPLE_DELTA)
    federation = Federation({f"p{place}": participant(settings) for place in range(4)}, seed=seed)
    found = accuracy(federation, BackboneAveraging(), rounds, seed)
    return found, max(one.ledger.epsilon(EXAMPLE_DELTA) for one in federation.members().values())


def told(scores: list[float]) -> str:
    """Mean and standard deviation over seeds."""
    return f"{mean(scores):.3f} ± {stdev(scores):.3f}" if len(scores) > 1 else f"{scores[0]:.3f}"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--choose", action="store_true", help="try rounds and norms instead")
    parser.add_argument("--account", type=int, metavar="ROUNDS", help="print what so many rounds cost instead")
    options = parser.parse_args()
    if options.account:
        for noise in MULTIPLIERS:
            epsilon = epsilon_of(((1.0, noise, options.account),), DELTA)
            print(f"noise {noise:4g}, {options.account} rounds: epsilon {epsilon:.3g} at delta {DELTA:g}")
        return
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    began = perf_counter()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
    if options.choose:
        for rounds, norm in CHOICES:
            scores = [averaged(100, 5.0, seed, rounds, norm) for seed in seeds]
            epsilon = epsilon_of(((1.0, 5.0, rounds),), DELTA)
            print(f"{rounds:3d} rounds, norm {norm}: epsilon {epsilon:.1f}, accuracy {told(scores)}", flush=True)
        return
    print(f"| noise | epsilon | {' | '.join(f'{count} participants' for count in PARTICIPANTS)} |")
    print(f"| --- | --- | {' | '.join('---' for _ in PARTICIPANTS)} |")
    for multiplier in (None, *MULTIPLIERS):
        cells = [
            told([averaged(count, multiplier, seed, ROUNDS, MAX_UPDATE_NORM) for seed in seeds])
            for count in PARTICIPANTS
        ]
        cost = "none" if multiplier is None else f"{epsilon_of(((1.0, multiplier, ROUNDS),), DELTA):.2g}"
        print(f"| {multiplier or 0:g} | {cost} | {' | '.join(cells)} |", flush=True)
    print("\n| noise | epsilon of examples | 4 participants |\n| --- | --- | --- |")
    for multiplier in (None, 1.0, 2.0, 4.0):
        found = [by_example(multiplier, seed) for seed in seeds]
        cost = "none" if multiplier is None else f"{max(one for _, one in found):.2g}"
        print(f"| {multiplier or 0:g} | {cost} | {told([score for score, _ in found])} |", flush=True)
    print(f"\n{len(seeds)} seeds, {perf_counter() - began:.0f} s on one core.")


if __name__ == "__main__":
    main()
