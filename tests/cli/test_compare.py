import csv
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor

from hetfed_lightning import Federation
from hetfed_lightning.cli.compare import CompareCLI, centralised_data, check_poolable, same_recipes
from hetfed_lightning.cli.configs import ConfigError
from hetfed_lightning.cli.outcomes import ARMS
from hetfed_lightning.data import Examples, FederatedData
from tests.cli.commands import hetfed, member, participant, put, tiny, written
from tests.federations import equal, state_of, tiny_data

State = dict[str, Tensor]


class Watched:
    """What each training began with and saw, and what it ended with."""

    def __init__(self) -> None:
        self.starts: list[dict[str, State]] = []
        self.ends: list[dict[str, State]] = []
        self.data: list[dict[str, Tensor]] = []
        self.tests: list[dict[str, Tensor]] = []


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    """Looks into every `Trainer.fit`."""
    found = Watched()
    fit = L.Trainer.fit

    def watch(self: L.Trainer, model: Federation, **arguments: Any) -> None:
        found.starts.append({name: state_of(one) for name, one in model.members().items()})
        data = arguments["datamodule"].data
        found.data.append({name: examples.inputs.clone() for name, examples in data.train.items()})
        found.tests.append({name: examples.inputs.clone() for name, examples in data.test.items()})
        fit(self, model, **arguments)
        found.ends.append({name: state_of(one) for name, one in model.members().items()})

    monkeypatch.setattr(L.Trainer, "fit", watch)
    return found


def rows() -> list[dict[str, str]]:
    with Path("tables/outcomes.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_every_arm_on_every_seed(capsys: pytest.CaptureFixture[str], watched: Watched) -> None:
    ended = hetfed(capsys, "compare", "-c", written(tiny()), "--seeds", "2", "--output", "tables")
    assert (ended.code, ended.err.count("hetfed: error")) == (0, 0)
    names = ["hospital_a", "hospital_b"]
    expected = [(arm, str(seed), name) for seed in range(2) for arm in ARMS for name in names]
    assert [(row["arm"], row["seed"], row["participant"]) for row in rows()] == expected
    assert all(0 <= float(row[key]) <= 1 for row in rows() for key in ("own", "everyone"))
    table = Path("tables/table.md").read_text(encoding="utf-8").splitlines()
    assert [line.split("|")[1].strip() for line in table if line.startswith("|")][2:] == [*names, "mean", "worst"]
    assert "own: gain" in table[0]
    assert ended.out.count("seed 1") == 3

    federation, alone, pooled = 0, 1, 2
    # The same start and the same data for those two, and another start and split with another seed.
    for name in names:
        assert equal(watched.starts[federation][name], watched.starts[alone][name])
        assert torch.equal(watched.data[federation][name], watched.data[alone][name])
        assert not equal(watched.starts[federation][name], watched.starts[federation + 3][name])
        assert not torch.equal(watched.data[federation][name], watched.data[federation + 3][name])
        assert torch.equal(watched.tests[federation][name], watched.tests[pooled][name])
        # Centralised: everyone's training data.
        assert len(watched.data[pooled][name]) == sum(map(len, watched.data[federation].values()))
    together, apart = watched.ends[federation], watched.ends[alone]
    shared = [key for key in together["hospital_a"] if key.startswith("backbone.")]
    assert all(torch.equal(together["hospital_a"][key], together["hospital_b"][key]) for key in shared)
    assert not any(torch.equal(apart["hospital_a"][key], apart["hospital_b"][key]) for key in shared)


def test_equal_recipes_are_one_model_on_pooled_data(capsys: pytest.CaptureFixture[str], watched: Watched) -> None:
    ended = hetfed(
        capsys, "compare", "-c", written(tiny(("a", "b"))), "--seeds", "[3]", "--arms", "[centralised]",
        "--output", "tables", "--trainer.max_epochs", "2",
    )  # fmt: skip
    assert ended.code == 0
    assert [(row["arm"], row["seed"]) for row in rows()] == [("centralised", "3")] * 2
    # The second did not train; it was measured with the first one's weights, so everyone's figure is the same.
    assert equal(watched.ends[0]["b"], watched.starts[0]["b"])
    assert not equal(watched.ends[0]["a"], watched.starts[0]["a"])
    assert len({row["everyone"] for row in rows()}) == 1


def test_the_own_prior_is_for_the_federation_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, test = [], L.Trainer.test

    def watch(self: L.Trainer, model: Federation, **arguments: Any) -> Any:
        weights.append([one.own_prior for one in model.members().values()])
        return test(self, model, **arguments)

    monkeypatch.setattr(L.Trainer, "test", watch)
    config = tiny()
    member(config)["own_prior"] = 0.5
    assert hetfed(capsys, "compare", "-c", written(config), "--output", "tables").code == 0
    assert weights == [[0.5, 0.0], [0.0, 0.0], [0.0, 0.0]]


def test_a_student_is_for_the_federation_alone(capsys: pytest.CaptureFixture[str]) -> None:
    config = tiny()
    config["model"]["student"] = participant()
    config["trainer"]["callbacks"].append({"class_path": "hetfed_lightning.EnsembleDistillation"})
    arms = "[federation,local_only]"
    ended = hetfed(capsys, "compare", "-c", written(config), "--output", "tables", "--arms", arms)
    assert (ended.code, ended.err.count("hetfed: error")) == (0, 0)
    names = ["hospital_a", "hospital_b"]
    expected = [*(("federation", name) for name in [*names, "student"]), *(("local_only", name) for name in names)]
    assert [(row["arm"], row["participant"]) for row in rows()] == expected
    table = [
        line.split("|") for line in Path("tables/table.md").read_text(encoding="utf-8").splitlines() if "|" in line
    ]
    head, student = table[0], next(line for line in table if line[1].strip() == "student")
    shown = {title.strip(): cell.strip() for title, cell in zip(head, student, strict=True)}
    assert 0 <= float(shown["global: federation"]) <= 1
    assert all(shown[f"{scope}: local_only"] == "-" for scope in ("own", "global"))
    assert shown["own: federation"] == shown["global: gain"] == "-"


def test_logs_checkpoints_and_bars_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    config = tiny()
    for key in ("logger", "enable_checkpointing", "enable_progress_bar"):
        del config["trainer"][key]
    config["trainer"]["callbacks"].append({"class_path": "lightning.pytorch.callbacks.ModelCheckpoint"})
    arms = "[local_only]"
    assert hetfed(capsys, "compare", "-c", written(config), "--output", "tables", "--arms", arms).code == 0
    assert sorted(path.name for path in Path().iterdir()) == ["config.yaml", "pool.npz", "tables"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--arms", "[centralized]"], "centralized"), (["--seeds", "one"], "seeds"), (["--sedes", "2"], "--sedes")],
)
def test_options_that_cannot_be(capsys: pytest.CaptureFixture[str], arguments: list[str], words: str) -> None:
    ended = hetfed(capsys, "compare", "-c", written(tiny()), *arguments)
    assert (ended.code, words in ended.err) == (2, True)


def test_what_does_not_fit_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    config = tiny()
    put(config, "model.participants.hospital_b.init_args.backbone.init_args.in_features", 9)
    ended = hetfed(capsys, "compare", "-c", written(config))
    assert (ended.code, "'hospital_b'" in ended.err) == (2, True)


def test_recipes_that_repeat() -> None:
    # b is a that joins later; c has another learning rate; d repeats c.
    other = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.5}}
    recipes = {
        "a": participant(), "b": participant(joins_at=3), "c": participant(optimizer=other),
        "d": participant(optimizer=other), "e": participant(local_epochs=2), "f": participant(own_prior=0.5),
    }  # fmt: skip
    assert same_recipes(recipes) == {"b": "a", "d": "c", "f": "a"}
    assert recipes["b"]["init_args"]["joins_at"] == 3


def test_pooled_data_by_hand() -> None:
    data = tiny_data().data
    together = centralised_data(data)
    # tiny_data: 12, 16 and 20 training examples.
    assert [len(one) for one in together.train.values()] == [48, 48, 48]  # type: ignore[arg-type]
    assert together.test is data.test
    assert together.global_test is data.global_test


def test_the_command_makes_nothing_by_itself() -> None:
    command = CompareCLI(["-c", str(written(tiny())), "--seeds", "[4, 5]"], run=False)
    assert command.config.seeds == [4, 5]
    assert not hasattr(command, "trainer")


def test_every_metric_of_a_test_has_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    config = tiny()
    metrics = {
        name: {"class_path": f"torchmetrics.classification.{kind}", "init_args": {"num_classes": 3}}
        for name, kind in (("f1", "MulticlassF1Score"), ("error", "MulticlassCalibrationError"))
    }
    for name in ("hospital_a", "hospital_b"):
        task = {"class_path": "hetfed_lightning.MulticlassTask", "init_args": {"metrics": metrics}}
        put(config, f"model.participants.{name}.init_args.task", task)
    ended = hetfed(
        capsys, "compare", "-c", written(config), "--output", "tables", "--arms", "[federation,local_only]",
        "--metrics", "[error]",
    )  # fmt: skip
    assert (ended.code, ended.err.count("hetfed: error")) == (0, 0)
    found = [(row["metric"], row["headline"], row["higher_is_better"]) for row in rows()]
    assert found == [("f1", "True", "True"), ("error", "False", "False")] * 4
    assert "local_only - federation" in ended.out
    assert Path("tables/table.md").read_text(encoding="utf-8").startswith("error\n\n| participant | own: federation |")


def test_a_further_model_of_a_method_is_the_federations_alone(capsys: pytest.CaptureFixture[str]) -> None:
    config = tiny()
    put(config, "trainer.callbacks", [{"class_path": "tests.methods.own_methods.Common"}])
    ended = hetfed(
        capsys, "compare", "-c", written(config), "--output", "tables", "--arms", "[local_only,federation]",
        "--metrics", "[accuracy.common]", "--allow_import", "tests",
    )  # fmt: skip
    assert (ended.code, ended.err.count("hetfed: error")) == (0, 0)
    found = [(row["arm"], row["metric"]) for row in rows()]
    plain = [("local_only", "accuracy")] * 2
    assert found == plain + [("federation", "accuracy"), ("federation", "accuracy.common")] * 2
    assert all(0 <= float(row[key]) <= 1 for row in rows() for key in ("own", "everyone"))
    assert hetfed(capsys, "report", "tables").code == 0


def test_a_metric_that_nobody_has_is_told_after_the_first_training(
    capsys: pytest.CaptureFixture[str], watched: Watched
) -> None:
    ended = hetfed(capsys, "compare", "-c", written(tiny()), "--metrics", "[acuracy]", "--output", "tables")
    assert ended.code == 2
    assert "--metrics: nobody was tested by 'acuracy'; did you mean 'accuracy'?" in ended.err
    assert len(watched.ends) == 1


def test_data_without_test_sets_are_refused_before_the_first_training(
    capsys: pytest.CaptureFixture[str], watched: Watched
) -> None:
    config = tiny()
    put(config, "data.init_args.own_fractions", [0.8, 0.2, 0.0])
    put(config, "data.init_args.test_fraction", 0)
    ended = hetfed(capsys, "compare", "-c", written(config), "--output", "tables")
    assert ended.code == 2
    assert "data: a comparison measures on test sets, and there are none. Give each participant one by" in ended.err
    assert not watched.starts


def test_data_of_different_inputs_cannot_be_centralised() -> None:
    image, genes = torch.zeros(2, 3), torch.zeros(2, 4)
    sets = {"city": Examples({"image": image, "genes": genes}), "radiology": Examples({"image": image})}
    with pytest.raises(
        ConfigError, match=r"city holds input 'image', input 'genes'; radiology holds input 'image'.*--arms"
    ):
        check_poolable(FederatedData(sets))
    check_poolable(FederatedData(dict.fromkeys(sets, sets["city"])))
