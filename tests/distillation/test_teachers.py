import dataclasses
import math

import pytest
import torch
from torch import Tensor

from hetfed_lightning.distillation import OutputKind, Teachers

NAMES = ("north", "south")


def test_keeps_what_it_is_given() -> None:
    logits, samples = torch.zeros(2, 5, 3), torch.tensor([10, 0])
    teachers = Teachers(logits, "multiclass", NAMES, samples=samples)
    assert teachers.logits is logits
    assert teachers.samples is samples
    assert teachers.class_counts is None


@pytest.mark.parametrize(
    ("kind", "columns", "classes"),
    [("multiclass", 3, 3), ("binary", 1, 2), ("multilabel", 3, 3), ("multilabel", 1, 1)],
)
def test_class_counts_have_a_column_per_class(kind: OutputKind, columns: int, classes: int) -> None:
    logits = torch.zeros(2, 5, columns)
    Teachers(logits, kind, NAMES, class_counts=torch.ones(2, classes))
    with pytest.raises(ValueError, match=rf"class_counts of shape \(2, {classes}\) beside {kind} logits"):
        Teachers(logits, kind, NAMES, class_counts=torch.ones(2, classes + 1))


def test_is_frozen() -> None:
    teachers = Teachers(torch.zeros(2, 5, 3), "multiclass", NAMES)
    with pytest.raises(dataclasses.FrozenInstanceError):
        teachers.kind = "regression"  # type: ignore[misc]


@pytest.mark.parametrize("shape", [(2, 3), (0, 5, 3), (2, 0, 3), (2, 5, 0), (2, 5, 3, 1)])
def test_refuses_logits_of_another_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"logits of shape \(K teachers, N samples, C outputs\)"):
        Teachers(torch.zeros(shape), "multiclass", NAMES)


def test_refuses_columns_that_do_not_fit_the_kind() -> None:
    with pytest.raises(ValueError, match=r"binary outputs of shape \(\.\.\., 1\), got \(2, 5, 3\)"):
        Teachers(torch.zeros(2, 5, 3), "binary", NAMES)


def test_refuses_classes_in_place_of_logits() -> None:
    with pytest.raises(ValueError, match=r"floating logits, got torch\.int64"):
        Teachers(torch.zeros(2, 5, 3, dtype=torch.int64), "multiclass", NAMES)


@pytest.mark.parametrize("lie", [math.nan, math.inf, -math.inf])
def test_refuses_logits_that_are_not_finite_by_name(lie: float) -> None:
    logits = torch.zeros(2, 5, 3)
    logits[1, 4, 2] = lie
    with pytest.raises(ValueError, match=r"logits that are finite, got others from \['south'\]: leave"):
        Teachers(logits, "multiclass", NAMES)


@pytest.mark.parametrize("names", [("north",), ("north", "south", "east")])
def test_refuses_names_that_do_not_match(names: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=f"expected 2 names.*got {len(names)}"):
        Teachers(torch.zeros(2, 5, 3), "multiclass", names)


def test_refuses_a_name_given_twice() -> None:
    with pytest.raises(ValueError, match="different names"):
        Teachers(torch.zeros(2, 5, 3), "multiclass", ("north", "north"))


@pytest.mark.parametrize(
    ("field", "values", "message"),
    [
        ("samples", torch.ones(3), r"samples of shape \(2,\).*got \(3,\)"),
        ("samples", torch.tensor([5.0, -9.0]), r"finite and not negative, got others from \['south'\]"),
        ("samples", torch.tensor([math.nan, 1.0]), r"samples that are finite.*others from \['north'\]"),
        ("samples", torch.zeros(2), "at least one teacher above 0"),
        ("class_counts", torch.tensor([[1.0, 1, 1], [1, -1, 1]]), r"class_counts .*others from \['south'\]"),
        ("scores", torch.tensor([[0.5, 0.5]]), r"scores of shape \(2,\).*got \(1, 2\)"),
        ("scores", torch.tensor([0.5, math.nan]), r"scores that are finite, got others from \['south'\]"),
    ],
)
def test_refuses_knowledge_that_does_not_fit(field: str, values: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Teachers(torch.zeros(2, 5, 3), "multiclass", NAMES, **{field: values})  # type: ignore[arg-type]


def test_refuses_class_counts_of_regression() -> None:
    with pytest.raises(ValueError, match="no class_counts for regression"):
        Teachers(torch.zeros(2, 5, 3), "regression", NAMES, class_counts=torch.ones(2, 3))
