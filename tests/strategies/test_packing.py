"""What was packed comes out again, and nothing beside it."""

import pickle
from typing import Any

import torch

from hetfed_lightning.strategies.packing import cloned, pack, unpack


def test_a_nested_value_comes_back() -> None:
    value: dict[str, Any] = {
        "halves": [torch.arange(3, dtype=torch.float16), torch.tensor(True)],
        "none": None,
        "pair": (torch.eye(2, dtype=torch.float64), "text", 1.5),
        "nothing": torch.empty(0, 4, dtype=torch.int64),
        "bf16": torch.ones(5, dtype=torch.bfloat16),
        "scalar": torch.tensor(7),
    }
    packed = pack(value)
    skeleton = pickle.loads(pickle.dumps(packed.skeleton))
    found = unpack(skeleton, packed.bytes())
    assert found["none"] is None
    assert found["pair"][1:] == ("text", 1.5)
    for one, other in (
        (found["halves"][0], value["halves"][0]),
        (found["halves"][1], value["halves"][1]),
        (found["pair"][0], value["pair"][0]),
        (found["nothing"], value["nothing"]),
        (found["bf16"], value["bf16"]),
        (found["scalar"], value["scalar"]),
    ):
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        assert torch.equal(one, other)


def test_a_view_travels_without_its_neighbours() -> None:
    stack = torch.arange(1000, dtype=torch.float32).view(100, 10)
    packed = pack({"mine": stack[3], "column": stack[:, 2]})
    # 10 and 100 numbers of 4 bytes, each rounded up to 16 bytes.
    assert packed.length == 48 + 400
    assert len(pickle.dumps(packed.skeleton)) < 1000
    found = unpack(packed.skeleton, packed.bytes())
    assert torch.equal(found["mine"], stack[3])
    assert torch.equal(found["column"], stack[:, 2])


def test_clones_have_a_storage_of_their_own() -> None:
    packed = pack([torch.ones(4), torch.zeros(4)])
    one, other = cloned(unpack(packed.skeleton, packed.bytes()))
    assert one.untyped_storage().nbytes() == 16
    assert other.untyped_storage().data_ptr() != one.untyped_storage().data_ptr()
