"""Orders, replies and descriptions as the content of the engine's messages; nothing else ever travels."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import asdict
from itertools import islice
from typing import Any

from flwr.app import ConfigRecord, MetricRecord, RecordDict
from torch import Tensor

from hetfed_lightning.flower.protocol.description import Description
from hetfed_lightning.flower.protocol.orders import Order, Reply
from hetfed_lightning.flower.protocol.plain_data import PlainDataError, made, read_json
from hetfed_lightning.flower.protocol.records import Records, RecordsError, pack, unpack
from hetfed_lightning.flower.protocol.reply_checks import Wanted
from hetfed_lightning.flower.protocol.untrusted import one_line, shown

DESCRIBE = "query.describe"
"""Type of the first message, which asks for a site's description."""

WORK = "train"
"""Type of every other message: an order."""

NONE = -1
"""Number that stands for no round."""

_MOST_ROUNDS = 2**31
"""Exclusive bound of rounds; a site bounds them further by its own configuration."""

LARGEST = 10_000_000
"""Largest number of characters of a description; that of a network of 10,000 tensors has a tenth of it."""


def order_content(order: Order) -> RecordDict:
    """Records of an order."""
    settings = ConfigRecord(
        {
            "run": order.run,
            "finish": NONE if order.finish is None else order.finish,
            "left_out": order.left_out,
            "is_last": order.is_last,
            "enter": NONE if order.enter is None else order.enter,
            "attend": NONE if order.attend is None else order.attend,
            "joins": order.joins,
            "is_pupil": order.is_pupil,
            "begin": NONE if order.begin is None else order.begin,
            "learn": NONE if order.learn is None else order.learn,
            "messages": list(order.messages),
            "results": list(order.shared),
            "renewed": list(order.renewed),
        }
    )
    for place, keys in order.messages.items():
        if keys:
            settings[f"keys.{place}"] = list(keys)
    records: Records = {"order": settings}
    for place, state in order.shared.items():
        pack(records, f"shared.{place}", state)
    return RecordDict(records)


def order_of(content: RecordDict) -> Order:
    """Order in records.

    Raises:
        RecordsError: If they hold none.
    """
    found = _config(content, "order")
    return Order(
        run=_of_type(found, "run", str),
        finish=_round(found, "finish"),
        left_out=_of_type(found, "left_out", str),
        is_last=_of_type(found, "is_last", bool),
        enter=_round(found, "enter"),
        attend=_round(found, "attend"),
        joins=_of_type(found, "joins", bool),
        is_pupil=_of_type(found, "is_pupil", bool),
        begin=_round(found, "begin"),
        learn=_round(found, "learn"),
        messages={place: _keys(found, f"keys.{place}") for place in _listed_places(found, "messages")},
        shared={place: unpack(content, f"shared.{place}") for place in _listed_places(found, "results")},
        renewed=_listed_places(found, "renewed"),
    )


def reply_content(reply: Reply) -> RecordDict:
    """Records of a reply."""
    records: Records = {
        "reply": ConfigRecord(
            {
                "participant": reply.participant,
                "finished": NONE if reply.finished is None else reply.finished,
                "quarantined": reply.quarantined,
                "idle": reply.idle,
            }
        ),
        "samples": MetricRecord({"num-examples": reply.samples}),
    }
    if reply.metrics:
        records["metrics"] = MetricRecord(dict(reply.metrics))
    for place, state in reply.shared.items():
        pack(records, f"shared.{place}", state)
    return RecordDict(records)


def reply_of(content: RecordDict, wanted: Wanted | None = None) -> Reply:
    """Reply in records.

    Tensors are compared with the expected ones before they are read. Those of a site that left itself out are not read.

    Args:
        content: Records as they arrived.
        wanted: Tensors that the site may send; None takes any.

    Raises:
        RecordsError: If they hold none, or tensors that were not asked for.
    """
    found = _config(content, "reply")
    samples = content.metric_records.get("samples", MetricRecord()).get("num-examples")
    if isinstance(samples, bool) or not isinstance(samples, int):
        raise RecordsError(f"samples: expected a whole number under 'num-examples', got {shown(samples)}.")
    quarantined = _of_type(found, "quarantined", str)
    is_out = bool(quarantined) and wanted is not None
    idle = _of_type(found, "idle", bool)
    return Reply(
        participant=_of_type(found, "participant", str),
        samples=samples,
        metrics={str(key): _number(key, value) for key, value in content.metric_records.get("metrics", {}).items()},
        finished=_round(found, "finished"),
        quarantined=quarantined,
        idle=idle,
        shared={} if is_out else _shared(content, wanted, idle=idle),
    )


def _shared(content: RecordDict, wanted: Wanted | None, *, idle: bool) -> dict[int, dict[str, Tensor]]:
    places = _places(content, "shared")
    if wanted is None:
        return {place: unpack(content, f"shared.{place}") for place in places}
    expected = wanted.messages
    if surplus := [place for place in places if place not in expected]:
        raise RecordsError(f"shared.{surplus[0]}: it sends a shared state for a callback that nobody asked for.")
    if idle:
        expected = {place: layout for place, layout in expected.items() if place in places}
    return {place: unpack(content, f"shared.{place}", layout) for place, layout in expected.items()}


def description_content(description: Description) -> RecordDict:
    """Records of a description, as text, since people look at it too."""
    return RecordDict({"description": ConfigRecord({"json": json.dumps(asdict(description))})})


def description_of(content: RecordDict) -> Description:
    """Description in records.

    Raises:
        RecordsError: If they hold none, or one of another form; the message names the entry.
    """
    try:
        found = made(Description, read_json(_of_type(_config(content, "description"), "json", str), LARGEST))
    except PlainDataError as error:
        raise RecordsError(f"description: {error}") from error
    if said := found.contradiction():
        raise RecordsError(f"description: {said}.")
    return found


def _places(names: Iterable[str], kind: str) -> list[int]:
    """Places of callbacks in names like ``shared.0`` and ``shared.0.counters``."""
    parts = [name.split(".") for name in names]
    return sorted({int(one[1]) for one in parts if one[0] == kind and len(one) > 1 and _PLACE.fullmatch(one[1])})


def _listed_places(found: ConfigRecord, key: str) -> tuple[int, ...]:
    """Places of callbacks in a list, each once."""
    places = _of_type(found, key, list)
    if len(places) > _MOST_PLACES or any(type(one) is not int or not 0 <= one < _MOST_PLACES for one in places):
        raise RecordsError(f"expected places of callbacks under {key!r}, got {shown(places)}.")
    return tuple(sorted({*places}))


def _keys(found: ConfigRecord, key: str) -> tuple[str, ...]:
    return tuple(map(str, _of_type(found, key, list))) if key in found else ()


_MOST_PLACES = 10_000
_PLACE = re.compile(r"[0-9]{1,4}")


def _config(content: RecordDict, name: str) -> ConfigRecord:
    if name not in content.config_records:
        raise RecordsError(f"expected a record {name!r}, found {_listed(content)}.")
    return content.config_records[name]


def _of_type(found: ConfigRecord, key: str, kind: type) -> Any:
    if type(found.get(key)) is not kind:
        raise RecordsError(f"expected {kind.__name__} under {key!r}, got {shown(found.get(key))}.")
    return found[key]


def _round(found: ConfigRecord, key: str) -> int | None:
    value: int = _of_type(found, key, int)
    if not NONE <= value < _MOST_ROUNDS:
        raise RecordsError(f"expected a round under {key!r}, got {shown(value)}.")
    return None if value == NONE else value


def _number(key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RecordsError(f"metrics: expected a number under {shown(key)}, got {shown(value)}.")
    if isinstance(value, int) and value.bit_length() > 64:
        raise RecordsError(f"metrics: expected a number under {shown(key)}, got {shown(value)}.")
    return float(value)


def _listed(content: RecordDict) -> str:
    names = [one_line(name, 40) for name in islice(content, 10)]
    return ", ".join(names) + (", ..." if len(content) > len(names) else "") if names else "none"
