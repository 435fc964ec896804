"""A benchmark runs what is missing, says why a method cannot train, and gives the numbers of its runs made alone."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from hetfed_lightning import BackboneAveraging, Federation, benchmark
from hetfed_lightning.cli.benchmark import schedule
from hetfed_lightning.cli.benchmark.best_round import BestRound
from hetfed_lightning.cli.benchmark.cell import run_cell
from hetfed_lightning.cli.benchmark.fingerprint import data_hash, fingerprint
from hetfed_lightning.cli.benchmark.page import benchmark_page
from hetfed_lightning.cli.benchmark.results import Figure, Result
from hetfed_lightning.cli.benchmark.scores import paired, rounds_to, scores_of
from hetfed_lightning.cli.benchmark.simplest import fitted
from hetfed_lightning.cli.benchmark.statistics import bootstrap_interval, friedman_ranks
from hetfed_lightning.cli.benchmark.suite import cells_of, suite_of
from hetfed_lightning.cli.benchmark.tables import ranks_of
from hetfed_lightning.cli.errors import ConfigError
from hetfed_lightning.data import Examples, FederatedData
from tests.cli.commands import hetfed, tiny, written
from tests.federations import equal, fit, state_of, tiny_data, tiny_participant


def suite(**settings: Any) -> dict[str, Any]:
    """A suite on the tiny federation of the other tests of commands."""
    written(tiny())
    return {"data": {"points": "config.yaml"}, "methods": ["fedavg"], "seeds": 1, "output": "bench"} | settings


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the cells' folders that were run, in order."""
    folders: list[str] = []

    def watch(folder: Path) -> Result:
        folders.append(folder.name)
        return run_cell(folder)

    monkeypatch.setattr(schedule, "run_cell", watch)
    return folders


def test_a_benchmark_from_the_command_line(capsys: pytest.CaptureFixture[str], ran: list[str]) -> None:
    path = written(suite(), "suite.yaml")
    ended = hetfed(capsys, "benchmark", "-c", path)
    assert (ended.code, ended.err.count("hetfed: error")) == (0, 0), ended.err
    rows = ["local", "centralised", "linear", "majority", "fedavg"]
    assert [name.split("-")[1] for name in ran] == rows
    table = Path("bench/table.md").read_text(encoding="utf-8")
    lines = [line.split("|")[1].strip() for line in table.split("## points")[1].splitlines() if line.startswith("|")]
    assert lines[:7] == ["method", "---", *rows]
    assert " s left" in ended.out
    page = Path("bench/page.html").read_text(encoding="utf-8")
    assert all(f'<th scope="row">{row}</th>' in page for row in rows)
    with Path("bench/figures.csv").open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    assert {one["method"] for one in found} == set(rows)
    assert all(0 <= float(one["own"]) <= 1 for one in found)

    # Nothing is run twice, and what was cut short is run again.
    ran.clear()
    stopped = next(Path("bench/cells").glob("points-fedavg-*")) / "result.json"
    before = json.loads(stopped.read_text(encoding="utf-8"))
    stopped.write_text("{", encoding="utf-8")
    assert hetfed(capsys, "benchmark", "-c", path).code == 0
    assert [name.split("-")[1] for name in ran] == ["fedavg"]
    assert json.loads(stopped.read_text(encoding="utf-8")) | {"seconds": 0} == before | {"seconds": 0}


def test_the_cell_is_the_run_of_its_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    [result] = benchmark(suite(references=[], methods={"averages": {"method": "fedprox", "proximal": 0.1}}, seeds=[3]))
    config = next(Path("bench/cells").iterdir()) / "config.yaml"
    [entry] = yaml.safe_load(config.read_text(encoding="utf-8"))["trainer"]["callbacks"]
    assert entry["init_args"]["proximal"] == 0.1
    ended = hetfed(capsys, "compare", "-c", config, "--arms", "[federation]", "--seeds", "[3]", "--output", "alone")
    assert ended.code == 0
    with Path("alone/outcomes.csv").open(encoding="utf-8", newline="") as file:
        alone = {(one["participant"], one["metric"]): float(one["own"]) for one in csv.DictReader(file)}
    assert {(one.participant, one.metric): one.own for one in result.last} == alone
    assert result.bytes_up > 0
    assert result.best_round in {0, 1}


def test_another_configuration_or_data_or_seed_is_another_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def pretend(folder: Path) -> Result:
        ran.append(folder.name)
        found = Result("points", "simplest", 0, "")
        found.write(folder)
        return found

    monkeypatch.setattr(schedule, "run_cell", pretend)
    settings = suite(references=[], methods={"simplest": "majority"})
    benchmark(settings)
    benchmark(settings | {"data": {"points": {"config": "config.yaml", "set": {"trainer.max_epochs": 2}}}})
    assert len(ran) == 2
    with np.load("pool.npz") as pool:
        points, labels = pool["x"], pool["y"]
    points[0, 0] += 1
    np.savez("pool.npz", x=points, y=labels)
    benchmark(settings)
    assert len(ran) == 3
    benchmark(settings | {"seeds": [0, 1]})
    assert len(ran) == len(set(ran)) == 4


def test_a_method_that_cannot_train_is_a_sentence_in_the_table() -> None:
    config = tiny()
    del config["data"]["init_args"]["public_size"]
    settings = suite(references=[], methods=["fedmd"])
    written(config)
    [refused] = benchmark(settings)
    assert "public" in refused.refused
    assert refused.refused in Path("bench/table.md").read_text(encoding="utf-8")


def test_a_cell_that_fails_in_training_stops_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("the disk is full")

    settings = suite(references=[], methods={"fedavg": "fedavg", "simplest": "majority"})
    monkeypatch.setattr("hetfed_lightning.callbacks.record.RunRecord.on_train_epoch_end", fails)
    failed, simplest = benchmark(settings)
    assert failed.refused == "failed in training: the disk is full"
    assert not simplest.refused
    [told] = Path("bench/cells").glob("*/error.txt")
    assert "in fails" in told.read_text(encoding="utf-8")


@pytest.mark.slow
def test_cells_side_by_side_give_the_same() -> None:
    settings = suite(references=["local"])
    one, both = benchmark(settings), benchmark(settings | {"output": "beside"}, jobs=2)
    assert [cell.last for cell in both] == [cell.last for cell in one]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"data": {}}, "data: expected at least one"),
        ({"methodes": []}, "did you mean 'methods'"),
        ({"seeds": [1, 1]}, "a seed stands twice"),
        ({"seeds": -1}, "seeds: expected"),
        ({"references": ["locale"]}, "did you mean 'local'"),
        ({"data": {"points": {"config": "config.yaml", "partition": 1}}}, "data.points.partition"),
        ({"data": {"points": {"config": "config.yaml", "leave_out": ["locale"]}}}, "did you mean 'local'"),
        ({"methods": {"mine": {"weight": 1}}}, "methods.mine"),
    ],
)
def test_a_suite_that_cannot_be_read_is_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        suite_of({"data": {"points": "config.yaml"}, "methods": ["fedavg"]} | settings)


def test_a_data_set_leaves_out_rows_that_mean_nothing_on_it() -> None:
    points = {"config": "config.yaml", "leave_out": ["local"]}
    found = suite_of(
        {"data": {"points": points, "more": "config.yaml"}, "methods": ["fedavg"], "seeds": 1, "references": ["local"]}
    )
    assert [str(one) for one in cells_of(found)] == [
        "points, fedavg, seed 0",
        "more, local, seed 0",
        "more, fedavg, seed 0",
    ]


def test_an_unknown_method_is_refused_before_the_first_training(ran: list[str]) -> None:
    with pytest.raises(ConfigError, match="fedavgg"):
        benchmark(suite(methods=["fedavgg"]))
    assert ran == []


# ------------------------------------------------------------------------------------------ what is worked out


def result(method: str, seed: int, own: list[float], **settings: Any) -> Result:
    figures = [Figure(f"p{index}", "accuracy", value, math.nan) for index, value in enumerate(own)]
    return Result("points", method, seed, "", figures, **settings)


def test_scores_by_hand() -> None:
    results = [result("local", 0, [0.5, 0.7, 0.6]), result("local", 1, [0.4, 0.8, 0.6])]
    results += [result("fedavg", 0, [0.6, 0.6, 0.6], bytes_up=3, bytes_down=4), result("fedavg", 1, [0.5, 0.9, 0.7])]
    score = scores_of(results, "points")["fedavg"]
    assert score.own == pytest.approx({0: 0.6, 1: 0.7})
    assert score.worst == {0: 0.6, 1: 0.5}
    assert score.harmed == pytest.approx(1 / 6)  # p1 with seed 0; p2 is as before
    assert score.bytes[0] == 7
    local = scores_of(results, "points")["local"]
    assert paired(score.own, local.own, higher_is_better=True) == pytest.approx([0.0, 0.1])
    assert paired(score.own, local.own, higher_is_better=False) == pytest.approx([0.0, -0.1])


def test_the_best_round_is_that_of_a_run_which_ends_there() -> None:
    def trained(rounds: int) -> tuple[Federation, BestRound]:
        made = Federation({name: tiny_participant(seed=place) for place, name in enumerate("ab")})
        best = BestRound()
        trainer = fit(made, tiny_data("ab"), rounds, BackboneAveraging(), best)
        if rounds == 1:
            sent = trainer.callback_metrics
            assert best.bytes_up == float(sent["federation/bytes_up"]) > 0
        return made, best

    made, best = trained(4)
    assert len(best.curve) == 4
    assert best.round == 1 + best.curve.index(max(best.curve))
    assert best.bytes_up == 4 * trained(1)[1].bytes_up
    last = state_of(made)
    assert best.restore()
    ended, _ = trained(best.round)
    assert equal(state_of(made), state_of(ended))
    assert best.round == 4 or not equal(state_of(made), last)


def test_rounds_to_a_target() -> None:
    assert rounds_to([0.1, math.nan, 0.5, 0.4], 0.4, higher_is_better=True) == 3
    assert rounds_to([3.0, 2.0], 2.0, higher_is_better=False) == 2
    assert math.isnan(rounds_to([0.1], 0.4, higher_is_better=True))


def test_a_bootstrap_of_two_values_has_them_as_ends() -> None:
    # Means of two draws are 1, 2 or 3 with shares 1/4, 1/2, 1/4: the outer 2.5 % are at the ends.
    interval = bootstrap_interval([1.0, 3.0])
    assert (interval.mean, interval.low, interval.high, interval.count) == (2, 1, 3, 2)
    assert not bootstrap_interval([1.0]).known
    assert bootstrap_interval([2.0, 2.0]).low == 2


def test_friedman_by_hand() -> None:
    # Ranks 1, 2, 3 on each of four data sets: 12 n / (k (k + 1)) * sum of (rank - 2)^2 = 8, with two degrees: exp(-4).
    figures = {"a": [0.9, 0.8, 0.7, 1.0], "b": [0.5, 0.6, 0.5, 2.0], "c": [0.1, 0.2, 0.3, 3.0]}
    ranks = friedman_ranks(figures, higher_is_better=[True, True, True, False])
    assert ranks.mean == {"a": 1, "b": 2, "c": 3}
    assert ranks.p_value == pytest.approx(math.exp(-4))
    assert math.isnan(friedman_ranks({"a": [1], "b": [2]}, higher_is_better=[True]).p_value)


def test_a_page_has_ranks_gains_and_no_markup_of_others() -> None:
    chosen = suite_of({"data": {"<b>": "x.yaml", "two": "x.yaml"}, "methods": ["fedavg", "fedrep"], "seeds": 2})
    found = [
        Result(data, method, seed, "", [Figure("p", "accuracy", level + 0.1 * seed * level, math.nan)])
        for data in chosen.data
        for method, level in (("local", 0.4), ("fedavg", 0.5), ("fedrep", 0.6))
        for seed in (0, 1)
    ]
    ranks = ranks_of(found, chosen)
    assert ranks is not None
    assert ranks.mean == {"local": 3, "fedavg": 2, "fedrep": 1}
    page = benchmark_page(found, chosen)
    assert "<b>" not in page
    assert page.count("<svg") == 3  # own gains on two data sets, and ranks
    assert f"p = {math.exp(-2):.3g}" in page  # Friedman's statistic is 4, with two degrees.
    assert "+0.105 [+0.100, +0.110]" in page  # .1 and .11
    assert "<td>+0.105" in page


def test_majority_and_ridge_by_hand() -> None:
    inputs, labels = np.array([[0.0], [1.0], [2.0], [3.0]]), np.array([0, 0, 0, 2])
    logits = fitted(inputs, labels, "multiclass", 3, "majority")(inputs[:1])
    assert np.exp(logits) == pytest.approx(np.array([[0.75, 1e-12, 0.25]]))
    # Scaled columns are -1.34, -.45, .45, 1.34 with square sum 4; values less their mean give 4 / sqrt(1.25) * 1.25.
    values = fitted(inputs, inputs[:, 0], "regression", 1, "linear")(inputs)
    assert values[:, 0] == pytest.approx(1.5 + (inputs[:, 0] - 1.5) * 4 / 5)
    assert fitted(inputs, labels // 2, "binary", 1, "majority")(inputs[:1]) == pytest.approx(math.log(1 / 3))


def test_fingerprints_tell_what_differs() -> None:
    first = fingerprint({"a": 1, "b": 2}, "federation", 0, "x")
    assert first == fingerprint({"b": 2, "a": 1}, "federation", 0, "x")
    others = [({"a": 1}, "federation", 0, "x"), ({"a": 1, "b": 2}, "local_only", 0, "x")]
    others += [({"a": 1, "b": 2}, "federation", 1, "x"), ({"a": 1, "b": 2}, "federation", 0, "y")]
    assert len({first, *(fingerprint(*one) for one in others)}) == 5

    def hashed(value: float, name: str = "a") -> str:
        return data_hash(FederatedData({name: Examples(torch.tensor([[1.0], [value]]), torch.tensor([0, 1]))}))

    assert hashed(2.0) == hashed(2.0)
    assert len({hashed(2.0), hashed(3.0), hashed(2.0, "b")}) == 3
