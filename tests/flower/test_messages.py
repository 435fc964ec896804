"""What travels, and nothing else: every message of a run is looked at; what arrives damaged is refused by name."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from torch import nn

from hetfed_lightning import BackboneAveraging, EnsembleDistillation, Participant
from hetfed_lightning.distillation import ClassPriorWeighted
from hetfed_lightning.flower.protocol.messages import (
    description_content,
    description_of,
    order_content,
    order_of,
    reply_content,
    reply_of,
)
from hetfed_lightning.flower.protocol.orders import Order, Reply
from hetfed_lightning.flower.protocol.records import CASTS, COUNTERS, Records, RecordsError, pack, unpack
from tests.flower.federating import Deployed

pytestmark = pytest.mark.promise("travels")

DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2,
    torch.complex64, torch.int64, torch.int32, torch.int8, torch.uint8, torch.bool,
]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3)])
def test_tensors_arrive_bit_for_bit(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 100
    tensor = values.to(dtype)
    records: Records = {}
    pack(records, "shared.0", {"backbone.weight": tensor})
    found = unpack(RecordDict(records), "shared.0")["backbone.weight"]
    assert found.dtype == dtype
    assert found.shape == tensor.shape
    assert found.flatten().tolist() == tensor.flatten().tolist()
    counted = not (dtype.is_floating_point or dtype.is_complex)
    assert ("shared.0" + COUNTERS in records) == counted
    assert (CASTS in records) == (dtype in {torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2})


def test_extreme_numbers_survive_the_cast() -> None:
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    every = bits.view(torch.bfloat16)
    records: Records = {}
    pack(records, "a", {"x": every})
    found = unpack(RecordDict(records), "a")["x"]
    same = found.view(torch.int16) == bits
    assert (same | every.isnan()).all()
    assert (found.isnan() == every.isnan()).all()


def test_an_array_that_is_none_is_named() -> None:
    bad = RecordDict({"shared.0": ArrayRecord({"w": Array("float32", (1,), "numpy.ndarray", b"no array")})})
    with pytest.raises(RecordsError, match=r"shared\.0: the array 'w' cannot be read"):
        unpack(bad, "shared.0")


def test_a_pickle_is_not_opened() -> None:
    import io

    import numpy as np

    file = io.BytesIO()
    np.save(file, np.array([Participant], dtype=object), allow_pickle=True)
    bad = RecordDict({"a": ArrayRecord({"w": Array("object", (1,), "numpy.ndarray", file.getvalue())})})
    with pytest.raises(RecordsError, match="cannot be read"):
        unpack(bad, "a")


def test_orders_and_replies_arrive_as_they_were() -> None:
    order = Order(
        "r1", 3, "late", True, 6, 7, True, True, 4, None, {0: ("a", "b"), 2: ()},
        {0: {"a": torch.ones(2)}, 3: {}}, (0,),
    )  # fmt: skip
    found = order_of(order_content(order))
    assert dataclasses.asdict(found).keys() == dataclasses.asdict(order).keys()
    for one in dataclasses.fields(Order):
        _same(getattr(found, one.name), getattr(order, one.name))
    reply = Reply(
        "a",
        5,
        {"val_loss/a": 0.5, "val_auroc/a": float("nan")},
        2,
        "why",
        True,
        {0: {"n": torch.tensor(3)}},
    )
    back = reply_of(reply_content(reply))
    assert str(back.metrics) == str(reply.metrics)
    for name in ("participant", "samples", "finished", "quarantined", "idle", "shared"):
        _same(getattr(back, name), getattr(reply, name))
    _same(order_of(order_content(Order("r"))), Order("r"))


def _same(one: Any, other: Any) -> None:
    if isinstance(other, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(other, dict):
        assert one.keys() == other.keys()
        for key, value in other.items():
            _same(one[key], value)
    else:
        assert one == other


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda one: one.config_records.clear(), "expected a record 'reply'"),
        (lambda one: one["reply"].pop("finished"), "expected int under 'finished', got None"),
        (lambda one: one["reply"].update(finished=-2), "expected a round under 'finished', got -2"),
        (lambda one: one["reply"].update(participant=3), "expected str under 'participant', got 3"),
        (lambda one: one.metric_records.clear(), "expected a whole number under 'num-examples', got None"),
        (lambda one: one["samples"].update({"num-examples": 1.5}), "got 1.5"),
        (lambda one: one["metrics"].update({"val_loss/a": [1.0]}), "metrics: expected a number under 'val_loss/a'"),
    ],
)
def test_a_damaged_reply_is_refused_by_name(change: Any, said: str) -> None:
    content = reply_content(Reply("a", 5, {"val_loss/a": 0.5}))
    change(content)
    with pytest.raises(RecordsError, match=said):
        reply_of(content)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda one: one.pop("seed"), "'seed' is missing"),
        (lambda one: one.update(samples="many"), "expected int under 'samples', got 'many'"),
        (lambda one: one.update(samples=True), "expected int under 'samples'"),
        (lambda one: one.update(leaves_at="never"), "expected int under 'leaves_at', got 'never'"),
        (lambda one: one.update(class_counts=[-1]), "'class_counts'"),
        (
            lambda one: one["offered"]["0"].update({"w": [[-1], "float32"]}),
            "expected a number from 0 to .* under 'offered.0.w', got -1",
        ),
        (lambda one: one.update(offered=[]), "description: "),
        (lambda one: one.update(callbacks=[3]), "'callbacks'"),
        (lambda one: one.update(role=3), "description: "),
    ],
)
def test_a_damaged_description_is_refused_by_name(change: Any, said: str, tmp_path: Path) -> None:
    deployed = Deployed("ab", lambda: [BackboneAveraging()], tmp_path)
    told = description_content(deployed.grid.sites["a"].describe()).config_records["description"]
    read = json.loads(str(told["json"]))
    change(read)
    content = RecordDict({"description": ConfigRecord({"json": json.dumps(read)})})
    with pytest.raises(RecordsError, match=said):
        description_of(content)


@pytest.mark.parametrize("text", ["[]", "{", "3", '"text"'])
def test_no_description_at_all(text: str) -> None:
    with pytest.raises(RecordsError, match="description"):
        description_of(RecordDict({"description": ConfigRecord({"json": text})}))


def test_nothing_else_travels(tmp_path: Path) -> None:
    """Every message of a run: names of records, keys, shapes. No head, no input, no label, no path."""
    callbacks = lambda: [EnsembleDistillation(ClassPriorWeighted(), mode="mixed"), BackboneAveraging()]  # noqa: E731
    deployed = Deployed("abc", callbacks, tmp_path)
    deployed.lead()
    shared = {"backbone.0.weight", "backbone.0.bias"}
    for name, kind, down, up in deployed.grid.sent:
        assert up is not None
        if kind == "query.describe":
            assert not down
            assert list(up) == ["description"]
            told = json.loads(str(up.config_records["description"]["json"]))
            assert told.keys() == {one.name for one in dataclasses.fields(description_of(up))}
            assert str(tmp_path) not in str(told)
            continue
        assert kind == "train"
        assert set(down) <= {"order", "shared.0", "shared.1"}
        assert set(up) <= {"reply", "samples", "metrics", "shared.0", "shared.1"}
        assert down.config_records["order"].keys() <= {
            "run", "finish", "left_out", "enter", "attend", "begin", "learn", "messages",
            "keys.1", "results", "renewed", "is_last", "joins", "is_pupil",
        }  # fmt: skip
        assert up.config_records["reply"].keys() == {"participant", "finished", "quarantined", "idle"}
        assert up.metric_records["samples"].keys() == {"num-examples"}
        for content in (down, up):
            for record, arrays in content.array_records.items():
                found = {key: array.shape for key, array in arrays.items()}
                if record == "shared.1":
                    assert found.keys() == shared
                else:
                    assert list(found.values()) == [(10, 3)]  # Public examples and classes.
        own = {"train_loss", "val_loss", "val_accuracy", "val_global_loss", "val_global_accuracy", "lr"}
        metrics = up.metric_records.get("metrics", MetricRecord())
        assert metrics.keys() <= {f"{metric}/{name}" for metric in own}


def test_class_counts_are_told_only_where_an_ensemble_weighs_by_them(tmp_path: Path) -> None:
    with_them = Deployed("ab", lambda: [EnsembleDistillation(ClassPriorWeighted())], tmp_path / "1")
    without = Deployed("ab", lambda: [EnsembleDistillation()], tmp_path / "2")
    assert sum(with_them.grid.sites["a"].describe().class_counts) == 12
    assert without.grid.sites["a"].describe().class_counts == ()


def test_running_statistics_stay_unless_they_are_averaged(tmp_path: Path) -> None:
    def described(buffers: Any) -> set[str]:
        deployed = Deployed("ab", lambda: [BackboneAveraging(buffers=buffers)], tmp_path / buffers)
        for name in "ab":
            parts = deployed.parts_of(name)

            def made(parts: Any = parts) -> Any:
                found = parts()
                found.federation[next(iter(found.federation.participants))].backbone.append(nn.BatchNorm1d(5))
                return found

            deployed.grid.sites[name]._make = made
        return set(deployed.grid.sites["a"].describe().offered[0])

    assert "backbone.2.running_mean" not in described("local")
    assert {"backbone.2.running_mean", "backbone.2.num_batches_tracked"} <= described("average")
