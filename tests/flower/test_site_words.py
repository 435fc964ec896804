"""A site's words are looked at, one reply or description at a time, as the coordinator looks at them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ConfigRecord, MetricRecord, RecordDict

from hetfed_lightning import BackboneAveraging, EnsembleDistillation
from hetfed_lightning.flower.checks import fault_of, usable_metrics, wanted
from hetfed_lightning.flower.description import Description
from hetfed_lightning.flower.exchange import read_or_fault
from hetfed_lightning.flower.messages import reply_content, reply_of
from hetfed_lightning.flower.orders import Order, Reply
from hetfed_lightning.flower.volley import Fault
from tests.flower.federating import Deployed

pytestmark = pytest.mark.promise("words")


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
        return found.reason if isinstance(found, Fault) else fault_of(found, self.order, self.description)


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Spoken:
    deployed = Deployed("ab", lambda: [EnsembleDistillation(), BackboneAveraging()], tmp_path_factory.mktemp("sites"))
    site = deployed.grid.sites["a"]
    described = site.describe()
    order = Order("r", begin=0, answer_after=True, keys={1: tuple(described.offered[1])})
    site.carry_out(order)
    reply = site.carry_out(replace(order, finish=0, begin=1))
    return Spoken(described, replace(order, finish=0, begin=1), reply)


def test_what_an_honest_site_says_is_no_fault(spoken: Spoken) -> None:
    assert spoken.fault(spoken.reply) == ""
    assert usable_metrics(spoken.reply) == spoken.reply.metrics
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
    "infinite answers": (numbers("answers", -np.inf), "its predictions on the public set are not finite"),
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
    assert str(usable_metrics(reply)) == "{'x/a': nan, 'y/a': nan, 'z/a': 2.0}"


def test_who_left_itself_out_brings_no_tensors(spoken: Spoken) -> None:
    content = reply_content(replace(spoken.reply, quarantined="its loss is not finite"))
    content.array_records["shared.1"]["backbone.0.weight"] = Array("float32", (1,), "numpy.ndarray", b"")
    assert spoken.fault(content) == "its loss is not finite"


def test_float64_answers_are_as_good(spoken: Spoken) -> None:
    assert spoken.reply.answers is not None
    assert spoken.fault(replace(spoken.reply, answers=spoken.reply.answers.double())) == ""
    assert "expected" in spoken.fault(replace(spoken.reply, answers=spoken.reply.answers.half()))
    assert "nobody asked" in Spoken(spoken.description, replace(spoken.order, answer_after=False), spoken.reply).fault(
        spoken.reply
    )
