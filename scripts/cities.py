"""R2 and mean absolute error of configs/cities.yaml and configs/car_parks.yaml, beside what each could do alone.

Every participant's own test hours, in its own unit: persistence (the hour before), ridge regression on the ten
features (its strength chosen on validation hours), its network trained alone for the same number of steps, and in the
federation. Nothing is drawn at random but weights, batches and public hours, so the two plain models hardly have a
spread over seeds, and no spread here says how another winter would differ from this one.

    python scripts/cities.py --seeds 10 11 12 13 14
    python scripts/cities.py --config configs/car_parks.yaml --seeds 10 11 12 13 14 --csv runs/car_parks.csv
    python scripts/cities.py --part val --seeds 0 1 2 -- --trainer.max_epochs 20      # settings are chosen like this
"""

from __future__ import annotations

import argparse
import csv
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, cast

import lightning as L
import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student_t
from sklearn.linear_model import Ridge
from sklearn.metrics import mean_absolute_error, r2_score

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from hetfed_lightning.cli.compare import TOGETHER, CompareCLI
from hetfed_lightning.cli.tables import Table
from hetfed_lightning.data.examples import Examples
from hetfed_lightning.federated_callback import FederatedCallback
from hetfed_lightning.showcases.cities.data_module import FlowDataModule

ROOT = Path(__file__).resolve().parent.parent
ARMS = ("persistence", "ridge", "local_only", "federation")
STRENGTHS = (0.1, 1.0, 10.0, 100.0)
LONG = 100
"""Training hours from which a participant also counts in a mean without the shortest."""
LAG_1 = -3
"""Column of the flow of the hour before."""


@dataclass(frozen=True)
class Score:
    """What one participant reached in one run.

    Attributes:
        arm: One of ARMS.
        seed: Of weights, batches and public hours.
        participant: Its name.
        hours: Number of training hours.
        r2: Coefficient of determination.
        mae: Mean absolute error in the participant's own unit.
    """

    arm: str
    seed: int
    participant: str
    hours: int
    r2: float
    mae: float


def plain_scores(data: FlowDataModule, part: str, seed: int) -> list[Score]:
    """Persistence and ridge regression on each participant's own hours."""
    found = []
    sets = {"train": data.data.train, "val": data.data.val, "test": data.data.test}
    by_name = cast("dict[str, dict[str, Examples]]", sets)
    for name, train in by_name["train"].items():
        scale = data.scales[name]
        measured, validation = by_name[part][name], by_name["val"][name]
        inputs, target = features(train), targets(train)
        persistence = features(measured)[:, LAG_1] * scale.std + scale.mean

        def fitted(strength: float, inputs: Any = inputs, target: Any = target) -> Ridge:
            return Ridge(alpha=strength).fit(inputs, target)

        errors = [
            np.square(fitted(one).predict(features(validation)) - targets(validation)).mean() for one in STRENGTHS
        ]
        ridge = fitted(STRENGTHS[int(np.argmin(errors))]).predict(features(measured))
        for arm, predicted in (("persistence", persistence), ("ridge", ridge)):
            found.append(score(arm, seed, name, train, measured, predicted))
    return found


def network_scores(arm: str, seed: int, part: str, config: Path, options: Sequence[str]) -> tuple[list[Score], Any]:
    """Train once; the scores and the data it was trained on."""
    cli = CompareCLI(["-c", str(config), *options], run=False)
    settings = cli.config.clone()
    settings.seed_everything = settings.model.seed = settings.data.init_args.seed = seed
    L.seed_everything(seed, verbose=False)
    made = cli.parser.instantiate(settings)
    arguments = made.trainer.as_dict()
    callbacks = [one for one in arguments.pop("callbacks") or [] if isinstance(one, FederatedCallback)]
    if arm == "local_only":
        callbacks = [one for one in callbacks if one.phase not in TOGETHER]
    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_checkpointing": False,
        "enable_model_summary": False,
    }
    trainer = L.Trainer(**arguments | quiet | {"callbacks": callbacks, "limit_val_batches": 0})
    federation, data = made.model, made.data
    trainer.fit(federation, datamodule=data)
    found = []
    for name, participant in federation.members().items():
        measured = getattr(data.data, part)[name]
        predicted = participant.predict(measured.inputs).double().numpy()
        found.append(score(arm, seed, name, data.data.train[name], measured, predicted))
    return found, data


def score(
    arm: str, seed: int, name: str, train: Examples, measured: Examples, predicted: NDArray[np.floating[Any]]
) -> Score:
    """R2 and mean absolute error of some predictions."""
    wanted = targets(measured)
    r2, mae = float(r2_score(wanted, predicted)), float(mean_absolute_error(wanted, predicted))
    return Score(arm, seed, name, len(train), r2, mae)


def features(examples: Examples) -> NDArray[np.float64]:
    """The ten features, shape (N, 10)."""
    inputs = examples.inputs
    found: NDArray[np.float64] = (inputs["features"] if isinstance(inputs, dict) else inputs).double().numpy()
    return found


def targets(examples: Examples) -> NDArray[np.float64]:
    """The flow, shape (N,)."""
    if examples.targets is None:
        raise ValueError("expected examples with targets")
    found: NDArray[np.float64] = examples.targets.double().numpy()
    return found


# ------------------------------------------------------------------------------------------------ the tables


def worst_decile(values: Sequence[float]) -> float:
    """Mean of the lowest tenth, of one value at least."""
    return float(np.mean(sorted(values)[: max(1, round(len(values) / 10))]))


SUMMARIES: Mapping[str, Callable[[Sequence[float]], float]] = {
    "mean": lambda values: float(np.mean(values)),
    "median": lambda values: float(np.median(values)),
    "worst decile": worst_decile,
}


def by_seed(scores: Sequence[Score], arm: str, names: Sequence[str], metric: str, how: str) -> NDArray[np.float64]:
    """One figure per seed, in the order of the seeds; of the plain models the same for all."""
    found: dict[int, list[float]] = {}
    for one in scores:
        if one.arm == arm and one.participant in names:
            found.setdefault(one.seed, []).append(getattr(one, metric))
    return np.array([SUMMARIES[how](found[seed]) for seed in sorted(found)])


def spread(values: NDArray[np.float64], digits: int) -> str:
    """Mean and, over several seeds, sample standard deviation."""
    text = f"{values.mean():.{digits}f}"
    return text if len(values) == 1 or not np.ptp(values) else f"{text} ± {values.std(ddof=1):.{digits}f}"


def gain(scores: Sequence[Score], names: Sequence[str], how: str, other: str) -> str:
    """Federation minus another, R2 of the same seeds, with its 95 % interval (paired t)."""
    one = by_seed(scores, "federation", names, "r2", how)
    pairs = one - by_seed(scores, other, names, "r2", how)
    if len(pairs) == 1:
        return f"{pairs[0]:+.3f}"
    half = float(student_t.ppf(0.975, len(pairs) - 1)) * pairs.std(ddof=1) / len(pairs) ** 0.5
    return f"{pairs.mean():+.3f} ({pairs.mean() - half:+.3f} to {pairs.mean() + half:+.3f})"


def table(scores: Sequence[Score]) -> str:
    """A row per participant and summary: R2 of everyone, the gains, MAE where the participants are few."""
    names = list(dict.fromkeys(one.participant for one in scores))
    few = len(names) <= 5
    rows: list[tuple[str, list[str], str]] = [(name, [name], "mean") for name in names]
    rows += [("mean", names, "mean")] if few else [(how, names, how) for how in SUMMARIES]
    long = [name for name in names if next(one.hours for one in scores if one.participant == name) >= LONG]
    rows += [(f"mean of the {len(long)} with {LONG} hours", long, "mean")] if 0 < len(long) < len(names) else []
    header = ["participant", "hours", *(f"R2: {arm}" for arm in ARMS), "gain over local only", "gain over ridge"]
    header += [f"MAE: {arm}" for arm in ARMS] if few else []
    lines = []
    for title, of, how in rows:
        hours = next(one.hours for one in scores if one.participant == of[0])
        line = [title, str(hours) if len(of) == 1 else ""]
        line += [spread(by_seed(scores, arm, of, "r2", how), 3) for arm in ARMS]
        line += [gain(scores, of, how, other) for other in ("local_only", "ridge")]
        if few:
            maes = [by_seed(scores, arm, of, "mae", how) for arm in ARMS]
            line += [spread(one, 1) if len(of) == 1 else "" for one in maes]
        lines.append(line)
    return Table(header, lines).markdown()


def write(scores: Sequence[Score], path: Path) -> None:
    """Write every score to a CSV file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Score)])
        writer.writeheader()
        writer.writerows(asdict(one) for one in scores)


def main() -> None:
    """Train everything, print the table, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "cities.yaml")
    parser.add_argument("--seeds", nargs="+", type=int, default=[10, 11, 12, 13, 14])
    parser.add_argument("--part", choices=("val", "test"), default="test", help="Hours that are measured on.")
    parser.add_argument("--csv", type=Path, help="Write every figure there.")
    parser.add_argument("options", nargs="*", help="After --, options of hetfed, such as --trainer.max_epochs 5.")
    options = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    scores: list[Score] = []
    for seed in options.seeds:
        for arm in ("local_only", "federation"):
            found, data = network_scores(arm, seed, options.part, options.config, options.options)
            scores += found
        scores += plain_scores(data, options.part, seed)
        if options.csv:
            write(scores, options.csv)
    print(table(scores))


if __name__ == "__main__":
    main()
