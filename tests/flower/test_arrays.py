"""Arrays of the other side: read to the bit, and refused before anything is allocated where they lie."""

import io
import pickle
import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from hetfed_lightning.flower.protocol.arrays import DTYPES, KNOWN, ArrayError, array_of, tensor_of
from hetfed_lightning.flower.protocol.records import CASTS, RecordsError, pack, unpack

pytestmark = pytest.mark.promise("words")


def file_of(header: bytes, data: bytes = b"", length: int | None = None) -> Array:
    """An array whose file says what it is told to say."""
    text = header + b"\n"
    size = (len(text) if length is None else length).to_bytes(2, "little")
    return Array("float32", (1,), "numpy.ndarray", b"\x93NUMPY\x01\x00" + size + text + data)


def declared(dtype: str, shape: str) -> bytes:
    return f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': ({shape}), }}".encode()


def saved(array: Any, *, allow_pickle: bool = False) -> Array:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=allow_pickle)
    return Array(str(array.dtype), array.shape, "numpy.ndarray", file.getvalue())


@pytest.mark.parametrize("dtype", KNOWN)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3), (1, 0, 4)])
def test_what_numpy_writes_is_read_as_numpy_reads_it(dtype: str, shape: tuple[int, ...]) -> None:
    count = int(np.prod(shape)) * np.dtype(dtype).itemsize
    values = np.random.default_rng(0).integers(0, 2, count, dtype=np.uint8)
    array = np.frombuffer(values.tobytes(), np.dtype(dtype)).reshape(shape) if count else np.empty(shape, dtype)
    found = tensor_of(saved(array))
    assert found.numpy().tobytes() == array.tobytes()
    assert (found.shape, found.dtype) == (array.shape, KNOWN[dtype])
    assert tensor_of(saved(array), (tuple(array.shape), str(KNOWN[dtype]).removeprefix("torch."))).shape == array.shape


LIES: dict[str, tuple[Array, str]] = {
    "ten million million numbers": (
        file_of(declared("<f8", "10000000000000,")),
        "0 bytes of numbers, and 80000000000000 is",
    ),
    "no memory holds it": (file_of(declared("<f4", "999999999999999, 999999999999999")), "more than any memory holds"),
    "none of very many": (file_of(declared("<f4", "0, 999999999999999, 999999999999999")), "any memory holds"),
    "5,000 digits": (file_of(declared("<f4", "9" * 5000 + ",")), "no header"),
    "a few digits too many": (file_of(declared("<f4", "9" * 16 + ",")), "has the header"),
    "nested": (file_of(b"(" * 400 + b")" * 400), "has the header"),
    "negative": (file_of(declared("<f8", "-1,"), b"\0" * 8), "has the header"),
    "33 dimensions": (file_of(declared("|u1", "1, " * 33), b"\0"), "33 dimensions"),
    "code": (file_of(b"{'descr': __import__('os').getcwd()}"), "has the header"),
    "text": (saved(np.array(["a"])), "has the header"),
    "dates": (saved(np.array(["2020-01-01"], dtype="datetime64[D]")), "has the header"),
    "fields": (saved(np.zeros(1, dtype=[("a", "<f4")])), "has the header"),
    "objects": (saved(np.array([print], dtype=object), allow_pickle=True), "has the header"),
    "long double": (file_of(declared("<f16", "1,"), b"\0" * 16), "has the header"),
    "the other order of bytes": (file_of(declared(">f4", "1,"), b"\0" * 4), "has the header"),
    "columns first": (saved(np.asfortranarray(np.ones((2, 3), np.float32))), "has the header"),
    "a number less": (file_of(declared("<f4", "2,"), b"\0" * 4), "4 bytes of numbers, and 8"),
    "a number more": (file_of(declared("<f4", "1,"), b"\0" * 8), "8 bytes of numbers, and 4"),
    "a header beyond its end": (file_of(declared("<f4", "1,"), length=60_000), "no header"),
    "a pickle": (Array("float32", (1,), "numpy.ndarray", pickle.dumps(print)), "no header"),
    "nothing": (Array("float32", (1,), "numpy.ndarray", b""), "no header"),
    "all bytes": (Array("float32", (1,), "numpy.ndarray", bytes(range(256))), "no header"),
    "another format": (Array("float32", (1,), "torch.pickle", saved(np.ones(1)).data), "is stored as 'torch.pickle'"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_refused_and_allocates_nothing(lie: str) -> None:
    array, said = LIES[lie]
    tracemalloc.start()
    try:
        with pytest.raises(ArrayError, match=said):
            tensor_of(array)
        assert tracemalloc.get_traced_memory()[1] < 2**17
    finally:
        tracemalloc.stop()


def test_bytes_that_are_no_bools_become_bools() -> None:
    found = tensor_of(file_of(declared("|b1", "3,"), bytes([0, 1, 255])))
    assert found.tolist() == [False, True, True]
    assert found.view(torch.uint8).tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    "cast", ["complex32", "quint8", "os.system", "load", "float64", "float32", "\x1b[2J", "x" * 9**6]
)
def test_casts_are_those_that_are_needed(cast: str) -> None:
    records: Any = {"a": ArrayRecord({"w": array_of(torch.ones(2))}), CASTS: ConfigRecord({"a/w": cast})}
    with pytest.raises(
        RecordsError, match="a: the array 'w' cannot be read: it is of float32 and said to be of"
    ) as error:
        unpack(RecordDict(records), "a")
    assert len(str(error.value)) < 300
    assert str(error.value).isprintable()


def test_a_layout_is_compared_before_anything_is_read() -> None:
    whole = array_of(torch.ones(2, 3))
    content = RecordDict({"a": ArrayRecord({"w": whole})})
    assert unpack(content, "a", {"w": ((2, 3), "float32")})["w"].tolist() == [[1.0] * 3] * 2
    for layout in (((3, 2), "float32"), ((6,), "float32"), ((2, 3), "float64"), ((2, 3), "bfloat16")):
        with pytest.raises(RecordsError, match=r"of shape \(2, 3\) and float32, expected"):
            unpack(content, "a", {"w": layout})
    with pytest.raises(RecordsError, match="there is no v and 1 more missing"):
        unpack(content, "a", {"v": ((2, 3), "float32"), "u": ((), "int64")})
    with pytest.raises(RecordsError, match="there is 'w', which it did not describe"):
        unpack(content, "a", {})


@pytest.mark.parametrize("key", ["", "a\nb", "\x1b[2J", "\ud800", "\u202e", "x" * 10**6])
def test_a_key_is_a_name(key: str) -> None:
    with pytest.raises(RecordsError, match="is no name of an array") as error:
        unpack(RecordDict({"a": ArrayRecord({key: array_of(torch.ones(1))})}), "a")
    assert str(error.value).isprintable()


@pytest.mark.filterwarnings("ignore:ComplexHalf")
def test_what_cannot_travel_is_not_sent() -> None:
    with pytest.raises(
        RecordsError, match=r"shared\.0: w: tensors of torch\.complex32 cannot be sent; expected one of"
    ):
        pack({}, "shared.0", {"w": torch.empty(2, dtype=torch.complex32)})
    assert set(DTYPES) >= {"float32", "bfloat16", "int64", "bool"}
