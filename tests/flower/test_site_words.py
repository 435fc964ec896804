"""A site's words are looked at, one reply or description at a time, as the coordinator looks at them."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ConfigRecord, MetricRecord, RecordDict

from hetfed_lightning import BackboneAveraging, EnsembleDistillation
from hetfed_lightning.distillation import ClassPriorWeighted, DensityRatioPosterior
from hetfed_lightning.flower.coordinator.messenger import read_or_fault
from hetfed_lightning.flower.coordinator.requests import Fault
from hetfed_lightning.flower.coordinator.site_compatibility import Difference, impossible, table
from hetfed_lightning.flower.protocol.description import Description, parameters_of
from hetfed_lightning.flower.protocol.messages import description_of, reply_content, reply_of
from hetfed_lightning.flower.protocol.orders import Order, Reply
from hetfed_lightning.flower.protocol.reply_checks import fault_of, usable_metrics, wanted
from hetfed_lightning.flower.site.site import Site
from hetfed_lightning.methods.method import Method
from tests.flower.federating import Deployed

pytestmark = pytest.mark.promise("words")

METHODS: dict[int, Method] = {0: EnsembleDistillation(), 1: BackboneAveraging()}


@dataclass
class Spoken:
    """What one site has said of itself, what it was asked, and what it answered."""

    description: Description
    order: Order
    reply: Reply

    def fault(self, content: RecordDict | Reply) -> str:
        """Why the coordinator leaves the site out if it answers so; empty if it does not."""
        content = content if isinstance(content, RecordDict) else reply_content(content)
        found = read_or_fault(content, lambda one: reply_of(one, wanted(self.order, self.description)))
        return (
            found.reason
            if isinstance(found, Fault)
            else fault_of(found, self.order, self.description, parameters_of([self.description]), METHODS)
        )


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Spoken:
    deployed = Deployed("ab", lambda: [EnsembleDistillation(), BackboneAveraging()], tmp_path_factory.mktemp("sites"))
    site = deployed.grid.sites["a"]
    described = site.describe()
    order = Order("r", begin=0, messages={0: (), 1: tuple(described.offered[1])})
    site.carry_out(order)
    reply = site.carry_out(replace(order, finish=0, begin=1))
    return Spoken(described, replace(order, finish=0, begin=1), reply)


def test_what_an_honest_site_says_is_no_fault(spoken: Spoken) -> None:
    assert spoken.fault(spoken.reply) == ""
    assert usable_metrics(spoken.reply, spoken.description) == spoken.reply.metrics
    assert spoken.reply.metrics


def figure(key: str, value: float = 0.0) -> Callable[[Reply], Reply]:
    return lambda reply: replace(reply, metrics=reply.metrics | {key: value})


def numbers(name: str, value: float, dtype: str = "float32") -> Callable[[Reply], RecordDict]:
    """All arrays of a record are full of one number."""

    def altered(reply: Reply) -> RecordDict:
        content = reply_content(reply)
        for key, array in content.array_records[name].items():
            content.array_records[name][key] = Array(np.full(array.shape, value, dtype))
        return content

    return altered


def with_record(name: str, record: Any) -> Callable[[Reply], RecordDict]:
    def altered(reply: Reply) -> RecordDict:
        content = reply_content(reply)
        content[name] = record
        return content

    return altered


FAULTS: dict[str, tuple[Callable[[Reply], Reply | RecordDict], str]] = {
    "a figure of all": (figure("federation/epsilon/a"), "'federation/epsilon/a', which is no name of a metric"),
    "who is out": (figure("quarantined/a"), "'quarantined/a', which is no name of a metric"),
    "a path": (figure("../../x/a"), "no name of a metric"),
    "an absolute path": (figure("/etc/x/a"), "no name of a metric"),
    "markup": (figure("<b>x</b>/a"), "b x /b /a', which is no name of a metric"),
    "lines": (figure("x\nRound 9/a"), "no name of a metric"),
    "half of a pair": (figure("\ud800/a"), "no name of a metric"),
    "a million letters": (figure("x" * 10**6 + "/a"), "no name of a metric|not its own"),
    "another's": (figure("val_accuracy/b"), "not its own"),
    "very many": (lambda reply: replace(reply, metrics={f"m{k}/a": 0.0 for k in range(1001)}), "1001 figures"),
    "a number of 400 digits": (lambda reply: replace(reply, metrics={"x/a": 10**400}), "got a number of 1329 bits"),
    "samples of 400 digits": (lambda reply: replace(reply, samples=10**400), "it claims a number of 1329 bits"),
    "a round of 400 digits": (lambda reply: replace(reply, finished=10**400), "expected a round under 'finished'"),
    "an unknown name": (lambda reply: replace(reply, participant="\x1b[2J" * 10**5), r"it answers for '"),
    "no reason": (lambda reply: replace(reply, quarantined="\n\x1b"), "does not say why"),
    "another dtype": (numbers("shared.1", 0.0, "float64"), "of shape .* and float64, expected .* and float32"),
    "another place": (
        with_record("shared.7", reply_content(Reply("a", 0)).config_records["reply"]),
        "callback that nobody asked",
    ),
    "text for metrics": (with_record("metrics", ConfigRecord({"x/a": "1"})), ""),
    "a list for samples": (with_record("samples", MetricRecord({"num-examples": [1]})), r"got \[1\]"),
    "infinite weights": (numbers("shared.1", np.inf), "its weights are not finite"),
    "large weights": (
        numbers("shared.1", 3e38),
        "its weights are as large as 3e.38 at backbone.0.weight, beyond 1e.12",
    ),
    "large answers": (
        numbers("shared.0", -3e38),
        "its predictions on the public set are as large as 3e.38, beyond 1e.30",
    ),
    "infinite answers": (numbers("shared.0", -np.inf), "its predictions on the public set are not finite"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_a_lie_costs(fault: str, spoken: Spoken) -> None:
    alter, said = FAULTS[fault]
    found = spoken.fault(alter(spoken.reply))
    assert bool(found) == bool(said)
    assert re.search(said, found)
    assert found.isprintable()
    assert len(found) < 500


def test_figures_that_no_chart_holds_are_none(spoken: Spoken) -> None:
    reply = replace(spoken.reply, metrics={"x/a": 1e308, "y/a": float("-inf"), "z/a": 2.0})
    assert spoken.fault(reply) == ""
    assert str(usable_metrics(reply, spoken.description)) == "{'x/a': nan, 'y/a': nan, 'z/a': 2.0}"


def test_figures_of_who_speaks_for_another_are_nobodys(spoken: Spoken) -> None:
    reply = replace(spoken.reply, participant="b", metrics={"val_accuracy/b": 0.0})
    assert spoken.fault(reply) == "it answers for 'b'"
    assert usable_metrics(reply, spoken.description) == {}


def test_who_left_itself_out_brings_no_tensors(spoken: Spoken) -> None:
    content = reply_content(replace(spoken.reply, quarantined="its loss is not finite"))
    content.array_records["shared.1"]["backbone.0.weight"] = Array("float32", (1,), "numpy.ndarray", b"")
    assert spoken.fault(content) == "its loss is not finite"


def test_who_was_asked_for_no_step_took_one_or_not(spoken: Spoken) -> None:
    idle = replace(spoken.reply, idle=True, shared={0: spoken.reply.shared[0]})
    assert spoken.fault(idle) == ""
    start = Spoken(spoken.description, replace(spoken.order, finish=None, begin=None), spoken.reply)
    assert start.fault(idle) == "it says that it took no step, and nobody asked for one"


def test_who_took_no_step_has_an_answer_all_the_same(spoken: Spoken) -> None:
    idle = replace(spoken.reply, idle=True, shared={})
    assert spoken.fault(idle) == "its message of distillation is missing"
    assert spoken.fault(replace(spoken.reply, shared={})) == "its answer cannot be read: shared.0: there is no outputs"


def test_answers_are_of_the_layout_that_was_told(spoken: Spoken) -> None:
    (answers,) = spoken.reply.shared[0].values()
    for dtype in (torch.float64, torch.float16):
        other = spoken.reply.shared | {0: {"outputs": answers.to(dtype)}}
        assert "expected (10, 3) and float32" in spoken.fault(replace(spoken.reply, shared=other))
    unasked = replace(spoken.order, messages={1: spoken.order.messages[1]})
    assert "nobody asked" in Spoken(spoken.description, unasked, spoken.reply).fault(spoken.reply)


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"outputs": ((9, 3), "float32")}, "tells answers of {'outputs': (9, 3)} for callback 0, expected"),
        ({"outputs": ((10, 3), "float16")}, "in float32 or float64"),
        ({"outputs": ((10, 3), "float32"), "more": ((10**6,), "float32")}, "'more': (1000000,)"),
        ({}, "tells answers of {}"),
    ],
)
def test_answers_are_of_a_row_for_each_public_example(told: Any, said: str, spoken: Spoken) -> None:
    assert impossible(spoken.description, [*METHODS.values()]) == ""
    lied = replace(spoken.description, messages={**spoken.description.messages, 0: told})
    assert said in impossible(lied, [*METHODS.values()])


def told(spoken: Spoken, change: Callable[[dict[str, Any]], Any]) -> Description | Fault:
    """What the coordinator makes of a description in which something was changed, or of a text of its own."""
    read = json.loads(json.dumps(asdict(spoken.description)))
    changed = change(read)
    text = changed if isinstance(changed, str) else json.dumps(read)
    return read_or_fault(RecordDict({"description": ConfigRecord({"json": text})}), description_of)


def entry(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda read: read.update(changes)


def layout(shape: list[int], dtype: str = "float32") -> Callable[[dict[str, Any]], None]:
    return lambda read: read["offered"]["1"].update({"backbone.0.weight": [shape, dtype]})


DESCRIPTIONS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "nested": (lambda _: "[" * 100_000, "no JSON that can be read"),
    "nested objects": (lambda _: '{"a":' * 100_000, "no JSON that can be read"),
    "5,000 digits": (
        lambda _: '{"samples": ' + "9" * 5_000 + "}",
        "no JSON that can be read .*a number of 5000 digits",
    ),
    "NaN": (lambda _: '{"samples": NaN}', "NaN is no number of JSON"),
    "very long": (lambda _: " " * 10_000_001, "expected at most 10000000 characters, got 10000001"),
    "very many": (lambda _: "[" + "[]," * 600_000 + "0]", "expected at most 1000000 entries"),
    "a text": (lambda _: '"x"', "expected entries by name, got 'x'"),
    "samples of 400 digits": (entry(samples=10**400), "a number of 401 digits"),
    "samples beyond 64 bits": (entry(samples=2**63), "a number from 1 to .* under 'samples', got 9223372036854775808"),
    "no samples": (entry(samples=0), "'samples', got 0"),
    "fewer than no samples": (entry(samples=-5), "'samples', got -5"),
    "a fraction": (entry(samples=1.5), "expected int under 'samples', got 1.5"),
    "true": (entry(samples=True), "expected int under 'samples', got True"),
    "a round before the first": (entry(joins_at=-5), "'joins_at', got -5"),
    "a round that never comes": (entry(joins_at=10**9), "'joins_at', got 1000000000"),
    "gone before the first": (entry(leaves_at=-1), "'leaves_at', got -1"),
    "very wide": (entry(width=10**9), "'width', got 1000000000"),
    "no outputs": (entry(width=0), "it has 0 outputs for the 10 examples of its public set"),
    "no public set": (entry(public_size=0), "it has 3 outputs for the 0 examples"),
    "a public set of 10**12": (entry(public_size=10**12), "'public_size', got"),
    "a shape of 2**63": (layout([2**63]), "under 'offered.1.backbone.0.weight', got 9223372036854775808"),
    "a shape that no memory holds": (
        layout([2**40, 2**40]),
        "expected a shape that a memory could hold under 'offered",
    ),
    "none of very many": (layout([0, 2**40, 2**40]), "expected a shape that a memory could hold"),
    "33 dimensions": (layout([1] * 33), "expected a shape that a memory could hold"),
    "a dtype that is none": (layout([5, 4], "load"), "expected a dtype out of float64, .* got"),
    "a quantised dtype": (layout([5, 4], "quint8"), "expected a dtype out of"),
    "a personal dtype": (
        lambda read: read["personal"].update({"x": [[1], "os"]}),
        "dtype out of .* under 'personal.x'",
    ),
    "a place that is none": (lambda read: read["offered"].update({"\u00b2": {}}), "expected whole numbers for keys"),
    "a key of lines": (lambda read: read["personal"].update({"x\n": [[1], "int8"]}), "expected a printable text"),
    "offered as a list": (entry(offered=[]), "expected entries by name under 'offered'"),
    "a kind of lines": (entry(kind="x\ny"), "expected a printable text.* under 'kind'"),
    "no kind": (entry(kind=["x"]), "under 'kind'"),
    "digests that are none": (entry(foundations={"1": {"backbone.w": "f" * 100}}), "under 'foundations.1.backbone.w'"),
    "a tie to nothing": (entry(tied={"head.w": "zzz"}), "tied to 'zzz', which is neither offered nor personal"),
    "lessons": (entry(lessons=10**9), "'lessons', got 1000000000"),
    "seed": (entry(seed=10**20 - 1), "'seed'"),
    "a name of a million letters": (entry(participant="a" * 10**6), "'participant', got 'aaa"),
    "no name": (entry(participant=""), "'participant', got ''"),
    "a version that steers": (entry(versions={"hetfed-lightning": "\x1b[2J"}), "under 'versions.hetfed-lightning'"),
    "a headline that is a list": (lambda read: read["role"].update(headline=["x"]), "under 'role.headline'"),
    "an architecture of 5 MB": (lambda read: read["role"].update(architecture="A" * 5_000_000), "'role.architecture'"),
    "weights of 400 digits": (lambda read: read["role"].update(weights=2**64), "under 'role.weights'"),
    "counts of 400 digits": (entry(class_counts=[10**400] * 3), "a number of 401 digits"),
    "counts beyond all": (entry(class_counts=[13, 0, 0]), "it has 13 examples of a class, and 12 of all"),
    "unknown parameters": (entry(parameters=["zzz"]), "'zzz' is among 'parameters', and neither offered nor personal"),
    "trained buffers": (entry(parameters=[]), "is trained, and no parameter"),
    "half of a pair": (entry(callbacks=["\ud800"]), "'callbacks'"),
}


@pytest.mark.parametrize("lie", DESCRIPTIONS)
def test_what_a_description_may_not_say(lie: str, spoken: Spoken) -> None:
    change, said = DESCRIPTIONS[lie]
    found = told(spoken, change)
    assert isinstance(found, Fault)
    assert re.search(said, found.reason), found.reason
    assert found.reason.isprintable()
    assert len(found.reason) < 500


def test_a_description_arrives_as_it_was(spoken: Spoken) -> None:
    assert told(spoken, lambda _: None) == spoken.description
    assert told(spoken, entry(more="of a later version")) == spoken.description


ABSTAINS: dict[str, Any] = {"reads_public": False, "messages": {0: {}}}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"offered": {}}, r"offers layouts for the callbacks \[\], and those that send state are \[1\]"),
        ({"offered": {0: {}, 1: {}}}, r"offers layouts for the callbacks \[0, 1\]"),
        ({"foundations": {0: {}, 1: {}}}, r"tells frozen weights for the callbacks \[0\]"),
        ({"kind": "os.system"}, "tells outputs of kind 'os.system', which no ensemble here combines"),
        ({"kind": "os.system", **ABSTAINS}, ""),
        ({"reads_public": False}, "tells a layout of answers to a public set that it does not read"),
        ({"class_counts": (4, 4, 4)}, "tells examples of 3 classes, expected 0"),
        ({"class_counts": (4, 4, 4), **ABSTAINS}, ""),
        ({}, ""),
        ({"callbacks": ("X",), "offered": {}}, ""),
    ],
)
def test_what_cannot_be_beside_the_coordinators_callbacks(changes: Any, said: str, spoken: Spoken) -> None:
    callbacks = [EnsembleDistillation(), BackboneAveraging()]
    found = impossible(replace(spoken.description, **changes), callbacks)
    assert bool(found) == bool(said)
    assert re.search(said, found)


def test_counts_that_an_ensemble_needs(spoken: Spoken) -> None:
    callbacks = [EnsembleDistillation(ClassPriorWeighted()), BackboneAveraging()]
    assert impossible(spoken.description, callbacks) == "tells examples of 0 classes, expected 3"
    assert impossible(replace(spoken.description, class_counts=(4, 4, 4)), callbacks) == ""
    of_outputs = {0: {"outputs": ((10, 1), "float32")}}
    binary = replace(spoken.description, kind="binary", width=1, class_counts=(4, 4), messages=of_outputs)
    assert impossible(binary, callbacks) == ""
    # Its messages have a column for each class: two for one binary output.
    wide = [EnsembleDistillation(DensityRatioPosterior()), BackboneAveraging()]
    assert "tells answers of {'outputs': (10, 1)}" in impossible(binary, wide)
    assert impossible(replace(binary, messages={0: {"outputs": ((10, 2), "float32")}}), wide) == ""
    assert impossible(replace(spoken.description, class_counts=(4, 4, 4)), wide) == ""


class Telling:
    """A site that describes itself otherwise."""

    def __init__(self, site: Site, **changes: Any) -> None:
        self.site = site
        self.changes = changes

    def describe(self) -> Description:
        return replace(self.site.describe(), **self.changes)

    def carry_out(self, order: Order) -> Reply:
        return self.site.carry_out(order)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": 99}, r"Going on without a, which does not fit; min_participants=2 do\..*\n.*a .*\nseed +99"),
        ({"class_counts": (5,)}, "a is turned away: it tells examples of 1 classes, expected 0"),
        ({"samples": -1}, "a does not describe itself: its answer cannot be read: description: .* got -1"),
    ],
)
def test_a_description_costs_its_site_the_run_and_nobody_else(
    changes: Any, said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    deployed = Deployed("abc", lambda: [BackboneAveraging()], tmp_path, rounds=1)
    deployed.grid.sites["a"] = Telling(deployed.grid.sites["a"], **changes)  # type: ignore[assignment]
    with caplog.at_level(logging.WARNING):
        deployed.lead(min_participants=2)
    assert deployed.notes.ended == "finished"
    assert [one["federation/participants"] for one in deployed.notes.figures] == [2]
    assert re.search(said, caplog.text)
    assert {name for name, kind, _, _ in deployed.grid.sent if kind == "train"} == set("bc")


def test_the_odd_ones_by_hand() -> None:
    assert Difference({"a": "1", "b": "2", "c": "2"}).odd_ones() == {"a"}
    assert Difference({"a": "1", "b": "2"}).odd_ones() == {"a", "b"}
    assert Difference({"a": "1", "b": "1", "c": "2"}, wanted="2").odd_ones() == {"a", "b"}
    long = {f"shared {k}": Difference({"a": "none" * 100}, wanted="x") for k in range(1000)}
    lines = table(long).splitlines()
    assert len(lines) == 22
    assert lines[-1] == "and 980 more"
    assert max(map(len, lines)) < 200


def test_what_most_call_parameters_are_parameters(spoken: Spoken) -> None:
    honest = spoken.description
    silent = replace(honest, parameters=(), trained=())
    shared = set(honest.offered[1])
    assert parameters_of([honest, silent, honest]) >= shared
    assert not parameters_of([silent, silent, honest]) & shared
    assert parameters_of([honest, silent]) >= shared


@pytest.mark.parametrize("where", ["start", "round"])
def test_who_ruins_a_round_is_the_one_who_is_named(where: str, tmp_path: Path) -> None:
    """Weights of 3e38 are finite, and so is their mean: those who went on from it were named, and the run ended."""
    deployed = Deployed("abc", lambda: [BackboneAveraging()], tmp_path)

    def alter(order: Order, reply: Reply) -> Any:
        if order.begin == (None if where == "start" else 1) and reply.shared:
            return numbers("shared.0", 3e38)(reply)
        return reply

    deployed.grid.faults["a"] = alter
    leader = deployed.lead(min_participants=2)
    named = [dict(one) for one in deployed.notes.left_out]
    assert [list(one) for one in named] == ([["a"], [], []] if where == "start" else [[], ["a"], []])
    assert next(filter(None, named))["a"].startswith("its weights are as large as 3e+38 at backbone.0")
    for state in deployed.states(leader.run_id).values():
        assert all(one.isfinite().all() and one.abs().max() < 10 for one in state.values())


def test_a_site_that_comes_back_as_another_is_turned_away(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Rounds rely on what it described; as another node it describes itself again."""
    deployed = Deployed("abc", lambda: [BackboneAveraging()], tmp_path)
    honest = deployed.grid.sites["a"]

    def swap(name: str, order: Order) -> None:
        if name == "a" and order.begin == 0:
            deployed.grid.sites["a2"] = Telling(honest, samples=13)  # type: ignore[assignment]  # in a site's place
            deployed.grid.registered["a2"] = "a"
            deployed.grid.online = set("bc") | {"a2"}

    deployed.grid.hooks.append(swap)
    deployed.lead(min_participants=2)
    assert deployed.notes.ended == "finished"
    assert [list(left) for left in deployed.notes.left_out] == [[], ["a"], ["a"]]
    assert "a is turned away: it tells of another 'samples' than as it joined" in caplog.text
