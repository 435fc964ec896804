"""What does a newcomer gain by joining? Each participant of a showcase held out in turn, warm beside cold.

python scripts/newcomers.py --config configs/hospitals.yaml --seeds 10 --output runs/newcomers
python scripts/newcomers.py --config configs/cities.yaml --seeds 3 --output runs/newcomers

For every seed and participant the federation of the others is trained as the configuration says. Then the newcomer
trains alone, as the configuration says, on a share of its training data: cold from its first weights, and warm from
what the others have learned (hetfed_lightning.Inheritance, with the Transfer below). After every round, and before the
first, it is measured on its test set by the task's headline metric, or by --metric.

Rounds: the first in which the warm curve, a mean over seeds, reaches what the cold one ends with on the same data.
Samples: the least share of the data with which the warm one ends where the cold one ends with all of it.
Shares are drawn by class, at least one example of each; of hours, the last ones. Scales that a data module measures on
all of the newcomer's training hours are the same for both. Weights of a newcomer's first round are the same too.
"""

from __future__ import annotations

import argparse
import csv
import logging
import math
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import lightning as L
import torch
from torch import Tensor

from hetfed_lightning import (
    EnsembleDistillation,
    FederatedCallback,
    Federation,
    FederationView,
    Inheritance,
    Participant,
    Transfer,
)
from hetfed_lightning.cli.compare import CompareCLI
from hetfed_lightning.data import Examples, FederatedDataModule
from hetfed_lightning.federated_callback import Phase
from hetfed_lightning.metrics import mean_interval

TRANSFERS = {
    "hospitals": Transfer(frozen_rounds=100),
    "cities": Transfer(distillation_epochs=10, temperature=1.0),
}
"""By configuration: what newcomers do with what they receive, chosen on seeds from 100 on."""

Curves = dict[tuple[str, str, float], dict[int, list[float]]]
"""By newcomer, arm and share of its data: the metric before and after each round, of every seed."""


class Curve(FederatedCallback):
    """Measures one participant on its test set, before its first round and after each."""

    phase = Phase.MONITORING

    def __init__(self, name: str, test: Examples, metric: str | None) -> None:
        self.name = name
        self.test = test
        self.metric = metric
        self.values: list[float] = []

    def on_round_start(self, trainer: L.Trainer, federation: FederationView, round_index: int) -> None:
        """Measure what has been received."""
        del trainer
        if round_index == 0:
            self.values.append(figure(federation[self.name], self.test, self.metric))

    def on_round_end(self, trainer: L.Trainer, federation: FederationView, round_index: int) -> None:
        """Measure what has been learned."""
        del trainer, round_index
        self.values.append(figure(federation[self.name], self.test, self.metric))


def figure(participant: Participant, test: Examples, name: str | None) -> float:
    """A metric, the headline one if None, on a test set."""
    predictions = participant.predict(test.inputs)
    width = 1 if predictions.ndim == 1 else predictions.shape[1]
    metric = participant.task.metrics(width)[name or participant.task.headline]
    metric.update(predictions, participant.task.metric_target(targets_of(test)))
    return float(metric.compute())


def targets_of(examples: Any) -> Tensor:
    """Targets of a set in memory."""
    if not isinstance(examples, Examples) or examples.targets is None:
        raise TypeError("expected a data set in memory, with targets")
    return examples.targets


def part_of(examples: Examples, share: float, seed: int) -> Examples:
    """A share of a training set: by class, or of a series the last part."""
    if share == 1:
        return examples
    targets = targets_of(examples)
    if targets.is_floating_point():
        count = max(8, round(share * len(examples)))
        return examples.subset(torch.arange(len(examples) - count, len(examples)))
    generator = torch.Generator().manual_seed(seed)
    chosen = []
    for label in targets.unique():
        places = (targets == label).nonzero().flatten()
        order = torch.randperm(len(places), generator=generator)
        chosen.append(places[order[: max(1, round(share * len(places)))]])
    return examples.subset(torch.cat(chosen).sort().values)


def made(cli: CompareCLI, seed: int) -> tuple[Federation, FederatedDataModule, list[FederatedCallback]]:
    """Federation, data and callbacks of a configuration under a seed."""
    config = cli.config.clone()
    config.seed_everything = config.model.seed = config.data.init_args.seed = seed
    L.seed_everything(seed, verbose=False)
    found = cli.parser.instantiate(config)
    together = (Phase.DISTILLATION, Phase.AVERAGING)
    callbacks = [
        one for one in found.trainer.callbacks or [] if isinstance(one, FederatedCallback) and one.phase in together
    ]
    found.data.replace_data(found.data.load(tuple(found.model.participants)))
    return found.model, found.data, callbacks


def keep(federation: Federation, data: FederatedDataModule, names: Sequence[str]) -> None:
    """Leave a federation and its data with these participants alone."""
    for name in [name for name in federation.participants if name not in names]:
        federation.drop(name)
    whole = data.data
    train, val, test = (
        {name: one for name, one in sets.items() if name in names} for sets in (whole.train, whole.val, whole.test)
    )
    data.replace_data(replace(whole, train=train, val=val, test=test))


def fit(federation: Federation, data: FederatedDataModule, rounds: int, callbacks: Sequence[L.Callback]) -> None:
    """Train without logger and validation."""
    L.Trainer(
        max_epochs=rounds,
        accelerator="cpu",
        strategy="federated",
        callbacks=list(callbacks),
        logger=False,
        limit_val_batches=0,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    ).fit(federation, datamodule=data)


def learn(
    cli: CompareCLI,
    name: str,
    seed: int,
    share: float,
    source: Federation | None,
    transfer: Transfer,
    metric: str | None,
) -> list[float]:
    """The learning curve of a newcomer: warm from a source, cold without one."""
    federation, data, callbacks = made(cli, seed)
    keep(federation, data, [name])
    whole = data.data
    train, test = whole.train[name], whole.test[name]
    if not isinstance(train, Examples) or not isinstance(test, Examples):
        raise TypeError(f"{name}: expected data in memory")
    data.replace_data(replace(whole, train={name: part_of(train, share, seed)}))
    federation[name].transfer = None if source is None else transfer
    curve = Curve(name, test, metric)
    distillation = next((one for one in callbacks if isinstance(one, EnsembleDistillation)), None)
    begin = [] if source is None else [Inheritance(source, distillation)]
    fit(federation, data, cli.config.trainer.max_epochs, [*begin, curve])
    return curve.values


def measure(
    cli: CompareCLI,
    names: Sequence[str],
    seeds: Sequence[int],
    shares: Sequence[float],
    transfer: Transfer,
    metric: str | None = None,
) -> Curves:
    """Every curve."""
    curves: Curves = defaultdict(dict)
    for seed in seeds:
        for name in names:
            others, data, callbacks = made(cli, seed)
            keep(others, data, [other for other in others.participants if other != name])
            fit(others, data, cli.config.trainer.max_epochs, shareable(callbacks, others))
            for share in shares:
                curves[name, "warm", share][seed] = learn(cli, name, seed, share, others, transfer, metric)
                curves[name, "cold", share][seed] = learn(cli, name, seed, share, None, transfer, metric)
            warm, cold = (curves[name, arm, shares[0]][seed][-1] for arm in ("warm", "cold"))
            print(f"seed {seed}  {name:14}  {shares[0]:.0%} of the data: warm {warm:.3f}, cold {cold:.3f}", flush=True)
    return curves


def shareable(callbacks: Sequence[FederatedCallback], federation: Federation) -> list[FederatedCallback]:
    """The callbacks without averaging where no two of those who are left share anything in one shape."""
    members = list(federation.members().values())
    shapes = [{(key, one.view_of()[key].shape) for key in one.shared_keys()} for one in members]
    common = any(first & second for place, first in enumerate(shapes) for second in shapes[place + 1 :])
    return [one for one in callbacks if common or one.phase != Phase.AVERAGING]


def mean_curve(curves: Mapping[int, Sequence[float]]) -> list[float]:
    """Mean over seeds at each round; a figure that is not defined is left out."""
    return [mean([one for one in values if not math.isnan(one)]) for values in zip(*curves.values(), strict=True)]


def reached(curve: Sequence[float], wanted: float) -> int | None:
    """The first round in which a curve is there, 0 before any; None if it never is."""
    return next((place for place, value in enumerate(curve) if value >= wanted), None)


def table(curves: Curves, names: Sequence[str], shares: Sequence[float]) -> list[str]:
    """What is printed: a line per newcomer and share."""
    lines = [f"{'newcomer':14} data   cold at the end   warm at the end   warm - cold, 95 %      rounds to cold's end"]
    for name in names:
        full = mean_curve(curves[name, "cold", 1.0])[-1] if (name, "cold", 1.0) in curves else math.nan
        enough = None
        for share in shares:
            warm, cold = curves[name, "warm", share], curves[name, "cold", share]
            ends = {arm: [values[-1] for values in one.values()] for arm, one in (("warm", warm), ("cold", cold))}
            gains = [warm[seed][-1] - cold[seed][-1] for seed in warm]
            interval = mean_interval(gains)
            wanted = mean_curve(cold)[-1]
            first = reached(mean_curve(warm), wanted)
            rounds = len(mean_curve(cold)) - 1
            said = "never" if first is None else f"{first} of {rounds} (cold {reached(mean_curve(cold), wanted)})"
            if enough is None and mean_curve(warm)[-1] >= full:
                enough = share
            lines.append(
                f"{name:14} {share:4.0%}   {spread(ends['cold'])}   {spread(ends['warm'])}   "
                f"{mean(gains):+.3f} ({interval.low:+.3f} to {interval.high:+.3f})   {said}"
            )
        lines.append(
            f"{'':14} warm ends where cold ends with all data on {'no share' if enough is None else f'{enough:.0%}'}"
        )
    return lines


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation."""
    return f"{mean(values):.3f} ± {stdev(values) if len(values) > 1 else 0.0:.3f}"


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/hospitals.yaml")
    parser.add_argument("--seeds", type=int, default=10, help="Seeds 0, 1, ...")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.1, 1.0], help="Of the newcomer's training data.")
    parser.add_argument("--newcomers", nargs="+", default=None, help="Who is held out; everyone in turn by default.")
    parser.add_argument("--metric", default=None, help="Such as auroc; the task's headline metric by default.")
    parser.add_argument("--frozen-rounds", type=int, default=None)
    parser.add_argument("--learning-rate-ratio", type=float, default=None)
    parser.add_argument("--distillation-epochs", type=int, default=None)
    parser.add_argument("--output", type=Path, default=Path("runs/newcomers"))
    options = parser.parse_args()
    for noisy in ("lightning.pytorch", "hetfed_lightning"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    cli = CompareCLI(["-c", options.config], run=False)
    torch.set_num_threads(1)
    stem = Path(options.config).stem
    changed = {
        key: value
        for key in ("frozen_rounds", "learning_rate_ratio", "distillation_epochs")
        if (value := getattr(options, key)) is not None
    }
    transfer = replace(TRANSFERS.get(stem, Transfer()), **changed)
    names = options.newcomers or list(cli.config.model.participants)
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    curves = measure(cli, names, seeds, options.shares, transfer, options.metric)
    print(f"\n{options.config}, {transfer}\n")
    print("\n".join(table(curves, names, options.shares)))
    options.output.mkdir(parents=True, exist_ok=True)
    file = options.output / f"{stem}.csv"
    with file.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened)
        writer.writerow(["newcomer", "arm", "share", "seed", "round", "value"])
        for (name, arm, share), one in curves.items():
            for seed, values in one.items():
                writer.writerows([name, arm, share, seed, place, value] for place, value in enumerate(values))
    print(f"\nCurves: {file}")


if __name__ == "__main__":
    main()
