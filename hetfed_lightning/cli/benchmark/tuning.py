"""Settings of a benchmark's rows, chosen by equally many trials of each on seeds of their own (Optuna)."""

from __future__ import annotations

import csv
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hetfed_lightning.cli.benchmark.results import Result
from hetfed_lightning.cli.benchmark.search import Choice, Tuning
from hetfed_lightning.cli.benchmark.suite import CENTRALISED, CONFIGURED, LINEAR, LOCAL, MAJORITY, Cell, Suite
from hetfed_lightning.cli.errors import ConfigError
from hetfed_lightning.cli.known_methods import known_methods
from hetfed_lightning.cli.outcomes import mean_of
from hetfed_lightning.cli.tables import Table, figure
from hetfed_lightning.methods.search_space import Range

if TYPE_CHECKING:
    from optuna.study import Study

log = logging.getLogger(__name__)

FOLDER, TRIALS = "tuning", "trials.csv"

RunCells = Callable[[Suite, Sequence[Cell]], Mapping[Cell, Result]]
"""Function that runs cells of a suite and returns their results."""


@dataclass(frozen=True)
class Trial:
    """One trial of a row on a data set.

    Attributes:
        choice: What it changed.
        value: Mean validation figure of the last round over seeds; NaN if it was refused or failed.
    """

    choice: Choice
    value: float


@dataclass
class Search:
    """Trials of one row on one data set.

    Attributes:
        ranges: What is searched, by ``("argument", name)``, or ``("setting", dotted key)``.
        trials: Trials so far; the first is the row as it stands.
        refused: Why the row cannot train on the data set; empty if it can.
        higher_is_better: True if larger figures are better.
    """

    ranges: Mapping[tuple[str, str], Range]
    trials: list[Trial] = field(default_factory=list)
    refused: str = ""
    higher_is_better: bool = True
    _study: Study | None = None

    def ask(self) -> tuple[Choice, Any]:
        """Next choice, and Optuna's trial of it; none for the first, which changes nothing."""
        if not self.trials:
            return Choice(), None
        asked = self.study.ask()
        drawn = {pair: _drawn(asked, f"{pair[0]} {pair[1]}", one) for pair, one in self.ranges.items()}
        settings = {key: one for (kind, key), one in drawn.items() if kind == "setting"}
        times = {key for (kind, key), one in self.ranges.items() if kind == "setting" and one.times}
        return Choice(
            {key: one for (kind, key), one in drawn.items() if kind == "argument"},
            {key: one for key, one in settings.items() if key not in times},
            {key: one for key, one in settings.items() if key in times},
        ), asked

    def tell(self, choice: Choice, asked: Any, results: Sequence[Result]) -> None:
        """Note what a choice gave.

        Args:
            choice: The choice.
            asked: Optuna's trial of it.
            results: Results of its cells, one for each seed.
        """
        refused = next((one.refused for one in results if one.refused), "")
        headlines = [each for one in results for each in one.last if each.headline]
        if not self.trials:
            self.refused = refused
            self.higher_is_better = all(one.higher_is_better for one in headlines)
        value = math.nan if refused else mean_of(one.curve[-1] if one.curve else math.nan for one in results)
        self.trials.append(Trial(choice, value))
        if asked is not None:
            from optuna.trial import TrialState

            is_known = math.isfinite(value)
            sign = 1 if self.higher_is_better else -1
            self.study.tell(asked, sign * value if is_known else None, None if is_known else TrialState.FAIL)

    @property
    def best(self) -> Trial:
        """Trial with the best figure, the earliest of equal ones; the first if none has a figure."""
        sign = 1 if self.higher_is_better else -1
        known = [one for one in self.trials if math.isfinite(one.value)]
        return max(known, key=lambda one: sign * one.value) if known else self.trials[0]

    @property
    def study(self) -> Study:
        """Optuna's study, whose draws are the same in every run."""
        if self._study is None:
            optuna = _optuna()
            self._study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0), direction="maximize")
        return self._study


def tuned(suite: Suite, run: RunCells) -> tuple[Suite, dict[tuple[str, str], Search]]:
    """Suite whose rows have what was best in the trials, and the trials by titles of data set and row.

    Rounds of trials go over all rows and data sets; a row has as many as any other that has something to search. One
    that cannot train on a data set is tried once.

    Args:
        suite: The suite, with its ``tuning``.
        run: What runs cells; each is run once, so that a stopped search goes on.

    Raises:
        ConfigError: If Optuna is missing, or ranges of a row are of another form.
    """
    tuning = suite.tuning
    if tuning is None or tuning.trials < 2:
        return suite, {}
    _optuna()
    searches = {
        (data, title): Search(found)
        for data in suite.data
        for title in suite.methods
        if title not in suite.data[data].leave_out and (found := ranges_searched(suite, title))
    }
    for number in range(1, tuning.trials + 1):
        asked = {pair: one.ask() for pair, one in searches.items() if not one.refused}
        log.info("Trial %d of %d, for %d rows on data sets.", number, tuning.trials, len(asked))
        trial = replace(
            suite,
            seeds=tuning.seeds,
            output=str(Path(suite.output) / FOLDER),
            chosen={pair: choice for pair, (choice, _) in asked.items()},
        )
        results = run(trial, [Cell(data, title, seed) for seed in tuning.seeds for data, title in asked])
        for (data, title), (choice, theirs) in asked.items():
            searches[data, title].tell(choice, theirs, [results[Cell(data, title, seed)] for seed in tuning.seeds])
    return replace(suite, chosen={pair: one.best.choice for pair, one in searches.items()}), searches


def ranges_searched(suite: Suite, title: str) -> dict[tuple[str, str], Range]:
    """Ranges that a row searches; none for the simplest models.

    An argument that the suite gives stays, unless the suite has a range for it.

    Args:
        suite: The suite.
        title: Title of the row.
    """
    row, tuning = suite.methods[title], suite.tuning
    if tuning is None or row.method in {LINEAR, MAJORITY}:
        return {}
    if title in tuning.methods:
        arguments = tuning.methods[title]
    elif row.method in {LOCAL, CENTRALISED, CONFIGURED} or row.method.lower() not in known_methods():
        arguments = {}  # The file's own methods, and those of a user's own, are searched as the suite says.
    else:
        brought = known_methods()[row.method.lower()].search_space
        arguments = {key: one for key, one in brought.items() if key not in row.arguments}
    found = {("argument", key): one for key, one in arguments.items()}
    return found | {("setting", key): one for key, one in tuning.common.items()}


def choices_table(searches: Mapping[tuple[str, str], Search], data: str) -> Table:
    """Table of what was chosen on a data set, and the validation figures before and after.

    Args:
        searches: Trials by titles of data set and row.
        data: Title of the data set.
    """
    rows = [
        (title, figure(one.trials[0].value), figure(one.best.value), str(one.best.choice))
        for (place, title), one in searches.items()
        if place == data and not one.refused
    ]
    return Table(["method", "as it stood", "chosen", "what was chosen"], rows)


def tuning_sentence(tuning: Tuning) -> str:
    """Sentence on how settings were chosen."""
    seeds = ", ".join(map(str, tuning.seeds))
    return (
        f"Settings of every row were chosen by {tuning.trials} trials on seed(s) {seeds}, the first as the row stands, "
        "by the mean validation figure of the last round (everyone's where there is one)."
    )


def write_trials(searches: Mapping[tuple[str, str], Search], path: Path) -> None:
    """Write a CSV file with a line for each trial."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("data", "method", "trial", "choice", "validation", "chosen"))
        for (data, title), one in searches.items():
            for number, trial in enumerate(one.trials):
                writer.writerow((data, title, number, str(trial.choice), trial.value, trial is one.best))


def _drawn(asked: Any, name: str, one: Range) -> Any:
    if one.values:
        return one.values[asked.suggest_int(name, 0, len(one.values) - 1)]
    if one.whole:
        return asked.suggest_int(name, int(one.low), int(one.high), log=one.log)
    return asked.suggest_float(name, one.low, one.high, log=one.log)


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise ConfigError("--tune: Optuna is missing: pip install 'hetfed-lightning[tune]'.") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
