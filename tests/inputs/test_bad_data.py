"""Data that does not fit is refused before the first step, by participant, with what was found and what to change."""

import logging
from collections.abc import Iterator
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from hetfed_lightning import EnsembleDistillation, FederatedDataModule, Federation, Participant
from hetfed_lightning.backbones import ConvBackbone, MLPBackbone
from hetfed_lightning.data import DataError, Examples
from tests.federations import (
    Listed,
    equal,
    examples,
    fit,
    state_of,
    tiny_federation,
    trainer,
)

pytestmark = pytest.mark.promise("bad data")

NAN, INF = float("nan"), float("inf")


def refused(federation: Federation, data: Any, words: str, error: type[Exception] = ValueError, **trainer: Any) -> None:
    """Fit raises ``error`` with ``words`` and has changed nothing."""
    before = state_of(federation)
    with pytest.raises(error, match=words):
        fit(federation, data, 1, **trainer)
    assert equal(before, state_of(federation))


def module(second: Dataset[Any], **settings: Any) -> FederatedDataModule:
    """Data of which the second participant's training set is given."""
    return FederatedDataModule({"a": examples(8), "b": second}, batch_size=4, **settings)


def labelled(targets: Any) -> Examples:
    return Examples(torch.zeros(len(targets), 4), torch.as_tensor(targets))


# Shapes


def test_images_of_another_size() -> None:
    members = {"a": Participant(ConvBackbone(width=4, out_features=8), nn.Linear(8, 3))}
    data = FederatedDataModule({"a": Examples(torch.zeros(4, 1, 8, 8), torch.arange(4) % 3)}, batch_size=2)
    refused(
        Federation(members), data,
        r"participant 'a' cannot take its training data: .*\(1, 1, 8, 8\) .*set in_channels=1 and image_size=8",
    )  # fmt: skip


def test_another_number_of_features() -> None:
    members = {"a": Participant(MLPBackbone(7, (4,), 5), nn.Linear(5, 3))}
    data = FederatedDataModule({"a": examples(8)}, batch_size=4)
    refused(Federation(members), data, r"participant 'a' cannot take its training data: .*\(1, 4\) .*set in_features=4")


def test_a_head_that_does_not_fit_its_backbone() -> None:
    federation = Federation({"a": Participant(nn.Linear(4, 5), nn.Linear(6, 3))})
    refused(federation, FederatedDataModule({"a": examples(8)}), "participant 'a' cannot take its training data")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"val": {"b": examples(4, features=5)}},
            r"participant 'b' cannot take its validation set: inputs of shape \(1, 5\)",
        ),
        (
            {"test": {"b": examples(4, features=5)}},
            r"participant 'b' cannot take its test set: inputs of shape \(1, 5\)",
        ),
        ({"global_val": examples(4, features=5)}, "participant 'a' cannot take everyone's validation set"),
        ({"global_test": examples(4, features=5)}, "participant 'a' cannot take everyone's test set"),
    ],
)
def test_evaluation_sets_of_another_shape(settings: dict[str, Any], words: str) -> None:
    refused(tiny_federation("ab"), module(examples(8), **settings), words)


def test_a_forward_that_gives_no_tensor() -> None:
    class Pair(nn.Module):
        def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
            return inputs, inputs

    federation = Federation({"a": Participant(nn.Linear(4, 3), Pair())})
    data = FederatedDataModule({"a": examples(4)})
    refused(federation, data, r"participant 'a': expected forward to give a tensor \(B, C\), got tuple")


# Labels


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        ([0, 1, 2, 3], "participant 'b': expected labels from 0 to 2, got 0 to 3 in its training set"),
        ([0, 1, -1, 2], "participant 'b': expected labels from 0 to 2, got -1 to 2"),
        ([5, 0, 1, 2], r"participant 'b': expected labels from 0 to 2, got 5 to 5 \(first training example\)"),
        ([0.0, 1.0, 2.0, 1.0], "participant 'b': expected integer class labels, got float32"),
        ([[0, 1], [1, 0]], "participant 'b': expected one label per example, got targets of shape"),
    ],
)
def test_labels_that_are_no_classes(targets: Any, words: str) -> None:
    refused(tiny_federation("ab"), module(labelled(targets)), words)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"val": {"b": labelled([0, 3])}},
            "participant 'b': expected labels from 0 to 2, got 0 to 3 in its validation set",
        ),
        ({"test": {"b": labelled([0, 3])}}, "participant 'b': .*got 0 to 3 in its test set"),
        ({"global_val": labelled([0, 3])}, "participant 'a': .*got 0 to 3 in everyone's validation set"),
        ({"global_test": labelled([0, 3])}, "participant 'a': .*got 0 to 3 in everyone's test set"),
    ],
)
def test_labels_of_evaluation_sets(settings: dict[str, Any], words: str) -> None:
    refused(tiny_federation("ab"), module(examples(8), **settings), words)


@pytest.mark.parametrize(
    ("task", "outputs", "targets", "words"),
    [
        ("binary", 1, [0, 1, 2], "participant 'a': expected targets 0 or 1, got 2 in its training set"),
        ("binary", 2, [0, 1, 1], "expected a head with 1 output for a binary task, got 2"),
        ("multilabel", 2, [[0, 1, 1], [1, 0, 1]], r"expected targets of shape \(n, 2\), got \(1, 3\)"),
        ("regression", 2, [[1.0], [2.0]], r"expected 2 value\(s\) per example, as many as the head's outputs, got 1"),
    ],
)
def test_targets_of_other_tasks(task: Any, outputs: int, targets: Any, words: str) -> None:
    federation = Federation({"a": Participant(nn.Linear(4, outputs), task=task)})
    refused(federation, FederatedDataModule({"a": labelled(targets)}), words)


def test_labels_that_are_loaded_one_by_one_name_the_participant_when_they_fail() -> None:
    # Reading every sample beforehand could take hours.
    with pytest.raises(IndexError, match="Target 3 is out of bounds") as caught:
        fit(tiny_federation("ab"), module(Listed(labelled([0, 1, 2, 3]))), 1)
    assert "participant 'b', round 0, batch 0" in caught.value.__notes__


def test_a_single_class_is_trained_on_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "hetfed_lightning"):
        fit(tiny_federation("ab"), module(labelled([1, 1, 1, 1])), 1)
    assert "participant 'b': its 4 training examples are all of class 1" in caplog.text
    assert "participant 'a'" not in caplog.text


# Numbers


@pytest.mark.parametrize("value", [NAN, INF])
def test_numbers_that_are_not_finite(value: float) -> None:
    inputs = torch.zeros(5, 4)
    inputs[3, 2] = value
    with pytest.raises(
        DataError, match=rf"inputs of shape \(5, 4\) have 1 value\(s\) .* \({value}\) at index \(3, 2\)"
    ):
        Examples(inputs, torch.zeros(5, dtype=torch.int64))


def test_a_target_of_a_regression_that_is_not_finite() -> None:
    federation = Federation({"a": Participant(nn.Linear(4, 1), task="regression")})
    few = TensorDataset(torch.zeros(3, 4), torch.tensor([1.0, 2.0, NAN]))
    words = "participant 'a': expected finite targets, got 1 that are not in its training set"
    refused(federation, FederatedDataModule({"a": Subset(few, range(3))}), words)
    with pytest.raises(DataError, match=r"training set of 'a': targets .* have 1 value"):
        FederatedDataModule({"a": few}).setup()


def test_tensors_that_are_not_finite_are_refused_by_name() -> None:
    poisoned = TensorDataset(torch.full((8, 4), NAN), torch.arange(8) % 3)
    with pytest.raises(DataError, match=r"training set of 'b': inputs .* have 32 value.* impute them or drop"):
        fit(tiny_federation("ab"), module(poisoned), 1)


def test_numbers_of_another_precision_are_told() -> None:
    doubles = Examples(torch.zeros(8, 4, dtype=torch.float64), torch.arange(8) % 3)
    refused(tiny_federation("ab"), module(doubles), r"participant 'b' cannot take.*inputs are float64: give float32")


def test_samples_that_are_not_finite_leave_their_participant_out(caplog: pytest.LogCaptureFixture) -> None:
    # Loaded one by one they are seen only when they are used.
    federation, clean = tiny_federation("ab"), tiny_federation("ab")
    before = state_of(federation["b"])
    poisoned = Subset(TensorDataset(torch.full((8, 4), NAN), torch.arange(8) % 3), range(8))
    with caplog.at_level(logging.WARNING, "hetfed_lightning"):
        fit(federation, module(poisoned), 1)
    fit(clean, module(examples(8)), 1)
    assert "participant 'b' is left out" in caplog.text
    assert equal(before, state_of(federation["b"]))
    assert equal(state_of(federation["a"]), state_of(clean["a"]))


# Sizes


def test_no_samples_at_all() -> None:
    with pytest.raises(DataError, match="expected at least one example"):
        labelled([])
    data = module(Subset(examples(8), []))
    refused(tiny_federation("ab"), data, "training set of 'b': the Subset to convert has no sample", DataError)


@pytest.mark.parametrize("count", [1, 3])
def test_fewer_samples_than_a_batch_are_enough(count: int) -> None:
    federation = tiny_federation("ab")
    before = state_of(federation["b"])
    fit(federation, module(labelled([0, 1, 2][:count])), 1)
    assert not equal(before, state_of(federation["b"]))


def test_fewer_samples_than_a_batch_with_drop_last() -> None:
    refused(
        tiny_federation("ab"), module(labelled([0, 1, 2]), drop_last=True),
        "participant 'b': 3 training examples make no batch of 4 with drop_last=True. Lower batch_size or set",
    )  # fmt: skip


@pytest.mark.parametrize(("count", "size"), [(9, 4), (1, 4), (3, 1)])
def test_batchnorm_with_a_batch_of_one(count: int, size: int) -> None:
    backbone = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5))
    federation = Federation({"a": Participant(backbone, nn.Linear(5, 3))})
    data = FederatedDataModule({"a": examples(count)}, batch_size=size)
    remedy = (
        "Use GroupNorm, or leave the participant out" if count == 1 else "Change batch_size, set drop_last or use Group"
    )
    refused(
        federation, data,
        rf"participant 'a': {count} examples in batches of {size} leave a batch of one, which its BatchNorm cannot "
        f"normalise.*{remedy}",
    )  # fmt: skip


def test_batchnorm_over_pixels_takes_a_batch_of_one() -> None:
    backbone = nn.Sequential(nn.Unflatten(1, (1, 2, 2)), nn.BatchNorm2d(1), nn.Flatten())
    fit(
        Federation({"a": Participant(backbone, nn.Linear(4, 3))}),
        FederatedDataModule({"a": examples(9)}, batch_size=4),
        1,
    )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"batch_size": 0}, "batch_size: expected an integer of at least 1, got 0"),
        ({"batch_size": -3}, "batch_size: .*got -3"),
        ({"batch_size": 2.5}, r"batch_size: .*got 2\.5"),
        ({"batch_size": True}, "batch_size: .*got True"),
        ({"batch_size": {"a": 0}}, "batch_size: .*got 0"),
        ({"eval_batch_size": 0}, "batch_size: .*got 0"),
        ({"num_workers": -1}, "num_workers: expected 0 or more, got -1"),
        ({"global_test": "poled"}, "global_test: expected a data set or 'pooled', got 'poled'"),
    ],
)
def test_settings_of_the_data_module(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        FederatedDataModule({"a": examples(4)}, **settings).setup()


def test_a_batch_size_by_participant_that_leaves_one_out() -> None:
    data = FederatedDataModule({"a": examples(8), "b": examples(8)}, batch_size={"a": 4})
    refused(tiny_federation("ab"), data, "batch_size: no entry for participant 'b'; it has a", DataError)


def test_pooling_sets_of_different_shapes() -> None:
    test = {"a": examples(4), "b": examples(4, features=5)}
    data = FederatedDataModule({"a": examples(4), "b": examples(4)}, test=test, global_test="pooled")
    refused(tiny_federation("ab"), data, r"cannot pool: inputs .*shape \(4,\) .* in a, shape \(5,\) .* in b", DataError)


def test_pooling_nothing() -> None:
    data = FederatedDataModule({"a": examples(4)}, global_val="pooled")
    refused(tiny_federation("a"), data, "nothing to pool: no participant has such a set", DataError)


# Names


def test_a_participant_without_data() -> None:
    words = r"Participant 'b' has no training set; there is 'a', 'other'"
    data = FederatedDataModule({"a": examples(4), "other": examples(4)})
    refused(tiny_federation("ab"), data, words)
    data = FederatedDataModule({"hospital_a": examples(4), "hospitalb": examples(4)})
    refused(
        tiny_federation(("hospital_a", "hospital_b")), data,
        "Participant 'hospital_b' has no training set; did you mean 'hospitalb'?",
    )  # fmt: skip


@pytest.mark.parametrize("which", ["train", "val", "test"])
def test_data_for_nobody(which: str) -> None:
    sets: dict[str, Any] = {"train": {"hospital_a": examples(4)}, "val": {}, "test": {}}
    sets[which]["hospital_x"] = examples(4)
    words = "There is data for 'hospital_x', but no such participant; did you mean 'hospital_a'?"
    refused(tiny_federation(("hospital_a",)), FederatedDataModule(**sets), words)


def test_a_transform_for_nobody() -> None:
    data = FederatedDataModule({"a": examples(4)}, transforms={"b": lambda inputs: inputs})
    refused(tiny_federation("a"), data, "transforms: no participant 'b'; there are a", DataError)


# Kinds of data


def test_no_data_in_the_data_module() -> None:
    words = r"FederatedDataModule: give train=\{'name': dataset, \.\.\.\}, or override load\(\)"
    refused(tiny_federation("a"), FederatedDataModule(), words, DataError)


def test_samples_without_targets() -> None:
    data = module(Examples(torch.zeros(4, 4)))
    refused(tiny_federation("ab"), data, r"participant 'b': its training set yields Tensor, expected \(input, target\)")


def test_samples_of_three_parts() -> None:
    data = module(TensorDataset(torch.zeros(4, 4), torch.zeros(4), torch.zeros(4)))
    refused(
        tiny_federation("ab"), data,
        "participant 'b': the first example of its training set cannot be read: sample 0 of TensorDataset: expected "
        r"\(input, label\) or an input, got 3 values",
    )  # fmt: skip


def test_a_dataset_without_a_length() -> None:
    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            return iter(())

    words = "training set of 'b': expected a map-style data set with a length, got Stream"
    refused(tiny_federation("ab"), module(Stream()), words, DataError)


class Plain(L.LightningDataModule):
    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(examples(8), batch_size=4)


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`:UserWarning")
@pytest.mark.parametrize("kind", ["DataLoader", "dict", "CombinedLoader", "LightningDataModule"])
def test_other_ways_to_give_data(kind: str) -> None:
    federation, made = tiny_federation("ab"), trainer(1, limit_val_batches=0)
    before = state_of(federation)
    loaders = {name: DataLoader(examples(8), batch_size=4) for name in "ab"}
    given: dict[str, Any] = {
        "DataLoader": loaders["a"],
        "dict": loaders,
        "CombinedLoader": CombinedLoader(loaders, "max_size"),
        "LightningDataModule": Plain(),
    }
    with pytest.raises(
        TypeError, match=r"trains on a FederatedDataModule, got \w+\. Pass datamodule=FederatedDataModule\("
    ):
        made.fit(federation, given[kind])
    assert equal(before, state_of(federation))


def test_a_public_set_of_no_samples() -> None:
    data = module(examples(8), public=Subset(examples(8), []))
    refused(tiny_federation("ab"), data, "public set: the Subset to convert has no sample", DataError)


def test_an_unlabelled_public_set_is_right() -> None:
    inputs = examples(6).inputs
    assert isinstance(inputs, Tensor)
    data = module(examples(8), public=Examples(inputs))
    made = trainer(1, EnsembleDistillation())
    made.fit(tiny_federation("ab"), datamodule=data)
    assert data.num_public == 6
