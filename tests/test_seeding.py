import hashlib
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hetfed_lightning.seeding import seed_sample, seed_torch, stream_generator, stream_seed

CPU = torch.device("cpu")
parts = st.lists(st.one_of(st.integers(), st.text(max_size=5)), min_size=1, max_size=4)


def test_a_stream_has_one_seed_for_ever() -> None:
    # The upper 63 bits of a hash of the text: no process salts it, and what was checkpointed today resumes tomorrow.
    digest = hashlib.blake2b(b"(7, 'order', 3, 'a')", digest_size=8).digest()
    assert stream_seed(7, "order", 3, "a") == int.from_bytes(digest, "big") // 2 == 8190011515426728133


@given(parts)
def test_seeds_fit_torch(names: list[int | str]) -> None:
    assert 0 <= stream_seed(*names) < 2**63
    torch.Generator().manual_seed(stream_seed(*names))


@given(parts, parts)
def test_other_names_are_other_streams(one: list[int | str], other: list[int | str]) -> None:
    assert (stream_seed(*one) == stream_seed(*other)) == (one == other)


@pytest.mark.parametrize(
    ("one", "other"),
    [((1, 23), (12, 3)), (("a", "b"), ("ab",)), ((1,), ("1",)), ((0, 1), (1, 0)), (("a, b",), ("a", "b"))],
)
def test_names_do_not_run_into_each_other(one: tuple[int | str, ...], other: tuple[int | str, ...]) -> None:
    assert stream_seed(*one) != stream_seed(*other)


def test_generators_start_where_their_stream_does() -> None:
    first, second = stream_generator(1, "x"), stream_generator(1, "x")
    assert torch.equal(torch.rand(5, generator=first), torch.rand(5, generator=second))
    assert not torch.equal(
        torch.rand(5, generator=stream_generator(1, "y")), torch.rand(5, generator=stream_generator(1, "x"))
    )


def test_seeding_torch_is_as_its_own_seeding() -> None:
    seed_torch(11, CPU)
    ours = torch.rand(3)
    torch.manual_seed(11)
    assert torch.equal(ours, torch.rand(3))


def test_seeding_a_sample_seeds_all_that_a_transform_may_draw_from() -> None:
    def drawn() -> tuple[float, float, float]:
        return float(torch.rand(())), random.random(), float(np.random.rand())  # noqa: S311, NPY002

    seed_sample(2**62 + 5)
    first = drawn()
    drawn()
    seed_sample(2**62 + 5)
    assert drawn() == first
    seed_sample(2**62 + 6)
    assert all(one != other for one, other in zip(drawn(), first, strict=True))
