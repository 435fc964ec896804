"""Each ensemble on numbers small enough to check on paper; what all share is in test_every_ensemble.py."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hetfed_lightning.distillation import (
    ClassPriorWeighted,
    ClippedLogits,
    GeometricMedianProbabilities,
    MeanLogits,
    MeanProbabilities,
    MedianProbabilities,
    OutputKind,
    SampleWeighted,
    Teachers,
    TrimmedProbabilities,
    ValidationWeighted,
    soften,
)


def saying(
    *probabilities: list[float], kind: OutputKind = "multiclass", **known: Sequence[float | Sequence[float]]
) -> Teachers:
    """Teachers that at temperature 1 give one sample these probabilities (or values, for regression)."""
    said = torch.tensor(probabilities, dtype=torch.float64)[:, None, :]
    logits = {"multiclass": said.log(), "regression": said}.get(kind, said.logit())
    fields: dict[str, Any] = {name: torch.tensor(values) for name, values in known.items()}
    return Teachers(logits, kind, tuple(f"teacher{k}" for k in range(len(said))), **fields)


def expect(actual: Tensor, *row: float) -> None:
    torch.testing.assert_close(actual, torch.tensor([row], dtype=torch.float64))


def expect_close(actual: Tensor, *row: float) -> None:
    torch.testing.assert_close(actual, torch.tensor([row], dtype=torch.float64), rtol=1e-3, atol=1e-3)


def test_mean_probabilities() -> None:
    # (0.9 + 0.5) / 2, (0.1 + 0.5) / 2
    expect(MeanProbabilities()(saying([0.9, 0.1], [0.5, 0.5]), 1.0), 0.7, 0.3)
    expect(MeanProbabilities()(saying([2.0, 8.0], [4.0, 0.0], kind="regression"), 1.0), 3.0, 4.0)


def test_mean_probabilities_softens_each_teacher_first() -> None:
    # At temperature 2: sqrt(0.9) : sqrt(0.1) = 3 : 1 and 1 : 1; (3/4 + 1/2) / 2 = 5/8.
    expect(MeanProbabilities()(saying([0.9, 0.1], [0.5, 0.5]), 2.0), 0.625, 0.375)


def test_mean_logits_is_the_geometric_mean() -> None:
    # sqrt(0.9 * 0.5) : sqrt(0.1 * 0.5) = 3 : 1
    expect(MeanLogits()(saying([0.9, 0.1], [0.5, 0.5]), 1.0), 0.75, 0.25)


def test_sample_weighted() -> None:
    # (3 * 0.9 + 1 * 0.5) / 4 = 0.8
    expect(SampleWeighted()(saying([0.9, 0.1], [0.5, 0.5], samples=[30, 10]), 1.0), 0.8, 0.2)


def test_validation_weighted() -> None:
    teachers = saying([0.9, 0.1], [0.5, 0.5], scores=[0.9, 0.3])
    # Weights 3 : 1, then 9 : 1, then 1 : 1.
    expect(ValidationWeighted()(teachers, 1.0), 0.8, 0.2)
    expect(ValidationWeighted(sharpness=2.0)(teachers, 1.0), 0.86, 0.14)
    expect(ValidationWeighted(sharpness=0.0)(teachers, 1.0), 0.7, 0.3)


def test_validation_weighted_without_any_merit_is_the_mean() -> None:
    expect(ValidationWeighted()(saying([0.9, 0.1], [0.5, 0.5], scores=[0.0, 0.0]), 1.0), 0.7, 0.3)


def test_a_very_sharp_validation_leaves_the_best() -> None:
    # 0.5 ** 2000 and 0.4 ** 2000 are both zero in floating point; their ratio is not.
    teachers = saying([0.9, 0.1], [0.5, 0.5], scores=[0.5, 0.4])
    expect(ValidationWeighted(sharpness=2000.0)(teachers, 1.0), 0.9, 0.1)


def test_class_prior_weighted_multiclass() -> None:
    # Class 0: weights 30/40 and 10/40, 0.75 * 0.6 + 0.25 * 0.2 = 0.5. Class 1: weights 0 and 1, 0.5.
    # Class 2: nobody has it, 1/2 each, (0.1 + 0.3) / 2 = 0.2. Divided by their sum 1.2.
    teachers = saying([0.6, 0.3, 0.1], [0.2, 0.5, 0.3], class_counts=[[30, 0, 0], [10, 20, 0]])
    expect(ClassPriorWeighted()(teachers, 1.0), 5 / 12, 5 / 12, 2 / 12)


def test_class_prior_weighted_with_smoothing() -> None:
    # Weights (30 + 10)/(40 + 20) = 2/3 and 1/3; (0 + 10)/(20 + 20) = 1/4 and 3/4.
    # 2/3 * 0.6 + 1/3 * 0.3 = 0.5; 1/4 * 0.4 + 3/4 * 0.7 = 0.625; sum 1.125.
    teachers = saying([0.6, 0.4], [0.3, 0.7], class_counts=[[30, 0], [10, 20]])
    expect(ClassPriorWeighted(smoothing=10)(teachers, 1.0), 0.5 / 1.125, 0.625 / 1.125)


def test_class_prior_weighted_binary_is_two_classes() -> None:
    # Negatives: 0.75 * 0.4 + 0.25 * 0.8 = 0.5. Positives: 0 * 0.6 + 1 * 0.2 = 0.2. 0.2 / 0.7.
    teachers = saying([0.6], [0.2], kind="binary", class_counts=[[30, 0], [10, 20]])
    expect(ClassPriorWeighted()(teachers, 1.0), 2 / 7)


def test_class_prior_weighted_multilabel_goes_label_by_label() -> None:
    # 0.75 * 0.6 + 0.25 * 0.2 = 0.5; 0 * 0.9 + 1 * 0.8 = 0.8; nothing is normalised.
    teachers = saying([0.6, 0.9], [0.2, 0.8], kind="multilabel", class_counts=[[30, 0], [10, 20]])
    expect(ClassPriorWeighted()(teachers, 1.0), 0.5, 0.8)


def test_class_prior_weighted_hears_who_knows_the_class() -> None:
    # The second teacher alone has seen class 1; the others exclude it.
    known = [[50, 0], [50, 50], [50, 0]]
    teachers = saying([0.99, 0.01], [0.2, 0.8], [0.99, 0.01], class_counts=known)
    assert MeanProbabilities()(teachers, 1.0).argmax().item() == 0
    assert ClassPriorWeighted()(teachers, 1.0).argmax().item() == 1


def test_median_probabilities() -> None:
    # Odd: the middle ones, 0.6 and 0.4.
    expect(MedianProbabilities()(saying([0.6, 0.4], [0.7, 0.3], [0.01, 0.99]), 1.0), 0.6, 0.4)
    # Even: (0.2 + 0.4) / 2 = 0.3 and (0.6 + 0.8) / 2 = 0.7.
    expect(MedianProbabilities()(saying([0.2, 0.8], [0.4, 0.6]), 1.0), 0.3, 0.7)
    # Three classes: medians 0.5, 0.3 and 0.1, divided by their sum 0.9.
    teachers = saying([0.5, 0.4, 0.1], [0.6, 0.3, 0.1], [0.1, 0.1, 0.8])
    expect(MedianProbabilities()(teachers, 1.0), 5 / 9, 3 / 9, 1 / 9)
    expect(MedianProbabilities()(saying([1.0], [3.0], [1e9], kind="regression"), 1.0), 3.0)


def test_median_of_teachers_that_agree_on_nothing_is_equal() -> None:
    logits = 1e4 * torch.eye(3)[:, None, :]
    target = MedianProbabilities()(Teachers(logits, "multiclass", ("a", "b", "c")), 1.0)
    torch.testing.assert_close(target, torch.full((1, 3), 1 / 3))


@given(st.integers(1, 8), st.integers(0, 1000))
def test_median_probabilities_agree_with_numpy(count: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, 4, 3, generator=generator, dtype=torch.float64)
    median = np.median(soften(logits, 2.0, "multiclass").numpy(), axis=0)
    target = MedianProbabilities()(Teachers(logits, "multiclass", tuple(map(str, range(count)))), 2.0)
    np.testing.assert_allclose(target.numpy(), median / median.sum(axis=-1, keepdims=True), rtol=1e-12)


def test_trimmed_probabilities() -> None:
    # One of four dropped at each side: (0.6 + 0.7) / 2 and (0.3 + 0.4) / 2.
    expect(TrimmedProbabilities(0.25)(saying([0.6, 0.4], [0.7, 0.3], [0.9, 0.1], [0.2, 0.8]), 1.0), 0.65, 0.35)
    # Of three classes: 0.5, 0.3 and 0.1 are left of three teachers, divided by their sum 0.9.
    teachers = saying([0.5, 0.4, 0.1], [0.6, 0.3, 0.1], [0.1, 0.1, 0.8])
    expect(TrimmedProbabilities(0.1)(teachers, 1.0), 5 / 9, 3 / 9, 1 / 9)
    expect(TrimmedProbabilities(0.25)(saying([1.0], [3.0], [5.0], [1e9], kind="regression"), 1.0), 4.0)


@given(st.integers(1, 8), st.integers(0, 1000))
def test_trimmed_lies_between_mean_and_median(count: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, 4, 3, generator=generator, dtype=torch.float64)
    teachers = Teachers(logits, "multiclass", tuple(map(str, range(count))))
    torch.testing.assert_close(TrimmedProbabilities(0.0)(teachers, 2.0), MeanProbabilities()(teachers, 2.0))
    torch.testing.assert_close(TrimmedProbabilities(0.499)(teachers, 2.0), MedianProbabilities()(teachers, 2.0))


def test_geometric_median_probabilities() -> None:
    # On a line it is the median, here of three and of values.
    expect_close(GeometricMedianProbabilities()(saying([0.6, 0.4], [0.7, 0.3], [0.01, 0.99]), 1.0), 0.6, 0.4)
    expect_close(GeometricMedianProbabilities()(saying([1.0], [3.0], [1e9], kind="regression"), 1.0), 3.0)
    # Three who are sure of another class each: the centre of the triangle.
    corners = [0.98, 0.01, 0.01], [0.01, 0.98, 0.01], [0.01, 0.01, 0.98]
    expect_close(GeometricMedianProbabilities()(saying(*corners), 1.0), 1 / 3, 1 / 3, 1 / 3)


def test_the_geometric_median_hears_who_the_median_silences() -> None:
    # Of three classes each of five teachers rules out another one or two: all medians are small, and which is largest
    # says little; whole answers lie nearest to class 0, which two are sure of.
    teachers = saying(
        [0.96, 0.02, 0.02], [0.96, 0.02, 0.02], [0.02, 0.96, 0.02], [0.02, 0.02, 0.96], [0.36, 0.32, 0.32]
    )
    assert GeometricMedianProbabilities()(teachers, 1.0).argmax().item() == 0


@given(st.integers(2, 9), st.integers(0, 1000))
def test_no_answer_has_a_smaller_sum_of_distances(count: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(count, 4, 3, generator=generator, dtype=torch.float64)
    teachers = Teachers(logits, "multiclass", tuple(map(str, range(count))))
    answers = soften(logits, 1.0, "multiclass")

    def sums(target: Tensor) -> Tensor:
        distances: Tensor = torch.linalg.vector_norm(answers - target, dim=-1)
        return distances.sum(dim=0)

    found = sums(GeometricMedianProbabilities()(teachers, 1.0))
    for other in (*answers, MeanProbabilities()(teachers, 1.0), MedianProbabilities()(teachers, 1.0)):
        assert bool((found <= sums(other) * (1 + 5e-3)).all())


def test_clipped_logits() -> None:
    # Sizes sqrt(2) * (1, 2, 500): the usual one is the second's, to which the third is cut.
    # Means: (1 + 2 - 2) / 3 = 1/3 and -1/3.
    logits = torch.tensor([[1.0, -1.0], [3.0, -1.0], [-400.0, 600.0]], dtype=torch.float64)[:, None, :]
    target = ClippedLogits()(Teachers(logits, "multiclass", ("a", "b", "c")), 2.0)
    expect(target, *torch.softmax(torch.tensor([1 / 6, -1 / 6]), dim=0).tolist())
    # One by one where classes do not compete: 4 is cut to 2 (label 0), -9 to -5 (label 1).
    logits = torch.tensor([[1.0, 3.0], [2.0, 5.0], [4.0, -9.0]], dtype=torch.float64)[:, None, :]
    target = ClippedLogits()(Teachers(logits, "multilabel", ("a", "b", "c")), 1.0)
    expect(target, *torch.sigmoid(torch.tensor([5 / 3, 1.0], dtype=torch.float64)).tolist())


def test_clipped_logits_do_not_see_a_shift_nor_a_size_beyond_the_usual() -> None:
    logits = torch.randn(5, 7, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    louder = logits.clone()
    louder[0] = 1e3 * (louder[0] - louder[0].mean(-1, keepdim=True)) + 17.0
    loudest = louder.clone()
    loudest[0] *= 1e300
    names = tuple("abcde")
    loud, shrill = (ClippedLogits()(Teachers(one, "multiclass", names), 2.0) for one in (louder, loudest))
    torch.testing.assert_close(loud, shrill)
    shifted = ClippedLogits()(Teachers(logits + 5.0, "multiclass", names), 2.0)
    torch.testing.assert_close(shifted, ClippedLogits()(Teachers(logits, "multiclass", names), 2.0))


def test_refuses_what_has_no_usual_size() -> None:
    with pytest.raises(ValueError, match="ClippedLogits expects logits, got regression: use Median"):
        ClippedLogits()(saying([1.0], [2.0], kind="regression"), 1.0)


@pytest.mark.parametrize("trim", [-0.1, 0.5, math.nan])
def test_refuses_to_trim_everybody(trim: float) -> None:
    with pytest.raises(ValueError, match=rf"trim in \[0, 0.5\).*got {trim}: .*MedianProbabilities"):
        TrimmedProbabilities(trim)


def test_three_liars_of_ten() -> None:
    # Sure of class 1 with logits a thousand times larger: they own the mean of logits, not the median.
    logits = torch.tensor([[2.0, 0.0]] * 7 + [[0.0, 2000.0]] * 3)[:, None, :]
    teachers = Teachers(logits, "multiclass", tuple(map(str, range(10))))
    assert MeanLogits()(teachers, 2.0).argmax().item() == 1
    robust_ones = MedianProbabilities(), GeometricMedianProbabilities(), TrimmedProbabilities(0.3), ClippedLogits()
    for robust in robust_ones:
        assert robust(teachers, 2.0).argmax().item() == 0


def test_refuses_scores_that_are_losses_by_name() -> None:
    with pytest.raises(ValueError, match=r"'teacher1'.*score in \[0, 1\].*got 2\.5"):
        ValidationWeighted()(saying([0.9, 0.1], [0.5, 0.5], scores=[0.5, 2.5]), 1.0)


def test_refuses_classes_in_regression() -> None:
    with pytest.raises(ValueError, match="got regression: use SampleWeighted"):
        ClassPriorWeighted()(saying([1.0], [2.0], kind="regression"), 1.0)


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_refuses_settings_out_of_range(value: float) -> None:
    with pytest.raises(ValueError, match=f"finite smoothing of at least 0 samples, got {value}"):
        ClassPriorWeighted(smoothing=value)
    with pytest.raises(ValueError, match=f"finite sharpness of at least 0, got {value}"):
        ValidationWeighted(sharpness=value)


def test_says_how_to_get_what_is_missing() -> None:
    teachers = saying([0.9, 0.1], [0.5, 0.5])
    with pytest.raises(ValueError, match="SampleWeighted needs the teachers' samples, got None: pass each"):
        SampleWeighted()(teachers, 1.0)
    with pytest.raises(ValueError, match="ClassPriorWeighted needs the teachers' class_counts, got None: pass"):
        ClassPriorWeighted()(teachers, 1.0)
    with pytest.raises(ValueError, match="ValidationWeighted needs the teachers' scores, got None: run valid"):
        ValidationWeighted()(teachers, 1.0)
