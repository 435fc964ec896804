import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from hetfed_lightning.distillation import OutputKind, check_temperature, renormalise, soften

LOGITS = st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=6)
TEMPERATURES = st.floats(0.05, 100)


def test_by_hand() -> None:
    # exp(log 4 / 2) : exp(log 1 / 2) = 2 : 1
    logits = torch.tensor([[math.log(4.0), 0.0]])
    torch.testing.assert_close(soften(logits, 2.0, "multiclass"), torch.tensor([[2 / 3, 1 / 3]]))
    # sigmoid(log 9 / 2) = 3 / (3 + 1)
    torch.testing.assert_close(soften(torch.tensor([[math.log(9.0)]]), 2.0, "binary"), torch.tensor([[0.75]]))


@given(LOGITS, TEMPERATURES)
def test_agrees_with_scipy(values: list[float], temperature: float) -> None:
    logits = torch.tensor([values], dtype=torch.float64)
    scaled = np.array([values]) / temperature
    softmax, sigmoid = soften(logits, temperature, "multiclass"), soften(logits, temperature, "multilabel")
    np.testing.assert_allclose(softmax.numpy(), special.softmax(scaled, axis=-1), atol=1e-12)
    np.testing.assert_allclose(sigmoid.numpy(), special.expit(scaled), atol=1e-12)


@given(LOGITS, TEMPERATURES)
def test_probabilities_sum_to_one(values: list[float], temperature: float) -> None:
    total = soften(torch.tensor([values]), temperature, "multiclass").sum()
    assert total.item() == pytest.approx(1.0, abs=1e-6)


def test_a_higher_temperature_is_softer() -> None:
    logits = torch.tensor([[3.0, 1.0, 0.0]])
    peaks = [soften(logits, temperature, "multiclass").max().item() for temperature in (0.5, 1, 2, 4, 1e6)]
    assert peaks == sorted(peaks, reverse=True)
    assert peaks[-1] == pytest.approx(1 / 3, abs=1e-5)


def test_regression_is_unchanged() -> None:
    values = torch.tensor([[-3.0, 70.0]])
    assert torch.equal(soften(values, 5.0, "regression"), values)


@pytest.mark.parametrize("kind", ["multiclass", "multilabel", "regression"])
@pytest.mark.parametrize(
    ("given_dtype", "expected"),
    [(torch.bfloat16, torch.float32), (torch.float16, torch.float32), (torch.float64, torch.float64)],
)
def test_half_precision_is_raised(kind: OutputKind, given_dtype: torch.dtype, expected: torch.dtype) -> None:
    assert soften(torch.ones(2, 3, dtype=given_dtype), 2.0, kind).dtype == expected


def test_renormalise_by_hand() -> None:
    # 0.2 / 0.8 and 0.6 / 0.8; nothing is known of the second sample.
    p = torch.tensor([[0.2, 0.6], [0.0, 0.0]])
    torch.testing.assert_close(renormalise(p, "multiclass"), torch.tensor([[0.25, 0.75], [0.5, 0.5]]))
    assert torch.equal(renormalise(p, "multilabel"), p)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_refuses_a_temperature_that_is_none(temperature: float) -> None:
    with pytest.raises(ValueError, match=f"finite temperature above 0, got {temperature}"):
        check_temperature(temperature)
    with pytest.raises(ValueError, match="finite temperature above 0"):
        soften(torch.ones(1, 2), temperature, "multiclass")


@pytest.mark.parametrize(
    ("shape", "kind", "message"),
    [
        ((4, 2), "binary", r"\(\.\.\., 1\), got \(4, 2\)"),
        ((4, 1), "multiclass", r"C >= 2, got \(4, 1\)"),
        ((), "regression", "got a scalar"),
        ((4, 2), "ordinal", r"expected a kind out of \['multiclass'.*got 'ordinal'"),
    ],
)
def test_refuses_outputs_that_do_not_fit_their_kind(shape: tuple[int, ...], kind: OutputKind, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        soften(torch.ones(shape), 1.0, kind)
