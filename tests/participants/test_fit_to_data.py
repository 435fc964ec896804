"""What participants learn of their own data before training, and of nobody else's."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

import hetfed_lightning as hf
from hetfed_lightning.cli import load_participant
from hetfed_lightning.cli.export import export_participant
from hetfed_lightning.data import DataError, Examples
from hetfed_lightning.layers import Standardise
from hetfed_lightning.metrics import BalancedAccuracy
from hetfed_lightning.tasks import BinaryTask, MulticlassTask
from tests.federations import sgd
from tests.federations import trainer as quiet_trainer

SCALES = {"north": 1.0, "south": 100.0}


def flow(scale: float, count: int = 40, seed: int = 0) -> Examples:
    """A regression in a unit of its own: y = scale * (x0 + 2 x1) + 5 * scale, with a value missing."""
    inputs = torch.randn(count, 2, generator=torch.Generator().manual_seed(seed)) * scale
    targets = inputs @ torch.tensor([1.0, 2.0]) + 5 * scale
    return Examples(inputs, targets)


def participant() -> hf.Participant:
    return hf.Participant(
        nn.Linear(2, 4),
        nn.Linear(4, 1),
        task="regression",
        optimizer=lambda p: torch.optim.SGD(p, lr=0.1),
        transform=Standardise(2),
        target_transform=Standardise(),
    )


def fit(federation: hf.Federation, data: hf.FederatedDataModule, rounds: int = 1, **settings: Any) -> L.Trainer:
    defaults: dict[str, Any] = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "callbacks": [hf.BackboneAveraging()],
    }
    trainer = L.Trainer(max_epochs=rounds, **(defaults | settings))
    trainer.fit(federation, datamodule=data)
    return trainer


def data() -> hf.FederatedDataModule:
    return hf.FederatedDataModule(
        {name: flow(scale) for name, scale in SCALES.items()},
        {name: flow(scale, 30, seed=1) for name, scale in SCALES.items()},
    )


def test_everyone_learns_in_its_own_scale_and_is_measured_in_its_own_unit() -> None:
    L.seed_everything(0, verbose=False)
    federation = hf.Federation({name: participant() for name in SCALES})
    module = data()
    trainer = fit(federation, module, rounds=20)
    for name, scale in SCALES.items():
        own = federation[name].target_transform
        assert isinstance(own, Standardise)
        torch.testing.assert_close(own.mean, flow(scale).targets.mean())  # type: ignore[union-attr]
        metrics = trainer.callback_metrics
        assert metrics[f"val_r2/{name}"] > 0.99
        wanted, inputs = flow(scale, 30, seed=1).targets, flow(scale, 30, seed=1).inputs
        assert wanted is not None
        error = (federation[name].predict(inputs) - wanted).abs().mean()
        torch.testing.assert_close(metrics[f"val_mae/{name}"], error)
        assert error < 0.1 * scale * wanted.std() / scale


def test_a_fleet_trains_in_everyones_own_scale_too() -> None:
    def weights(engine: Any) -> torch.Tensor:
        L.seed_everything(0, verbose=False)
        federation = hf.Federation({name: participant() for name in SCALES}, engine=engine)
        fit(federation, data(), rounds=2)
        return torch.cat([parameter.detach().flatten() for parameter in federation.parameters()])

    torch.testing.assert_close(weights("batched"), weights("sequential"), rtol=1e-5, atol=1e-6)


def test_what_was_fitted_comes_back_with_a_checkpoint_and_is_shared_with_nobody(tmp_path: Path) -> None:
    federation = hf.Federation({name: participant() for name in SCALES})
    federation["north"].shared = federation["south"].shared = ("*",)
    assert not [key for key in federation["north"].shared_keys() if "transform" in key]
    trainer = fit(federation, data(), callbacks=[hf.BackboneAveraging(buffers="average")])
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    north, south = (federation[name].transform for name in SCALES)
    assert isinstance(north, Standardise)
    assert isinstance(south, Standardise)
    assert south.std[0] > 50 * north.std[0]
    other = hf.Participant.load_from_checkpoint(
        tmp_path / "run.ckpt",
        "south",
        backbone=nn.Linear(2, 4),
        head=nn.Linear(4, 1),
        task="regression",
        transform=Standardise(2),
        target_transform=Standardise(),
    )
    inputs = flow(100.0, 5, seed=2).inputs
    torch.testing.assert_close(other.predict(inputs), federation["south"].predict(inputs))


def test_a_set_that_is_read_sample_by_sample_is_fitted_to_as_well() -> None:
    class Samples(Dataset[Any]):
        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> Any:
            return torch.tensor([float(index), 0.0]), torch.tensor(float(index))

    one = participant()
    fit(hf.Federation({"north": one}), hf.FederatedDataModule({"north": Samples()}), callbacks=[])
    assert isinstance(one.transform, Standardise)
    assert one.transform.mean.tolist() == [1.5, 0.0]


def test_what_does_not_fit_is_named() -> None:
    one = hf.Participant(nn.Linear(2, 2), task="regression", transform=Standardise(3))
    with pytest.raises(ValueError, match=r"participant 'north': cannot be fitted .* shape \(N, 3\), got \(40, 2\)"):
        fit(hf.Federation({"north": one}), hf.FederatedDataModule({"north": flow(1.0)}), callbacks=[])


def test_nan_is_a_missing_value_where_that_is_said() -> None:
    inputs = torch.tensor([[1.0, float("nan")]])
    with pytest.raises(DataError, match=r"not finite, the first \(nan\).*say missing=True"):
        Examples(inputs, torch.tensor([0]))
    assert len(Examples(inputs, torch.tensor([0]), missing=True)) == 1
    with pytest.raises(DataError, match=r"not finite, the first \(inf\)"):
        Examples(torch.tensor([[float("inf")]]), missing=True)
    with pytest.raises(DataError, match="targets"):
        Examples(torch.zeros(1, 1), torch.tensor([float("nan")]), missing=True)


# Several inputs


def test_backbone_and_branches_read_an_input_each() -> None:
    head = nn.Linear(3, 1, bias=False)
    nn.init.ones_(head.weight)
    backbone, branch = nn.Linear(1, 1, bias=False), nn.Identity()
    nn.init.constant_(backbone.weight, 10.0)
    one = hf.MultiInputParticipant(backbone, head, reads="image", branches={"genes": branch}, task="binary")
    # 10 * 2 + (3 + 4)
    inputs = {"image": torch.tensor([[2.0]]), "genes": torch.tensor([[3.0, 4.0]]), "age": torch.tensor([[9.0]])}
    assert one(inputs).tolist() == [[27.0]]
    assert one.shared_keys() == ["backbone.weight"]
    with pytest.raises(ValueError, match="branches: 'image' is what the backbone reads"):
        hf.MultiInputParticipant(backbone, head, reads="image", branches={"image": branch})


# Metrics


def test_balanced_accuracy_by_hand() -> None:
    # Two of four positives found, one of one negative: (1/2 + 1) / 2.
    metric = BalancedAccuracy()
    metric.update(torch.tensor([0.9, 0.6, 0.4, 0.1, 0.2]), torch.tensor([1, 1, 1, 1, 0]))
    assert float(metric.compute()) == pytest.approx(0.75)
    one_class = BalancedAccuracy()
    one_class.update(torch.tensor([0.9]), torch.tensor([1]))
    assert bool(torch.isnan(one_class.compute()))


# Class weights


MEMBER = {
    "class_path": "hetfed_lightning.Participant",
    "init_args": {
        "backbone": {"class_path": "torch.nn.Linear", "init_args": {"in_features": 2, "out_features": 2}},
        "head": {"class_path": "torch.nn.Linear", "init_args": {"in_features": 2, "out_features": 3}},
        "task": {"class_path": "hetfed_lightning.tasks.MulticlassTask", "init_args": {"class_weights": "balanced"}},
    },
}
# a: 4 / (2 * 3) and 4 / (2 * 1), and nothing of class 2; b: 4 / (3 * count).
CLASSES = {"a": [0, 0, 0, 1], "b": [0, 1, 2, 2]}
WEIGHTS = {"a": [2 / 3, 2.0], "b": [4 / 3, 4 / 3, 2 / 3]}


def classifiers() -> hf.Federation:
    torch.manual_seed(0)
    return hf.Federation(
        {
            name: hf.Participant(
                nn.Linear(2, 2),
                nn.Linear(2, 3),
                shared=("*",),
                optimizer=sgd(),
                task=MulticlassTask(class_weights="balanced"),
            )
            for name in CLASSES
        }
    )


def classes(val: dict[str, list[int]] | None = None) -> hf.FederatedDataModule:
    def sets(of: dict[str, list[int]], seed: int) -> dict[str, Dataset[Any]]:
        stream = torch.Generator().manual_seed(seed)
        return {
            name: Examples(torch.randn(len(own), 2, generator=stream), torch.tensor(own)) for name, own in of.items()
        }

    some = {"a": [0, 1, 1], "b": [0, 1, 2]}
    return hf.FederatedDataModule(sets(CLASSES, 0), sets(val or some, 1), sets(some, 2), batch_size=2)


@pytest.fixture(scope="module")
def weighed_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, hf.Federation]:
    folder, federation = tmp_path_factory.mktemp("weighed"), classifiers()
    fit(federation, classes()).save_checkpoint(folder / "run.ckpt")
    return folder / "run.ckpt", federation


def loss_of(federation: hf.Federation, **settings: Any) -> dict[str, float]:
    found = quiet_trainer(1, hf.BackboneAveraging()).test(federation, datamodule=classes(), verbose=False, **settings)[
        0
    ]
    return {name: found[f"test_loss/{name}"] for name in CLASSES}


def test_class_weights_come_back_with_a_checkpoint_and_an_export(
    weighed_run: tuple[Path, hf.Federation], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, trained = weighed_run
    own = torch.load(path, weights_only=True)["federation"]["own"]
    assert {name: own[name]["task"]["class_weights"] for name in CLASSES} == {
        name: pytest.approx(weights) for name, weights in WEIGHTS.items()
    }
    assert not [key for key in trained.state_dict() if "weights" in key or "task" in key]
    with caplog.at_level("WARNING", "hetfed_lightning"):
        assert loss_of(classifiers(), ckpt_path=path) == loss_of(trained)
    assert "class weights" not in caplog.text
    config: dict[str, Any] = {"model": {"participants": dict.fromkeys(CLASSES, MEMBER)}}
    folder = export_participant(config, str(path), "a", tmp_path / "a")
    alone, task = load_participant(folder), trained["a"].task
    assert torch.equal(alone.task.get_buffer("class_weights"), task.get_buffer("class_weights").cpu())
    (folder / "task.yaml").write_text("class_weights: [1.0, .nan]\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"task.yaml: .*finite weights .* under 'class_weights'.*Export again"):
        load_participant(folder)


def test_a_checkpoint_without_class_weights_loads_and_says_whose_loss_is_unweighted(
    weighed_run: tuple[Path, hf.Federation], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, trained = weighed_run
    old = torch.load(path, weights_only=True)
    for name in CLASSES:
        del old["federation"]["own"][name]["task"]
    torch.save(old, tmp_path / "old.ckpt")
    with caplog.at_level("WARNING", "hetfed_lightning"):
        assert loss_of(classifiers(), ckpt_path=tmp_path / "old.ckpt") != loss_of(trained)
    assert "The loss of participant 'a', participant 'b' is measured without the class weights" in caplog.text


def test_balanced_binary_weights_are_taken_up() -> None:
    task, other = (BinaryTask(class_weights="balanced") for _ in range(2))
    assert task.learned() is None
    task.fit(torch.tensor([0, 1, 1, 1]))
    other.take_up(task.learned() or {})
    assert torch.equal(other.balance, task.balance)
    assert other.learned() == task.learned()
    with pytest.raises(ValueError, match="expected 2 weights under 'class_weights', got 1"):
        other.take_up({"class_weights": [1.0]})
    # Of positives alone, negatives weigh nothing.
    task.fit(torch.tensor([1, 1]))
    assert [task.weighed(torch.tensor(own)) for own in ([0, 0], [0, 1])] == [0, 2]


@pytest.mark.parametrize("engine", ["sequential", "batched"])
def test_batches_of_classes_without_weight_do_not_count(engine: Any, caplog: pytest.LogCaptureFixture) -> None:
    federation = classifiers()
    federation.engine = engine
    # a: batches (2, 2) and (0, 2); only one example has a weight, and alone it makes the loss.
    metrics = fit(federation, classes({"a": [2, 2, 0, 2], "b": [0, 1]})).callback_metrics
    data = classes({"a": [2, 2, 0, 2], "b": [0, 1]}).data.val["a"]
    with torch.no_grad():
        wanted = nn.functional.cross_entropy(federation["a"](data.inputs[2:3]), torch.tensor([0]))  # type: ignore[attr-defined]
    torch.testing.assert_close(metrics["val_loss/a"], wanted)
    assert torch.isfinite(metrics["federation/val_loss_mean"])
    with caplog.at_level("WARNING", "hetfed_lightning"):
        metrics = fit(federation, classes({"a": [2, 2, 2], "b": [0, 1]})).callback_metrics
    assert "val_loss is undefined on the validation data of 'a' (none of its examples has a weight)" in caplog.text
    assert metrics["federation/val_loss_mean"] == metrics["federation/val_loss_worst"] == metrics["val_loss/b"]
