"""Methods between parties that lie: a site bounds its coordinator, and a coordinator its sites, by name."""

import hashlib
import logging
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hetfed_lightning.flower.protocol.orders import Order, Reply
from hetfed_lightning.flower.site.order_checks import OrderError
from hetfed_lightning.flower.site.site import Site
from tests.federations import equal
from tests.flower.federating import Deployed
from tests.methods.own_methods import ControlVariates, Prototypes, Rumour

pytestmark = pytest.mark.promise("travels")

WEIGHT = "backbone.0.weight"
SHAPE = (5, 4)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Deployed("ab", lambda: [Prototypes(), ControlVariates(), Rumour()], tmp_path).grid.sites["a"]


def handed(place: int, key: str, tensor: Tensor) -> dict[str, Any]:
    return {"shared": {place: {key: tensor}}}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (handed(0, "known", torch.tensor([torch.nan])), "sends a result of Prototypes that is not finite at known"),
        (handed(1, "head.weight", torch.ones(3, 5)), "replaces head.weight, which ControlVariates does not send"),
        (handed(1, WEIGHT, torch.ones(1)), r"replaces backbone\.0\.weight by a tensor of shape \(1,\)"),
        (handed(1, WEIGHT, torch.ones(SHAPE, dtype=torch.complex64)), "and torch.complex64; here it is of"),
        (handed(1, WEIGHT, torch.full(SHAPE, 1e300, dtype=torch.float64)), "numbers that torch.float32 does not hold"),
        (handed(1, WEIGHT, torch.full(SHAPE, 2e12)), r"by a number of magnitude 2e\+12; 1e\+12 is the most"),
        (handed(5, WEIGHT, torch.ones(SHAPE)), "sends a result of callback 5, which is no method of this site"),
        ({"messages": {5: ()}}, "asks for a message of callback 5, which is no method of this site"),
        ({"messages": {2: ()}}, "asks for a message of Rumour at the end of a round; here it sends at the start"),
        ({"begin": None, "enter": 0, "messages": {0: ()}}, "of Prototypes at the start of a round; here .* at the end"),
        ({"enter": 10**9}, "enter round index 1,000,000,000"),
        ({"attend": 10**9}, "attend round index 1,000,000,000"),
    ],
)
def test_a_coordinator_is_refused(changes: dict[str, Any], said: str, site: Site, tmp_path: Path) -> None:
    site.carry_out(Order("run", begin=0, messages={0: (), 1: ()}))
    order = Order("run", finish=0, begin=1, messages={0: (), 1: ()})
    before = files(tmp_path / "a")
    with pytest.raises(OrderError, match=f"participant 'a': .*{said}"):
        site.carry_out(replace(order, **changes))
    assert files(tmp_path / "a") == before
    assert site.carry_out(order).shared.keys() == {0, 1}


def test_what_a_method_sends_beyond_what_is_shared_may_be_replaced(tmp_path: Path) -> None:
    class Heads(ControlVariates):
        def send(self, participant: Any, data: Any, work: Any, context: Any) -> Any:
            return participant.view_of(["head.bias"])

    site = Deployed("ab", lambda: [Heads()], tmp_path).grid.sites["a"]
    site.carry_out(Order("run", begin=0, messages={0: ()}))
    given = torch.tensor([1.0, 2.0, 3.0])
    site.carry_out(Order("run", finish=0, shared={0: {"head.bias": given}}))
    deployed = Deployed("a", lambda: [Heads()], tmp_path)
    assert torch.equal(deployed.states("run")["a"]["head.bias"], given)


def files(folder: Path) -> dict[str, str]:
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*.ckpt")}


def with_message(reply: Reply, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Reply:
    return replace(reply, shared={place: change(dict(one)) for place, one in reply.shared.items()})


FAULTS: dict[str, tuple[Callable[[Reply], Reply], str]] = {
    "not finite": (
        lambda reply: with_message(reply, lambda one: {key: tensor / 0 for key, tensor in one.items()}),
        "its message is not finite at sums",
    ),
    "another layout": (
        lambda reply: with_message(reply, lambda one: {key: tensor[:2] for key, tensor in one.items()}),
        r"the array 'sums' cannot be read: it is of shape \(2, 5\)",
    ),
    "a key more": (
        lambda reply: with_message(reply, lambda one: one | {"data": torch.ones(9)}),
        "there is 'data', which it did not describe",
    ),
    "nothing": (lambda reply: replace(reply, shared={}), "there is no sums and 1 more missing"),
    "for another": (
        lambda reply: replace(reply, shared={**reply.shared, 7: {"sums": torch.ones(1)}}),
        "it sends a shared state for a callback that nobody asked for",
    ),
}


def test_a_sites_fault_costs_it_one_round(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    count = len(FAULTS)
    deployed = Deployed("abc", lambda: [Prototypes()], tmp_path, rounds=count + 2)
    alters = dict(enumerate((alter for alter, _ in FAULTS.values()), start=1))
    deployed.grid.faults["b"] = lambda order, reply: alters[order.begin](reply) if order.begin in alters else reply
    deployed.lead()
    assert [list(one) for one in deployed.notes.left_out] == [[], *[["b"]] * count, []]
    for round_index, (_, said) in enumerate(FAULTS.values(), start=1):
        (reason,) = deployed.notes.left_out[round_index].values()
        assert re.search(said, reason), reason


def test_what_cannot_be_described_is_said_before_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Vague(Prototypes):
        def describe(self, participant: Any, data: Any) -> Any:
            return {"share": torch.tensor([float("nan")])}

    deployed = Deployed("ab", lambda: [Vague()], tmp_path)
    with pytest.raises(ValueError, match=r"Vague\.describe: share is not finite"):
        deployed.grid.sites["a"].describe()


def test_a_rehearsal_leaves_nothing_behind(tmp_path: Path) -> None:
    first, second = (Deployed("a", lambda: [Rumour()], tmp_path / one).grid.sites["a"] for one in "xy")
    told = first.describe()
    assert told.messages == {0: {"number": ((), "float32"), "told": ((), "float32")}}
    order = Order("run", enter=0, messages={0: ()})
    assert equal(first.carry_out(order).shared[0], second.carry_out(order).shared[0])
    assert int(first.carry_out(order).shared[0]["told"]) == 1  # The same order again is the same message.
