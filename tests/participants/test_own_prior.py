"""Answers for own data under the own class prior, and for everyone's data under that of the targets."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hetfed_lightning as hf
from hetfed_lightning.callbacks.confusions import examine
from hetfed_lightning.cli import load_participant
from hetfed_lightning.cli.export import export_participant
from hetfed_lightning.data import Examples
from hetfed_lightning.distillation import DensityRatioPosterior
from hetfed_lightning.participants.own_prior import class_shares, under_own_prior
from hetfed_lightning.tasks import MulticlassTask
from tests.federations import equal, examples, fit, sgd, state_of, tiny_data, tiny_federation, tiny_participant, trainer

DOUBLE = torch.float64
PLACES = torch.linspace(-6, 8, 57, dtype=DOUBLE)
MEANS, SPREADS = torch.tensor([-2.0, 0.0, 5.0], dtype=DOUBLE), torch.tensor([1.0, 2.0, 0.5], dtype=DOUBLE)
"""Of three classes: Gaussians on a line."""
SHARES = (0.7, 0.25, 0.05)
WEIGHT = 0.5
KINDS = {"multiclass": 3, "binary": 1, "multilabel": 3}
"""Kinds of outputs with classes, and widths."""


def densities(places: Tensor = PLACES) -> Tensor:
    """Densities ``p(x|c)``, shape ``(P, C)``."""
    return torch.exp(-(((places[:, None] - MEANS) / SPREADS) ** 2) / 2) / SPREADS / math.sqrt(2 * math.pi)


def bayes(shares: Tensor) -> Tensor:
    """Posterior of classes with these shares, shape ``(P, C)``."""
    joint = densities() * shares
    return joint / joint.sum(dim=1, keepdim=True)


# The law


def test_a_uniform_posterior_becomes_that_of_own_data() -> None:
    uniform = bayes(torch.full((3,), 1 / 3, dtype=DOUBLE)).log()
    found = under_own_prior(uniform, SHARES, 1.0, "multiclass").softmax(dim=1)
    torch.testing.assert_close(found, bayes(torch.tensor(SHARES, dtype=DOUBLE)), atol=1e-12, rtol=0)


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_binary_outputs_are_two_classes(shape: tuple[int, ...]) -> None:
    inside = densities()[:, :2]
    found = under_own_prior((inside[:, 1] / inside[:, 0]).log().reshape(shape), (0.9, 0.1), 1.0, "binary")
    expected = 0.1 * inside[:, 1] / (0.9 * inside[:, 0] + 0.1 * inside[:, 1])
    torch.testing.assert_close(found.sigmoid(), expected.reshape(shape), atol=1e-12, rtol=0)


def test_each_label_is_two_classes() -> None:
    inside = densities()
    logits = torch.stack([(inside[:, 1] / inside[:, 0]).log(), (inside[:, 2] / inside[:, 1]).log()], dim=1)
    found = under_own_prior(logits, (0.1, 0.6), 1.0, "multilabel").sigmoid()
    expected = [
        0.1 * inside[:, 1] / (0.9 * inside[:, 0] + 0.1 * inside[:, 1]),
        0.6 * inside[:, 2] / (0.4 * inside[:, 1] + 0.6 * inside[:, 2]),
    ]
    torch.testing.assert_close(found, torch.stack(expected, dim=1), atol=1e-12, rtol=0)


def test_the_weight_is_a_power_of_the_shares() -> None:
    uniform = bayes(torch.full((3,), 1 / 3, dtype=DOUBLE)).log()
    found = under_own_prior(uniform, SHARES, WEIGHT, "multiclass").softmax(dim=1)
    torch.testing.assert_close(found, bayes(torch.tensor(SHARES, dtype=DOUBLE) ** WEIGHT), atol=1e-12, rtol=0)
    assert torch.equal(under_own_prior(uniform, SHARES, 0.0, "multiclass"), uniform)


def test_class_shares_by_hand() -> None:
    # (3 + 1/2) / (4 + 3/2), (1 + 1/2) / (4 + 3/2), (0 + 1/2) / (4 + 3/2).
    assert class_shares(torch.tensor([3, 1, 0]), 4, "multiclass") == pytest.approx((7 / 11, 3 / 11, 1 / 11))
    assert class_shares(torch.tensor([3, 1]), 4, "binary") == pytest.approx((3.5 / 5, 1.5 / 5))
    # Present or absent: (3 + 1/2) / (4 + 1), (0 + 1/2) / (4 + 1).
    assert class_shares(torch.tensor([3, 0]), 4, "multilabel") == pytest.approx((0.7, 0.1))


# In a federation


def of_kind(kind: str, count: int, seed: int) -> Examples:
    """Examples with unequal shares of classes or labels."""
    inputs = torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))
    targets = {
        "multiclass": (inputs[:, 0] > 1).long() + (inputs[:, 0] > 1.5),
        "binary": (inputs[:, 0] > 0.8).long(),
        "multilabel": (inputs[:, :3] > torch.tensor([0.8, 0.0, -1.0])).long(),
    }
    return Examples(inputs, targets[kind])


def run(
    kind: str = "multiclass", own_prior: float = WEIGHT, engine: Any = "sequential", global_val: Any = "pooled"
) -> tuple[hf.Federation, hf.FederatedDataModule, dict[str, float]]:
    """A federation after a few rounds, its data, and the figures of its last validation."""
    settings: dict[str, Any] = {"classes": KINDS[kind], "task": kind, "own_prior": own_prior}
    made = hf.Federation(
        {name: tiny_participant(seed=place, **settings) for place, name in enumerate("abc")}, engine=engine
    )
    data = hf.FederatedDataModule(
        {name: of_kind(kind, 12 + 4 * place, place) for place, name in enumerate("abc")},
        {name: of_kind(kind, 6, 100 + place) for place, name in enumerate("abc")},
        {name: of_kind(kind, 6, 200 + place) for place, name in enumerate("abc")},
        global_val=global_val,
        batch_size=4,
    )
    found = fit(made, data, 2, hf.BackboneAveraging()).callback_metrics
    return made, data, {key: float(value) for key, value in found.items()}


@torch.no_grad()
def outputs_of(participant: hf.Participant, inputs: Any) -> Tensor:
    """Outputs of its network, as answers for everyone's data."""
    return torch.as_tensor(participant(inputs))


def answers_of(participant: hf.Participant, inputs: Any) -> Tensor:
    """Outputs as answers for own data, computed here."""
    outputs, shares = outputs_of(participant, inputs), torch.tensor(participant.class_shares)
    logs = {
        "multiclass": shares.log(),
        "binary": (shares.log()[-1] - shares.log()[0])[None],
        "multilabel": shares.log() - (1 - shares).log(),
    }
    return outputs + participant.own_prior * logs[participant.task.kind]


def pair(dataset: Any) -> tuple[Tensor, Tensor]:
    """Inputs and targets of a set in memory."""
    return dataset.inputs, dataset.targets


@pytest.mark.parametrize("engine", ["sequential", "vmap", "batched"])
@pytest.mark.parametrize("kind", KINDS)
def test_own_figures_are_under_the_own_prior_and_global_ones_are_not(kind: str, engine: str) -> None:
    made, data, figures = run(kind, engine=engine)
    inputs, targets = pair(data.data.global_val)
    for name, participant in made.members().items():
        own_inputs, own_targets = pair(data.data.val[name])
        at_home, among_all, task = (
            answers_of(participant, own_inputs),
            outputs_of(participant, inputs),
            participant.task,
        )
        assert figures[f"val_loss/{name}"] == pytest.approx(float(task.loss(at_home, own_targets)), abs=1e-6)
        assert figures[f"val_global_loss/{name}"] == pytest.approx(float(task.loss(among_all, targets)), abs=1e-6)
        metric = task.default_metrics(KINDS[kind])["accuracy"]
        metric.update(task.predictions(at_home), own_targets)
        assert figures[f"val_accuracy/{name}"] == pytest.approx(float(metric.compute()), abs=1e-6)


def test_training_and_distillation_are_as_without() -> None:
    def weights(own_prior: float) -> dict[str, Tensor]:
        made = tiny_federation(participant={"own_prior": own_prior})
        method = hf.EnsembleDistillation(DensityRatioPosterior(), mode="mixed")
        fit(made, tiny_data(), 3, method, hf.BackboneAveraging())
        return state_of(made)

    assert equal(weights(0.0), weights(2.0))


def test_predictions_for_data_of_others_are_those_for_everyones() -> None:
    made, data, _ = run()
    a, own = made["a"], pair(data.data.test["a"])[0]
    at_home: Any = trainer().predict(made, datamodule=data)
    torch.testing.assert_close(at_home[0][0], answers_of(a, own).softmax(dim=1))
    made.predict_with = "a"
    mixed: Any = trainer().predict(made, datamodule=data)
    torch.testing.assert_close(mixed[0][0], at_home[0][0])
    torch.testing.assert_close(mixed[1][0], outputs_of(a, pair(data.data.test["b"])[0]).softmax(dim=1))
    torch.testing.assert_close(a.predict(own), at_home[0][0])
    torch.testing.assert_close(a.predict(own, scope="global"), outputs_of(a, own).softmax(dim=1))


def test_confusions_on_own_sets_are_of_own_answers() -> None:
    made, data, _ = run(global_val=None)
    now = fit(made, data, 2, hf.BackboneAveraging())
    made["a"].class_shares = (0.001, 0.001, 0.998)  # No class that its network would choose.
    inputs = pair(data.data.val["a"])[0]
    chosen, plain = (one(made["a"], inputs).argmax(dim=1) for one in (answers_of, outputs_of))
    found = examine(now, made).confusions["a"].sum(dim=0)
    assert found.tolist() == torch.bincount(chosen, minlength=3).tolist() != torch.bincount(plain, minlength=3).tolist()


# Kept


MEMBER: dict[str, Any] = {
    "class_path": "hetfed_lightning.Participant",
    "init_args": {
        "backbone": {"class_path": "torch.nn.Linear", "init_args": {"in_features": 4, "out_features": 5}},
        "head": {"class_path": "torch.nn.Linear", "init_args": {"in_features": 5, "out_features": 3}},
        "own_prior": WEIGHT,
    },
}


def linear() -> hf.Federation:
    def member() -> hf.Participant:
        return hf.Participant(nn.Linear(4, 5), nn.Linear(5, 3), optimizer=sgd(), own_prior=WEIGHT)

    torch.manual_seed(0)
    return hf.Federation({"a": member(), "b": member()})


def figures_of(federation: hf.Federation, **settings: Any) -> dict[str, float]:
    found = trainer().test(federation, datamodule=tiny_data("ab"), verbose=False, **settings)
    return {key: value for row in found for key, value in row.items() if key != "step"}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, hf.Federation]:
    path, made = tmp_path_factory.mktemp("own_prior") / "run.ckpt", linear()
    fit(made, tiny_data("ab"), 1).save_checkpoint(path)
    return path, made


def test_class_shares_are_in_checkpoints_and_exports(saved: tuple[Path, hf.Federation], tmp_path: Path) -> None:
    path, made = saved
    expected = class_shares(torch.bincount(pair(examples(12))[1], minlength=3), 12, "multiclass")
    assert made["a"].class_shares == pytest.approx(expected)
    assert not [key for key in made.state_dict() if "shares" in key]
    assert figures_of(linear(), ckpt_path=path) == figures_of(made)
    config: dict[str, Any] = {"model": {"participants": dict.fromkeys("ab", MEMBER)}}
    folder = export_participant(config, str(path), "a", tmp_path / "a")
    inputs = examples(5, seed=7).inputs
    torch.testing.assert_close(load_participant(folder).predict(inputs), made["a"].predict(inputs))
    assert not torch.equal(made["a"].predict(inputs), made["a"].predict(inputs, scope="global"))
    (folder / "class_shares.yaml").write_text("class_shares: [1.5, 0.1]\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"class_shares.yaml: .*numbers in \(0, 1\) under .*Export again"):
        load_participant(folder)


def test_an_export_without_own_prior_tells_no_shares(saved: tuple[Path, hf.Federation], tmp_path: Path) -> None:
    member = MEMBER | {"init_args": {key: value for key, value in MEMBER["init_args"].items() if key != "own_prior"}}
    config: dict[str, Any] = {"model": {"participants": dict.fromkeys("ab", member)}}
    folder = export_participant(config, str(saved[0]), "a", tmp_path / "a")
    assert sorted(one.name for one in folder.iterdir()) == ["participant.yaml", "weights.safetensors"]


def test_a_checkpoint_without_shares_is_told_by_name(
    saved: tuple[Path, hf.Federation], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old = torch.load(saved[0], weights_only=True)
    del old["federation"]["own"]["b"]["class_shares"]
    torch.save(old, tmp_path / "old.ckpt")
    with caplog.at_level("WARNING", "hetfed_lightning"):
        figures_of(linear(), ckpt_path=tmp_path / "old.ckpt")
    assert "Answers of participant 'b' for own data are those for everyone's" in caplog.text


# Refused


class Uncounted(MulticlassTask):
    """A task that counts no classes."""

    def class_counts(self, target: Tensor, width: int) -> None:
        del target, width


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda: tiny_participant(own_prior=-0.5), "own_prior: expected a finite number of at least 0, got -0.5"),
        (lambda: tiny_participant(own_prior=math.inf), "own_prior: expected a finite number of at least 0, got inf"),
        (
            lambda: tiny_participant(task="regression", own_prior=0.5),
            "own_prior: 0.5 weighs the shares of classes, and outputs of kind 'regression' have none. Leave it out",
        ),
        (
            lambda: hf.Federation({"a": tiny_participant()}, student=tiny_participant(own_prior=0.5)),
            "student: own_prior=0.5 weighs the class shares of own training data, and the student has none",
        ),
        (
            lambda: fit(hf.Federation({"a": tiny_participant(task=Uncounted(), own_prior=0.5)}), tiny_data("a")),
            "participant 'a': own_prior=0.5 weighs its class shares, and Uncounted counts no classes",
        ),
        (
            lambda: under_own_prior(torch.zeros(2, 4), SHARES, 1.0, "multiclass"),
            r"expected 4 class shares for 4 output\(s\), got 3",
        ),
    ],
)
def test_refusals(made: Callable[[], Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        made()
