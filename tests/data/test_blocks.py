"""Blocks are what stacking everybody's batches gives, wherever the data lies."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hetfed_lightning.data import Examples, blocks
from hetfed_lightning.data.blocks import BlockSource, stacked


def examples(seed: int, *, named: bool) -> Examples:
    generator = torch.Generator().manual_seed(seed)
    image, age = torch.randn(6, 2, 3, generator=generator), torch.randint(9, (6,), generator=generator)
    return Examples({"image": image, "age": age} if named else image, age + 1)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Mapping):
        return list(one) == list(other) and all(same(value, other[key]) for key, value in one.items())
    return one is other if one is None else one.dtype == other.dtype and torch.equal(one, other)


@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=5),
    seed=st.integers(0, 9),
    home=st.sampled_from([None, torch.device("cpu")]),
    joined=st.booleans(),
    named=st.booleans(),
)
def test_a_block_is_everybodys_batches(
    sizes: list[int], seed: int, home: torch.device | None, joined: bool, named: bool
) -> None:
    sets = {f"p{place}": examples(place, named=named) for place in range(len(sizes))}
    generator = torch.Generator().manual_seed(seed)
    indices = {f"p{place}": torch.randperm(6, generator=generator)[:size] for place, size in enumerate(sizes)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "JOINED_EXAMPLE", 2**10 if joined else 0)
        found = BlockSource(sets, home).block(indices)
    wanted = stacked([sets[name].batch(own) for name, own in indices.items()])
    assert wanted is not None
    assert found.sizes == wanted.sizes == tuple(sizes)
    assert same(found.inputs, wanted.inputs)
    assert same(found.targets, wanted.targets)
    assert same(found.mask, wanted.mask)


@pytest.mark.parametrize(("width", "copied"), [(10, True), (784, False)])
def test_large_examples_are_not_held_twice(width: int, copied: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    pooled: list[int] = []
    right = Examples.pooled

    def note(parts: Any) -> Examples:
        pooled.append(len(parts))
        return right(parts)

    monkeypatch.setattr(Examples, "pooled", note)
    sets = {name: Examples(torch.zeros(20, width), torch.zeros(20)) for name in "ab"}
    block: Tensor = BlockSource(sets).block({name: torch.arange(5) for name in sets}).inputs
    assert block.shape == (2, 5, width)
    assert bool(pooled) is copied
