"""The cosine head: by hand, and what a class without examples can and cannot suffer."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from hetfed_lightning.heads import CosineHead


def test_logits_are_scaled_cosines_by_hand() -> None:
    head = CosineHead(2, 3, scale=10.0)
    head.directions.data = torch.tensor([[5.0, 0.0], [0.0, -0.1], [1.0, 1.0]])
    # (3, 4) has length 5: cosines 3/5, -4/5, and (3 + 4) / (5 * sqrt(2))
    expected = torch.tensor([[6.0, -8.0, 70.0 / (5.0 * math.sqrt(2.0))]])
    torch.testing.assert_close(head(torch.tensor([[3.0, 4.0]])), expected)


@given(
    seed=st.integers(0, 10_000),
    scale=st.floats(0.1, 50.0),
    length=st.floats(1e-3, 1e6),
)
@settings(max_examples=50, deadline=None)
def test_logits_are_bounded_by_the_scale_and_blind_to_lengths(seed: int, scale: float, length: float) -> None:
    torch.manual_seed(seed)
    head = CosineHead(8, 5, scale=scale)
    x = torch.randn(4, 8)
    logits = head(x)
    assert logits.abs().max() <= scale * (1 + 1e-5)
    torch.testing.assert_close(head(length * x), logits, rtol=1e-4, atol=1e-4)
    head.directions.data *= length
    torch.testing.assert_close(head(x), logits, rtol=1e-4, atol=1e-4)


def test_an_unseen_class_sinks_no_further_than_the_scale_while_a_linear_head_has_no_floor() -> None:
    torch.manual_seed(0)
    x = torch.randn(32, 8).relu()
    labels = torch.randint(0, 2, (32,))  # class 2 never occurs

    def lowest_logit(head: nn.Module, steps: int) -> float:
        optimizer = torch.optim.SGD(head.parameters(), lr=10.0)
        for _ in range(steps):
            optimizer.zero_grad()
            torch.autograd.backward(functional.cross_entropy(head(x), labels))
            optimizer.step()
        return float(head(x)[:, 2].detach().min())

    cosine = CosineHead(8, 3, scale=2.0)
    cosine.scale.requires_grad_(False)
    assert lowest_logit(cosine, 200) >= -2.00001
    linear = nn.Linear(8, 3)
    early, late = lowest_logit(linear, 20), lowest_logit(linear, 180)
    assert late < early < -2.0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_sample_without_active_features_gets_zeros_in_every_precision(dtype: torch.dtype) -> None:
    head = CosineHead(4, 3).to(dtype)
    logits = head(torch.zeros(2, 4, dtype=dtype))
    assert logits.dtype == dtype
    assert torch.equal(logits, torch.zeros(2, 3, dtype=dtype))


def test_the_scale_is_learned_and_saved() -> None:
    head = CosineHead(scale=3.0)
    assert head.state_dict()["scale"].item() == 3.0
    assert head.scale.requires_grad


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_a_scale_that_is_not_above_zero_is_refused(scale: float) -> None:
    with pytest.raises(ValueError, match=f"expected a finite scale above 0, got {scale}"):
        CosineHead(scale=scale)
