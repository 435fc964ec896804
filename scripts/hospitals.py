"""Is the federation of configs/hospitals.yaml worth it for each hospital? Repeated splits, paired with what is simpler.

python scripts/hospitals.py --seeds 20 --output runs/hospitals

Every seed is one stratified 70/30 split of each hospital's patients, the same for all arms:
  federation    configs/hospitals.yaml
  local_only    the same networks and budget, nothing shared
  centralised   the same networks, each trained on everyone's training patients (with --centralised)
  logistic      scikit-learn's logistic regression on the hospital's own columns, classes balanced, C = 1
  logistic_l2   the same with C = 0.001, the best of .001, .003, .01, .03, .1 and 1 on seeds 100 to 179
  pooled        logistic regression on everyone's training patients, common columns, classes balanced
                within each hospital, C = 1
The last needs patients in one place, as `centralised` does; the others do not. Figures are of the test patients:
balanced accuracy, area under the ROC curve, and the expected calibration error (10 bins) of the probabilities as they
are and, since balanced classes answer to a prevalence of a half, after a shift of the log-odds to the prevalence of the
hospital's training patients. Intervals are Student's t over the repeats. These share patients, so that they are not
independent: the interval speaks of these patients under other splits; that in brackets, by Nadeau and Bengio's (2003)
correction, of new patients.
"""

from __future__ import annotations

import argparse
import csv
import logging
import math
import warnings
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import lightning as L
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.utils.data import Dataset
from torchmetrics.functional.classification import binary_calibration_error

from hetfed_lightning.cli.compare import CompareCLI, centralised_data
from hetfed_lightning.data import Examples, FederatedData
from hetfed_lightning.methods.averaging.backbone_averaging import BackboneAveraging
from hetfed_lightning.methods.distillation.ensemble_distillation import EnsembleDistillation
from hetfed_lightning.metrics import BalancedAccuracy, DefinedAUROC, mean_interval
from hetfed_lightning.showcases.hospitals.patients import HospitalInputs

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "configs" / "hospitals.yaml"
TEST_TO_TRAIN = 0.3 / 0.7
TOGETHER = (BackboneAveraging, EnsembleDistillation)
SOLO = ("local_only", "logistic", "logistic_l2")
METRICS = ("balanced_accuracy", "auroc", "calibration_error", "calibration_error_shifted")

Figures = dict[tuple[str, str, str], dict[int, float]]
"""By arm, hospital and metric: the figure of every seed."""


def figures(probabilities: Tensor, targets: Tensor, prevalence: float) -> dict[str, float]:
    """All metrics of one hospital's test patients."""
    shift = math.log(prevalence / (1 - prevalence))
    metrics = {"balanced_accuracy": BalancedAccuracy(), "auroc": DefinedAUROC()}
    for metric in metrics.values():
        metric.update(probabilities, targets)
    found = {name: float(metric.compute()) for name, metric in metrics.items()}
    shifted = (probabilities.double().logit(eps=1e-9) + shift).sigmoid().float()
    for name, values in (("calibration_error", probabilities), ("calibration_error_shifted", shifted)):
        found[name] = float(binary_calibration_error(values, targets, n_bins=10))
    return found


def rows(dataset: Dataset[Any]) -> tuple[Tensor, Tensor]:
    """Inputs and targets of a hospital's patients."""
    if not isinstance(dataset, Examples) or isinstance(dataset.inputs, dict) or dataset.targets is None:
        raise TypeError("The hospitals' patients lie in memory, as rows with targets.")
    return dataset.inputs, dataset.targets


def trained(cli: CompareCLI, arm: str, seed: int) -> tuple[FederatedData, dict[str, Tensor]]:
    """The data of a seed, and every participant's probabilities for its own test patients after training."""
    config = cli.config.clone()
    config.seed_everything = config.model.seed = config.data.init_args.seed = seed
    L.seed_everything(seed, verbose=False)
    made = cli.parser.instantiate(config)
    federation, data = made.model, made.data
    teaching: list[L.Callback] = [one for one in made.trainer.callbacks or [] if isinstance(one, TOGETHER)]
    data.replace_data(data.load(tuple(federation.participants)))
    own = data.data
    if arm == "centralised":
        data.replace_data(centralised_data(own))
    L.Trainer(
        max_epochs=config.trainer.max_epochs,
        accelerator="cpu",
        strategy="federated",
        callbacks=teaching if arm == "federation" else [],
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    ).fit(federation, datamodule=data)
    return own, {name: federation[name].predict(rows(test)[0]) for name, test in own.test.items()}


def own_inputs(cli: CompareCLI, name: str, data: FederatedData) -> tuple[Tensor, Tensor]:
    """Training and test patients as the hospital's own network reads them, every column at its own deviation."""
    settings = dict(cli.config.model.participants[name].init_args.transform.init_args)
    transform = HospitalInputs(**settings | {"common_scale": 1.0, "private_scale": 1.0})
    train, test = rows(data.train[name])[0], rows(data.test[name])[0]
    transform.fit(train)
    return transform(train)["private"], transform(test)["private"]


def logistic(train: Tensor, targets: Tensor, weights: Tensor, test: Tensor, strength: float) -> Tensor:
    """Probabilities of a logistic regression on standardised inputs, every training patient with a weight."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=2000))
    model.fit(train.numpy(), targets.numpy(), logisticregression__sample_weight=weights.numpy())
    return torch.tensor(model.predict_proba(test.numpy())[:, 1]).float()


def balanced(targets: Tensor) -> Tensor:
    """Weights of the patients with which both classes count the same, as ``class_weight="balanced"``."""
    return (len(targets) / 2 / torch.bincount(targets, minlength=2))[targets]


def simple(cli: CompareCLI, data: FederatedData) -> dict[str, dict[str, Tensor]]:
    """Probabilities of the logistic regressions, by arm and hospital."""
    found: dict[str, dict[str, Tensor]] = {"logistic": {}, "logistic_l2": {}, "pooled": {}}
    common = {}
    for name in data.train:
        (patients, targets), (others, _) = rows(data.train[name]), rows(data.test[name])
        train, test = own_inputs(cli, name, data)
        for arm, strength in (("logistic", 1.0), ("logistic_l2", 0.001)):
            found[arm][name] = logistic(train, targets, balanced(targets), test, strength)
        transform = HospitalInputs()
        transform.fit(patients)
        common[name] = (transform(patients)["common"], targets, transform(others)["common"])
    everyone, targets, weights = (
        torch.cat(parts) for parts in zip(*((one, y, balanced(y)) for one, y, _ in common.values()), strict=True)
    )
    for name, (_, _, test) in common.items():
        found["pooled"][name] = logistic(everyone, targets, weights, test, 1.0)
    return found


def measured(cli: CompareCLI, seeds: Iterable[int], trainings: Iterable[str]) -> Figures:
    """Train and measure every arm on every seed."""
    found: Figures = defaultdict(dict)
    for seed in seeds:
        answers: dict[str, dict[str, Tensor]] = {}
        for arm in trainings:
            data, answers[arm] = trained(cli, arm, seed)
        answers |= simple(cli, data)
        for arm, by_name in answers.items():
            for name, probabilities in by_name.items():
                prevalence = float(rows(data.train[name])[1].float().mean())
                for metric, value in figures(probabilities, rows(data.test[name])[1], prevalence).items():
                    found[arm, name, metric][seed] = value
            for metric in METRICS:
                found[arm, "mean", metric][seed] = mean(found[arm, name, metric][seed] for name in by_name)
    return found


def half_width(gains: list[float], test_to_train: float = 0.0) -> float:
    """Half the width of the 95 % interval of the mean gain."""
    found = mean_interval(gains, test_to_train=test_to_train)
    return (found.high - found.low) / 2


def gain(found: Figures, name: str, metric: str, arm: str) -> str:
    """The paired gain over an arm, its intervals, and the share of splits in which it was a loss."""
    own, other = found["federation", name, metric], found[arm, name, metric]
    gains = [own[seed] - other[seed] for seed in own]
    widths = f"{half_width(gains):.3f} [{half_width(gains, TEST_TO_TRAIN):.3f}]"
    return f"{mean(gains):+.3f} +- {widths} ({mean(one < -1e-6 for one in gains):.0%})"


def tables(found: Figures) -> str:
    """What is printed: each metric by hospital and arm, and the federation's paired gains."""
    arms = list(dict.fromkeys(arm for arm, _, _ in found))
    names = list(dict.fromkeys(name for _, name, _ in found))
    seeds = list(found[arms[0], names[0], METRICS[0]])
    lines = [f"{len(seeds)} splits, seeds {seeds[0]} to {seeds[-1]}; mean +- standard deviation over the splits"]
    for metric in METRICS:
        lines += ["", metric.replace("_", " "), " " * 16 + "".join(f"{arm:>16}" for arm in arms)]
        for name in names:
            cells = [list(found[arm, name, metric].values()) for arm in arms]
            shown = [f"{mean(cell):.3f} +- {stdev(cell) if len(cell) > 1 else 0:.3f}" for cell in cells]
            lines.append(f"{name:<16}" + "".join(f"{cell:>16}" for cell in shown))
    for metric in ("balanced_accuracy", "auroc"):
        what = "mean, 95 % interval over these splits [for new patients], share of splits harmed"
        lines += ["", f"paired gain of the federation in {metric.replace('_', ' ')}: {what}"]
        lines.append(" " * 16 + "".join(f"{'over ' + arm:>30}" for arm in arms[1:]))
        lines += [
            f"{name:<16}" + "".join(f"{gain(found, name, metric, arm):>30}" for arm in arms[1:]) for name in names
        ]
    lines.append("")
    lines.append("federation less the hospital's best solo model (by mean balanced accuracy)")
    for name in names[:-1]:
        best = max(SOLO, key=lambda arm: mean(found[arm, name, "balanced_accuracy"].values()))
        gap = mean(found["federation", name, "balanced_accuracy"].values()) - mean(
            found[best, name, "balanced_accuracy"].values()
        )
        lines.append(f"{name:<16}{gap:+.3f}  ({best})")
    return "\n".join(lines)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20, help="number of splits")
    parser.add_argument("--first", type=int, default=0, help="seed of the first split")
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--centralised", action="store_true", help="train on everyone's patients as well")
    parser.add_argument("--output", type=Path, default=Path("runs/hospitals"))
    options, overrides = parser.parse_known_args()
    for noisy in ("lightning", "lightning.pytorch", "hetfed_lightning", "hetfed_lightning.callbacks"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    trainings = ["federation", "local_only", *(["centralised"] if options.centralised else [])]
    cli = CompareCLI(["-c", str(options.config), *overrides], run=False)
    found = measured(cli, range(options.first, options.first + options.seeds), trainings)
    options.output.mkdir(parents=True, exist_ok=True)
    with (options.output / "figures.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["seed", "arm", "participant", "metric", "value"])
        for (arm, name, metric), values in found.items():
            writer.writerows([seed, arm, name, metric, f"{value:.6f}"] for seed, value in values.items())
    text = tables(found)
    (options.output / "table.txt").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
