"""Effective number of classes: closed forms."""

import math

import pytest
import torch

from hetfed_lightning.metrics import effective_classes


def test_as_many_as_there_are_or_one() -> None:
    assert effective_classes(torch.eye(7)) == pytest.approx(7.0)
    assert effective_classes(torch.full((3, 5), 0.2)) == pytest.approx(5.0)
    assert effective_classes(torch.eye(4)[[2, 2, 2]]) == 1.0


def test_shares_of_a_quarter_and_three() -> None:
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert effective_classes(torch.eye(2)[[0, 1, 1, 1]]) == pytest.approx(math.exp(entropy))
