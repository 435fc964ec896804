"""Thousands of replies and descriptions that nobody would send: each is read, or refused by name, and takes no memory.

Nothing but `RecordsError` may leave a reading function, though what calls it would bear more; what is read has to be
fit for all that is made of it.
"""

from __future__ import annotations

import json
import tracemalloc
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from flwr.app import Array, ConfigRecord, Message, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from hetfed_lightning import BackboneAveraging, EnsembleDistillation
from hetfed_lightning.flower.coordinator.averaging_rounds import AveragingRounds
from hetfed_lightning.flower.coordinator.messenger import Messenger
from hetfed_lightning.flower.coordinator.method_rounds import MethodRounds
from hetfed_lightning.flower.coordinator.requests import Fault
from hetfed_lightning.flower.coordinator.site_compatibility import disagreements, impossible, odd_ones, table
from hetfed_lightning.flower.coordinator.site_summaries import headlines_of, label_counts_of, roles_of
from hetfed_lightning.flower.protocol.description import Description, parameters_of
from hetfed_lightning.flower.protocol.messages import description_content, description_of, reply_content, reply_of
from hetfed_lightning.flower.protocol.orders import Order, Reply
from hetfed_lightning.flower.protocol.records import RecordsError
from hetfed_lightning.flower.protocol.reply_checks import fault_of, usable_metrics, wanted
from hetfed_lightning.methods.method import Method
from tests.conftest import Tally
from tests.flower.federating import Deployed
from tests.flower.fuzzing import mutated_bytes, mutated_json, mutated_records
from tests.methods.own_methods import Census

pytestmark = pytest.mark.promise("words")

REPLIES = 1_200
DESCRIPTIONS = 1_000
TAKEN_APART = 200
METHODS: dict[int, Method] = {0: EnsembleDistillation(), 1: BackboneAveraging(), 2: Census()}
MEMORY = 2**23
"""Bytes: a mutated message has a tenth of it at most."""


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> tuple[Deployed, Description, Order, Reply]:
    callbacks = lambda: [EnsembleDistillation(), BackboneAveraging(), Census()]  # noqa: E731
    deployed = Deployed("abc", callbacks, tmp_path_factory.mktemp("sites"))
    site = deployed.grid.sites["a"]
    described = site.describe()
    order = Order("r", begin=0, messages={0: (), 1: tuple(described.offered[1]), 2: ()})
    site.carry_out(order)
    order = replace(order, finish=0, begin=1)
    return deployed, described, order, site.carry_out(order)


def tried(count: int, act: Callable[[Random], str]) -> Counter[str]:
    """What became of so many mutations; whatever else than a refusal an act ends with says which it was."""
    found: Counter[str] = Counter()
    for seed in range(count):
        is_traced = seed % 10 == 0  # Which takes three times as long.
        if is_traced:
            tracemalloc.start()
        try:
            found[act(Random(seed))] += 1  # noqa: S311 - nothing secret is made of it
        except Exception as error:
            raise AssertionError(f"mutation {seed}: {type(error).__name__}: {error}") from error
        finally:
            taken = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert taken < MEMORY, f"mutation {seed} took {taken} bytes"
    return found


def refused(error: Exception | str) -> str:
    assert len(str(error)) < 1_000
    assert str(error).isprintable(), repr(str(error))
    return "refused"


def test_replies(honest: Any, tally: Tally) -> None:
    _, described, order, reply = honest
    content = reply_content(reply)
    expected = wanted(order, described)

    def act(random: Random) -> str:
        changed = mutated_records(content, random)
        try:
            read = reply_of(changed, expected)
        except RecordsError as error:
            return refused(error)
        fault = fault_of(read, order, described, parameters_of([described]), METHODS)
        assert all(isinstance(one, float) for one in usable_metrics(read, described).values())
        return refused(fault) if fault else "used"

    found = tried(REPLIES, act)
    tally(tried=REPLIES, held=found.total())
    assert found["refused"] > REPLIES / 2
    assert found["used"] > REPLIES / 100


def test_descriptions(honest: Any, tally: Tally) -> None:
    _, described, _, _ = honest
    text = json.dumps(asdict(described))
    others = {name: replace(described, participant=name) for name in "bc"}

    def act(random: Random) -> str:
        content = RecordDict({"description": ConfigRecord({"json": mutated_json(text, random)})})
        try:
            read = description_of(content)
        except RecordsError as error:
            return refused(error)
        return made_of({"a": replace(read, participant="a")} | others)

    found = tried(DESCRIPTIONS, act)
    tally(tried=DESCRIPTIONS, held=found.total())
    assert found["refused"] > DESCRIPTIONS / 2
    assert found["used"] > DESCRIPTIONS / 100
    assert found["turned away"] > 0


def made_of(descriptions: dict[str, Description]) -> str:
    """All that a coordinator makes of descriptions before it trains."""
    callbacks = [EnsembleDistillation(), BackboneAveraging(), Census()]
    if said := impossible(descriptions["a"], callbacks):
        refused(said)
        return "turned away"
    found = disagreements(descriptions, callbacks, 0, {})
    if found:
        refused(table(found).replace("\n", " "))
        assert odd_ones(found) == {"a"}
        return "turned away"
    AveragingRounds(1, callbacks[1], 0).arrange(descriptions)  # type: ignore[arg-type]
    MethodRounds(2, callbacks[2], 0).arrange(descriptions, is_whole=True)
    assert len(roles_of(descriptions, callbacks, 10)) == 3
    assert len(headlines_of(descriptions)) >= 2
    label_counts_of(descriptions, 10)
    assert description_of(description_content(descriptions["a"])) == descriptions["a"]
    return "used"


def test_messages_that_cannot_be_taken_apart(honest: Any, tally: Tally, tmp_path: Path) -> None:
    """Bits of the engine's own objects: the others' answers are there all the same."""
    deployed = honest[0]
    told = {name: deployed.grid.sites[name].describe() for name in "abc"}
    messenger = Messenger(deployed.grid, lambda _: None)
    messenger.nodes = {name: deployed.grid.node_of(name) for name in "abc"}
    answers = {name: reply_content(Reply(name, told[name].samples, shared={1: {}})) for name in "abc"}
    question = Order("r", messages={})

    def act(random: Random) -> str:
        pulled: list[str] = []
        deployed.grid.push_messages = lambda messages: [str(one.metadata.dst_node_id) for one in messages]

        def pull(numbers: list[str]) -> list[Message]:
            (number,) = numbers
            name = "abc"[int(number) - 1]
            pulled.append(name)
            message = Message(answers[name], dst_node_id=1, message_type="train")
            if name != "a":
                return [message]
            contents = {key: one.deflate() for key, one in get_all_nested_objects(message).items()}
            broken = random.choice(list(contents))
            contents[broken] = mutated_bytes(contents[broken], random)
            return [inflate_object_from_contents(message.object_id, contents)]  # type: ignore[list-item]

        deployed.grid.pull_messages = pull
        found = messenger.carry_out(dict.fromkeys("abc", question), 0.5, told)
        assert isinstance(found["b"], Reply)
        assert isinstance(found["c"], Reply)
        if isinstance(found["a"], Reply):
            return "used"
        assert isinstance(found["a"], Fault)
        return refused(found["a"].reason)

    found = tried(TAKEN_APART, act)
    tally(tried=TAKEN_APART, held=found.total())
    assert found["refused"] > TAKEN_APART / 4


@pytest.mark.parametrize("times", [1, 200_000])
def test_a_piece_that_is_named_again_and_again_is_not_put_together(times: int, honest: Any) -> None:
    """8 KB and a list of numbers would be 1.6 GB, which the engine puts together before anybody looks at it."""
    deployed, described, order, reply = honest
    messenger = Messenger(deployed.grid, lambda _: None)
    messenger.nodes = {"a": 1}
    content = reply_content(replace(reply, metrics={}))
    if times > 1:
        content.array_records["shared.1"]["backbone.0.weight"] = Array("float32", (1,), "numpy.ndarray", bytes(8_000))
    message = Message(content, dst_node_id=1, message_type="train")

    def pull(_: list[str]) -> list[Message]:
        contents = {key: one.deflate() for key, one in get_all_nested_objects(message).items()}
        for key, one in contents.items():
            if one.startswith(b"Array") and times > 1:
                contents[key] = one.replace(b'"arraychunk_ids": [0', b'"arraychunk_ids": [' + b"0, " * times + b"0")
        return [inflate_object_from_contents(message.object_id, contents)]  # type: ignore[list-item]

    deployed.grid.push_messages = lambda _: ["1"]
    deployed.grid.pull_messages = pull
    tracemalloc.start()
    try:
        found = messenger.carry_out({"a": order}, 0.5, {"a": described})["a"]
        assert tracemalloc.get_traced_memory()[1] < 2**26
    finally:
        tracemalloc.stop()
    if times == 1:
        assert isinstance(found, Reply)
    else:
        assert isinstance(found, Fault)
        assert "cannot be taken apart: ValueError: arrays of more than" in found.reason
