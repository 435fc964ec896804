import math
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hetfed_lightning.distillation import OutputKind
from hetfed_lightning.metrics import agreement_matrix, mean_agreement

KINDS: tuple[OutputKind, ...] = get_args(OutputKind)


def make_logits(kind: OutputKind, seed: int = 0, teachers: int = 4) -> Tensor:
    columns = 1 if kind == "binary" else 3
    return torch.randn(teachers, 10, columns, generator=torch.Generator().manual_seed(seed))


def test_multiclass_by_hand() -> None:
    # Classes said: (0, 1, 2, 0), (0, 1, 1, 1), (2, 2, 2, 2); in common 2, 1 and 0 of 4.
    said = torch.tensor([[0, 1, 2, 0], [0, 1, 1, 1], [2, 2, 2, 2]])
    matrix = agreement_matrix(torch.nn.functional.one_hot(said).float(), "multiclass")
    assert matrix.tolist() == [[1.0, 0.5, 0.25], [0.5, 1.0, 0.0], [0.25, 0.0, 1.0]]
    # (0.5 + 0.25 + 0) / 3
    assert mean_agreement(matrix) == pytest.approx(0.25)


def test_binary_and_multilabel_by_hand() -> None:
    # Signs (+ - + -) and (+ + + +): 2 of 4, whether of four samples or of two samples with two labels.
    values = torch.tensor([[1.0, -2.0, 3.0, -4.0], [9.0, 9.0, 9.0, 9.0]])
    assert agreement_matrix(values.reshape(2, 4, 1), "binary")[0, 1].item() == 0.5
    assert agreement_matrix(values.reshape(2, 2, 2), "multilabel")[0, 1].item() == 0.5


@given(st.integers(0, 1000))
def test_regression_agrees_with_numpy(seed: int) -> None:
    values = make_logits("regression", seed)
    expected = np.mean([np.corrcoef(values[:, :, c].double().numpy()) for c in range(3)], axis=0)
    np.testing.assert_allclose(agreement_matrix(values, "regression").numpy(), expected, atol=1e-12)


def test_regression_looks_past_scale_and_offset() -> None:
    values = make_logits("regression", teachers=1)
    both = torch.cat([values, 5 * values + torch.tensor([1.0, -2.0, 3.0]), -values])
    expected = torch.tensor([[1.0, 1, -1], [1, 1, -1], [-1, -1, 1]], dtype=torch.float64)
    torch.testing.assert_close(agreement_matrix(both, "regression"), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e6])
def test_a_constant_teacher_follows_nobody(constant: float) -> None:
    # In float64 the mean of a thousand times 0.1 is not 0.1, and what remains must not count as an opinion.
    steady = torch.full((2, 1000, 3), constant, dtype=torch.float64)
    moving = torch.arange(1000.0, dtype=torch.float64)[None, :, None].expand(1, -1, 3)
    values = torch.cat([moving, steady])
    assert agreement_matrix(values, "regression").tolist() == torch.eye(3).tolist()


@pytest.mark.parametrize("kind", KINDS)
@given(seed=st.integers(0, 1000))
def test_is_symmetric_with_ones_and_follows_the_order(kind: OutputKind, seed: int) -> None:
    logits = make_logits(kind, seed)
    matrix = agreement_matrix(logits, kind)
    assert matrix.shape == (4, 4)
    assert matrix.diagonal().tolist() == [1.0] * 4
    torch.testing.assert_close(matrix, matrix.T)
    assert bool((matrix.abs() <= 1).all())
    order = [2, 0, 3, 1]
    torch.testing.assert_close(agreement_matrix(logits[order], kind), matrix[order][:, order])
    assert mean_agreement(matrix[order][:, order]) == pytest.approx(mean_agreement(matrix))


@pytest.mark.parametrize("kind", KINDS)
def test_equal_teachers_agree(kind: OutputKind) -> None:
    matrix = agreement_matrix(make_logits(kind, teachers=1).repeat(3, 1, 1), kind)
    assert mean_agreement(matrix) == pytest.approx(1.0)


def test_a_single_teacher_agrees_with_itself() -> None:
    assert mean_agreement(torch.ones(1, 1)) == 1.0


@pytest.mark.parametrize("shape", [(4, 3), (0, 4, 3), (2, 0, 3)])
def test_refuses_logits_of_another_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="K teachers, N samples, C outputs"):
        agreement_matrix(torch.zeros(shape), "multiclass")


def test_refuses_columns_that_do_not_fit_the_kind() -> None:
    with pytest.raises(ValueError, match="binary outputs"):
        agreement_matrix(torch.zeros(2, 4, 3), "binary")


def test_refuses_logits_that_are_not_finite() -> None:
    logits = torch.zeros(3, 4, 2)
    logits[2, 0, 0] = math.nan
    with pytest.raises(ValueError, match=r"teachers at index \[2\]"):
        agreement_matrix(logits, "multiclass")


@pytest.mark.parametrize("shape", [(2,), (0, 0), (2, 3)])
def test_refuses_what_is_no_square(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="square matrix"):
        mean_agreement(torch.ones(shape))
