import io

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hetfed_lightning.metrics import payload_bytes


def test_by_hand() -> None:
    # 6 float32 of 4 bytes, 5 bfloat16 of 2, one int64 of 8, 3 bools of 1: 24 + 10 + 8 + 3.
    state = {
        "weight": torch.zeros(2, 3),
        "half": torch.zeros(5, dtype=torch.bfloat16),
        "steps": torch.tensor(7),
        "seen": torch.zeros(3, dtype=torch.bool),
        "empty": torch.zeros(0, 9),
    }
    assert payload_bytes(state) == 45
    assert payload_bytes(list(state.values())) == 45
    assert payload_bytes(state["weight"]) == 24
    assert payload_bytes({}) == 0


def test_a_view_counts_its_own_elements() -> None:
    assert payload_bytes(torch.zeros(1000)[:3]) == 12


@given(st.lists(st.lists(st.integers(0, 4), max_size=3), max_size=4))
def test_adds_up(shapes: list[list[int]]) -> None:
    tensors = [torch.zeros(shape) for shape in shapes]
    assert payload_bytes(tensors) == sum(payload_bytes(tensor) for tensor in tensors)


@pytest.mark.parametrize("tensor", [torch.zeros(4096), torch.zeros(4096, dtype=torch.float64)])
def test_agrees_with_what_is_written(tensor: Tensor) -> None:
    buffer = io.BytesIO()
    torch.save(tensor, buffer)
    assert payload_bytes(tensor) <= len(buffer.getvalue()) < payload_bytes(tensor) + 4096
