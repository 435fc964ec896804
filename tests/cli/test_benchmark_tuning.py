"""Every row of a benchmark is tuned by equally many trials, on seeds that nothing is compared on."""

import csv
import inspect
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from hetfed_lightning import benchmark
from hetfed_lightning.cli.benchmark import schedule
from hetfed_lightning.cli.benchmark.results import Figure, Result
from hetfed_lightning.cli.benchmark.search import Choice, replaced
from hetfed_lightning.cli.benchmark.suite import Cell, config_of, suite_of
from hetfed_lightning.cli.benchmark.tuning import ranges_searched
from hetfed_lightning.cli.errors import ConfigError
from hetfed_lightning.cli.groups import settings_by_member
from hetfed_lightning.cli.known_methods import known_methods
from hetfed_lightning.methods.search_space import Range
from tests.cli.commands import hetfed, tiny, written
from tests.methods.published.finding import METHODS

pytest.importorskip("optuna")
LR = "model.participants.*.init_args.optimizer.init_args.lr"


def suite(**settings: Any) -> dict[str, Any]:
    written(tiny())
    common = {"data.init_args.batch_size": [1, 2, 3]}
    tune = {"trials": 4, "seeds": [7], "common": common}
    return {
        "data": {"points": "config.yaml"},
        "methods": ["fedprox"],
        "seeds": [0, 1],
        "output": "bench",
        "references": ["local", "majority"],
        "tune": tune,
    } | settings


@pytest.fixture
def configs(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Configurations of the cells that were run, which pretend to be better with a smaller batch."""
    seen: list[dict[str, Any]] = []

    def pretend(folder: Path) -> Result:
        cell = yaml.safe_load((folder / "cell.yaml").read_text(encoding="utf-8"))
        config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        seen.append(config | {"cell": cell})
        figure = 1 / config["data"]["init_args"]["batch_size"]
        found = Result(
            cell["data"],
            cell["method"],
            cell["seed"],
            cell["fingerprint"],
            [Figure("a", "accuracy", figure, math.nan)],
            curve=[9.0, figure],
        )
        found.write(folder)
        return found

    monkeypatch.setattr(schedule, "run_cell", pretend)
    return seen


def test_the_best_trial_is_compared_on_other_seeds(configs: list[dict[str, Any]]) -> None:
    benchmark(suite())
    trained = [one for one in configs if one["cell"]["row"] != "majority"]
    for row in ("local", "fedprox"):
        tried = [one for one in trained if one["cell"]["row"] == row and one["cell"]["seed"] == 7]
        shown = [one for one in trained if one["cell"]["row"] == row and one["cell"]["seed"] in {0, 1}]
        assert len(shown) == 2
        assert {one["data"]["init_args"]["batch_size"] for one in shown} == {
            min(one["data"]["init_args"]["batch_size"] for one in tried)
        }
    with Path("bench/trials.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(one["method"], one["trial"]) for one in lines] == [
        (row, str(trial)) for row in ("local", "fedprox") for trial in range(4)
    ]
    assert [one["choice"] for one in lines if one["trial"] == "0"] == ["as it stands"] * 2
    assert [one["method"] for one in lines if one["chosen"] == "True"] == ["local", "fedprox"]
    proximal = {
        one["trainer"]["callbacks"][0]["init_args"]["proximal"] for one in trained if one["cell"]["row"] == "fedprox"
    }
    assert len(proximal) > 2, "the method's own range is searched"
    assert "4 trials on seed(s) 7" in Path("bench/table.md").read_text(encoding="utf-8")
    assert "batch_size" in Path("bench/page.html").read_text(encoding="utf-8")

    # A stopped search goes on: nothing is run twice, and it chooses the same.
    configs.clear()
    before = Path("bench/trials.csv").read_bytes()
    benchmark(suite())
    assert configs == []
    assert Path("bench/trials.csv").read_bytes() == before


def test_trials_on_the_command_line_train(capsys: pytest.CaptureFixture[str]) -> None:
    given = suite(references=[], seeds=[0])
    del given["tune"]
    ended = hetfed(capsys, "benchmark", "-c", written(given, "suite.yaml"), "--tune", "2")
    assert ended.code == 0, ended.err
    assert "2 trials on seed(s) 1000" in Path("bench/table.md").read_text(encoding="utf-8")
    with Path("bench/trials.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [math.isfinite(float(one["validation"])) for one in lines] == [True, True]
    assert "lr x" in lines[1]["choice"]


def test_a_row_that_cannot_train_is_tried_once(configs: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(folder: Path) -> Result:
        found = Result("points", "fedprox", 7, "", refused="no")
        found.write(folder)
        configs.append({})
        return found

    monkeypatch.setattr(schedule, "run_cell", refuses)
    benchmark(suite(references=[]))
    assert len(configs) == 1 + 2  # the first trial, and the two seeds that are compared on


def test_a_failed_trial_is_never_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(folder: Path) -> Result:
        config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        size = config["data"]["init_args"]["batch_size"]
        told = {"refused": "failed in training: nan"} if size == 4 else {"curve": [1 / size]}
        figures = [Figure("a", "accuracy", 1 / size, math.nan)]
        found = Result("points", "fedprox", 7, "", figures, **told)
        found.write(folder)
        return found

    monkeypatch.setattr(schedule, "run_cell", fails)
    benchmark(
        suite(
            references=[], seeds=[0], tune={"trials": 8, "seeds": [7], "common": {"data.init_args.batch_size": [4, 8]}}
        )
    )
    with Path("bench/trials.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert any(one["validation"] == "nan" for one in lines)
    assert all(one["validation"] != "nan" for one in lines if one["chosen"] == "True")


def test_ranges_of_methods_are_arguments_of_theirs() -> None:
    ranges = {name: one.search_space for name, one in known_methods().items()}
    assert ranges["fedprox"]
    for kind in METHODS.values():
        arguments = inspect.signature(kind).parameters
        assert set(ranges[kind.__name__.lower()]) <= set(arguments), kind


def test_what_a_row_searches() -> None:
    written(tiny())
    given = {
        "data": {"points": "config.yaml"},
        "methods": {"mine": {"method": "fedmd", "weight": 2.0}, "it": "configured"},
    }
    found = suite_of(given | {"tune": {"trials": 2}})
    assert [key for _, key in ranges_searched(found, "mine")] == ["digest_epochs", LR]  # a given argument stays
    assert [key for _, key in ranges_searched(found, "it")] == [LR]
    assert [key for _, key in ranges_searched(found, "local")] == [LR]
    assert ranges_searched(found, "majority") == {}
    own = suite_of(given | {"tune": {"trials": 2, "common": {}, "methods": {"mine": {"weight": [1]}}}})
    assert ranges_searched(own, "mine") == {("argument", "weight"): Range((1,))}


def test_settings_reach_the_members_of_a_group() -> None:
    config = tiny()
    only = config["model"]["participants"].pop("hospital_b")
    config["model"]["participants"] = {"hospital": {"count": 2} | only}
    written(config)
    points = {"config": "config.yaml", "set": {"model.participants.*.init_args.local_epochs": 3}}
    found = suite_of({"data": {"points": points}, "methods": ["fedavg"], "seeds": 1})
    found = replace(found, chosen={("points", "fedavg"): Choice({}, {}, {LR: 2.0})})
    made = config_of(found, Cell("points", "fedavg", 0))["model"]["participants"]
    for one in settings_by_member(made).values():
        settings = one["init_args"]
        assert (settings["shared"], settings["local_epochs"]) == (["*"], 3)
        assert settings["optimizer"]["init_args"]["lr"] == 2 * only["init_args"]["optimizer"]["init_args"]["lr"]


def test_values_at_dotted_keys() -> None:
    config: dict[str, Any] = {"a": {"x": {"lr": 0.1}, "y": {"lr": 2}, "z": {}}, "b": [{"lr": 1.0}, {"lr": "no number"}]}
    assert replaced(config, "a.*.lr", 10, times=True)["a"] == {"x": {"lr": 1.0}, "y": {"lr": 20}, "z": {}}
    assert replaced(config, "b.*.lr", 2, times=True)["b"] == [{"lr": 2.0}, {"lr": "no number"}]
    assert replaced(config, "a.x.new.deep", 3)["a"]["x"] == {"lr": 0.1, "new": {"deep": 3}}
    assert replaced(config, "none.lr", 3, times=True) == config
    assert config["a"]["x"] == {"lr": 0.1}
    assert str(Choice({"lam": 0.25}, {"a.b": 3}, {LR: 2.0})) == "lam 0.25, b 3, lr x 2"


@pytest.mark.parametrize(
    ("tune", "says"),
    [
        ({"seeds": [1]}, "are compared on as well"),
        ({"seeds": []}, "tune.seeds: expected a list"),
        ({"trial": 3}, "did you mean 'trials'"),
        ({"trials": 0}, "tune.trials: expected an integer of at least 1"),
        (3, "tune: expected"),
        ({"methods": {"fedaavg": {}}}, "did you mean 'fedavg'"),
        ({"common": {"lr": 3}}, "tune.common.lr: expected a list"),
        ({"common": {"lr": {"low": 3, "high": 1}}}, "low below high"),
        ({"common": {"lr": {"low": 0, "high": 1, "log": True}}}, "begins above 0"),
        ({"methods": {"fedavg": [1]}}, "expected ranges by name"),
    ],
)
def test_a_search_that_cannot_be_is_refused(tune: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        suite_of({"data": {"points": "config.yaml"}, "methods": ["fedavg"], "seeds": [0, 1], "tune": tune})
