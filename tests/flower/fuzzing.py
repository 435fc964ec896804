"""Changes to messages that nobody would think of: seeded, of every kind, at every depth."""

from __future__ import annotations

import json
from random import Random
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

ODD_TEXTS = ("", "a", "\x1b[2J", "x\nRound 9", "\ud800", "\u202e", "../..", "<b>", "9" * 5_000, "x" * 100_000, "NaN")
ODD_NUMBERS = (0, -1, 1, 2**31, 2**63, -(2**64), 10**400, 0.5, -0.0, 1e308, float("inf"), float("nan"), True)
DTYPES = ("<f4", "<f8", "<f2", "<i8", "|b1", "|u1", ">f4", "<U9", "|O", "<M8[s]", "<f16", "<c64", "|V8", "nonsense")

ODD_DIMENSIONS = ("0", "1", "5", "4", "20", "-1", "9" * 15, "9" * 5_000, "2**9", "1.5")


def mutated_bytes(data: bytes, random: Random) -> bytes:
    """Bits flipped, a piece cut out, put in twice, or other bytes put in."""
    changed = bytearray(data)
    start = random.randrange(len(data) + 1) if random.random() < 0.5 else random.randrange(min(len(data), 140) + 1)
    end = min(len(data), start + random.choice((0, 1, 8, 100)))
    kind = random.randrange(5)
    if kind == 0:
        for _ in range(random.choice((1, 3, 20)) if data else 0):
            changed[random.randrange(len(data))] ^= 1 << random.randrange(8)
    elif kind == 1:
        del changed[start:]
    elif kind == 2:
        del changed[start:end]
    elif kind == 3:
        changed[start:start] = data[start:end] * random.choice((1, 50))
    else:
        changed[start:end] = random.choice((b"\0", b"(", b"[", b"9", b"'", b"\xff")) * random.choice((1, 30, 5_000))
    return bytes(changed)


def odd_header(random: Random) -> bytes:
    """A file of NumPy's format with a header of its own."""
    dimensions = random.choices(ODD_DIMENSIONS, k=random.choice((0, 1, 2, 40)))
    shape = ", ".join(dimensions) + random.choice(("", ","))
    order = random.choice(("False", "True", "None"))
    text = f"{{'descr': '{random.choice(DTYPES)}', 'fortran_order': {order}, 'shape': ({shape}), }}"
    header = random.choice((text, "(" * 3_000, text * 3, "{}", text.replace("descr", "d"))).encode() + b"\n"
    length = random.choice((len(header), 0, 65_535, len(header) - 1)) & 65_535
    version = random.choice((b"\x01\x00", b"\x02\x00", b"\x09\x09"))
    return b"\x93NUMPY" + version + length.to_bytes(2, "little") + header + bytes(random.choice((0, 4, 80, 1_000)))


def odd_value(random: Random, depth: int = 0) -> Any:
    """A value that JSON can hold, of any kind."""
    kind = random.randrange(6 if depth < 4 else 4)
    if kind == 0:
        return random.choice(ODD_TEXTS)
    if kind == 1:
        return random.choice(ODD_NUMBERS)
    if kind == 2:
        return None
    if kind == 3:
        return random.choice(([], {}, [[]], [0] * 2_000, {"": 0}))
    inside = [odd_value(random, depth + 1) for _ in range(random.randrange(4))]
    return inside if kind == 4 else {random.choice(ODD_TEXTS)[:300]: one for one in inside}


def mutated_json(text: str, random: Random) -> str:
    """A text of JSON with an entry taken out, put in or made another; or with characters changed."""
    if random.random() < 0.3:
        return mutated_bytes(text.encode(), random).decode("utf-8", errors="replace")
    root = json.loads(text)
    for _ in range(random.choice((1, 1, 3))):
        place = root
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = random.choice(keys)
            inside = place[key]
            if isinstance(inside, dict | list) and inside and random.random() < 0.7:
                place = inside
                continue
            if random.random() < 0.15:
                del place[key]
            elif isinstance(place, dict) and random.random() < 0.15:
                place[random.choice(ODD_TEXTS)[:300]] = inside
            else:
                place[key] = odd_value(random)
            break
    return json.dumps(root)


def _mutated_array(array: Array, random: Random) -> Array:
    data = odd_header(random) if random.random() < 0.4 else mutated_bytes(array.data, random)
    other = Array(array.dtype, array.shape, array.stype, data)
    kind = random.randrange(8)
    if kind == 0:
        other = Array(array.dtype, array.shape, random.choice(("", "torch.pickle", *ODD_TEXTS)), array.data)
    elif kind == 1:
        other = Array(random.choice(ODD_TEXTS), (2**63, -1), array.stype, array.data)
    return other


def mutated_records(content: RecordDict, random: Random) -> RecordDict:
    """Records of a message with one of them, or one entry of one, taken out, put in, or made another."""
    records: dict[str, Any] = dict(content)
    name = random.choice(list(records))
    record = records[name]
    other: Any = random.choice(
        (
            ConfigRecord({"x": 1}),
            MetricRecord({"x": 1.0}),
            ArrayRecord({"x": Array("float32", (1,), "numpy.ndarray", odd_header(random))}),
            ConfigRecord({}),
            *records.values(),
        )
    )
    kind = random.randrange(8)
    if kind == 0:
        del records[name]
    elif kind == 1:
        records[name] = other
    elif kind == 2:
        added = ("shared.1.counters", "shared.9" + "9" * 50, "shared.\u00b2", "casts", "answers.counters", *ODD_TEXTS)
        records[random.choice(added)] = other
    else:
        records[name] = _mutated_record(record, random)
    return RecordDict(records)


def _mutated_record(record: Any, random: Random) -> Any:
    changed = dict(record)
    key = random.choice(list(changed)) if changed else ""
    if random.random() < 0.2 or not changed:
        changed.pop(key, None)
    elif random.random() < 0.15:
        changed[random.choice(ODD_TEXTS)] = changed.pop(key)
    elif isinstance(record, ArrayRecord):
        changed[key] = _mutated_array(changed[key], random)
    elif isinstance(record, MetricRecord):
        changed[key] = random.choice((*ODD_NUMBERS[:-1], [1], [0.5] * 3, []))
    else:
        is_text = isinstance(changed[key], str)
        as_json = is_text and changed[key].startswith("{")
        odd = (
            mutated_json(changed[key], random)
            if as_json
            else random.choice((*ODD_TEXTS, *ODD_NUMBERS, [1], ["a"], b"x"))
        )
        changed[key] = odd
    return type(record)(changed)
