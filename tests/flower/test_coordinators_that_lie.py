"""A coordinator that asks for more than a site shares, or sends what it should not, is refused by the site itself."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hetfed_lightning import BackboneAveraging, EnsembleDistillation, Participant
from hetfed_lightning.checkpointing.reading import read_checkpoint
from hetfed_lightning.flower.protocol.orders import Order
from hetfed_lightning.flower.site import site_store
from hetfed_lightning.flower.site.order_checks import OrderError
from hetfed_lightning.flower.site.site import Site
from tests.flower.federating import Deployed

pytestmark = pytest.mark.promise("travels")

HEAD = {"head.weight": torch.ones(3, 5)}
WEIGHT, BIAS = "backbone.0.weight", "backbone.0.bias"
BACKBONE = {WEIGHT: torch.full((5, 4), torch.nan)}
KEYS = {1: (BIAS,)}
SURE = torch.eye(3)[torch.arange(10) % 3]
"""What an honest ensemble may say of ten public examples and three classes."""


@pytest.fixture
def site(tmp_path: Path) -> Site:
    deployed = Deployed("ab", lambda: [EnsembleDistillation(), BackboneAveraging()], tmp_path)
    return deployed.grid.sites["a"]


def weight(value: float, *shape: int, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    return {"shared": {1: {WEIGHT: torch.full(shape or (5, 4), value, dtype=dtype)}}}


def learned(targets: torch.Tensor) -> dict[str, Any]:
    return {"shared": {0: {"targets": targets}}}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"messages": {1: ("head.weight",)}}, "asks for head.weight, which this site does not share"),
        ({"messages": {0: (WEIGHT,)}}, "asks for backbone.0.weight, which this site does not share by distillation"),
        ({"messages": {7: (WEIGHT,)}}, "asks for a message of callback 7"),
        (
            {"messages": {1: (WEIGHT, BIAS) * 100_000}},
            "asks for 200,000 keys of averaging, some of them several times",
        ),
        ({"shared": {1: HEAD}}, "replaces head.weight, which averaging does not send and this site does not share"),
        ({"shared": {7: HEAD}}, "sends a result of callback 7"),
        ({"shared": {0: HEAD}}, "targets for the public set under head.weight; expected them under targets"),
        ({"shared": {0: {}}}, "targets for the public set under no key"),
        ({"shared": {0: HEAD | {"targets": SURE}}}, "under head.weight, targets; expected them under targets"),
        ({"shared": {1: BACKBONE}}, "is not finite"),
        (weight(2e12), r"replaces backbone\.0\.weight by a number of magnitude 2e\+12; 1e\+12 is the most"),
        (weight(3e38), r"backbone\.0\.weight by a number of magnitude 3e\+38"),
        (weight(1.0, 1), r"by a tensor of shape \(1,\) and torch\.float32; here it is of \(5, 4\)"),
        (weight(1.0, 20), r"of shape \(20,\)"),
        (weight(1e300, dtype=torch.float64), r"backbone\.0\.weight by numbers that torch\.float32 does not hold"),
        (weight(1.0, dtype=torch.complex64), "and torch.complex64"),
        (learned(torch.full((10, 3), torch.nan)), "a result of distillation that is not finite at targets"),
        (learned(SURE[:9]), r"of shape \(9, 3\)"),
        (learned(SURE[:, :2]), r"of shape \(10, 2\)"),
        (learned(SURE.half()), "torch.float16; expected finite ones"),
        (learned(SURE.to(torch.float8_e5m2)), "torch.float8_e5m2; expected finite ones"),
        (learned(SURE.long()), "torch.int64; expected finite ones"),
        (learned(torch.full((10, 3), 1e30)), "that are no probabilities"),
        (learned(-SURE), "that are no probabilities"),
        (learned(torch.ones(10, 3)), r"lies in \[0, 1\] and sums to 1"),
        (learned(torch.full((10, 3), 2.0)) | {"is_pupil": True}, "that are no probabilities"),
        (learned(SURE), "targets to learn (in the local steps|as a round closes); callback 0 distils with"),
        (learned(SURE) | {"finish": 0, "begin": None}, "targets to learn as a round closes"),
        *(
            ({"begin": begin}, f"train in round index {begin:,}, counted from 0; this site takes part in at most 30")
            for begin in (30, 10**6, 2**62, -1)
        ),
        ({"begin": None, "finish": 10**9}, "close round index 1,000,000,000"),
        ({"begin": None, "learn": 10**9}, "learn in round index 1,000,000,000"),
    ],
)
@pytest.mark.parametrize("trained", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_it_is_refused(changes: dict[str, Any], said: str, trained: bool, site: Site, tmp_path: Path) -> None:
    order = Order("run", begin=0, messages=KEYS)
    if trained:
        site.carry_out(order)
        order = Order("run", finish=0, begin=1, messages=KEYS)
    before = files(tmp_path / "a")
    with pytest.raises(OrderError, match=f"participant 'a': .*{said}"):
        site.carry_out(replace(order, **changes))
    # Nothing of it is kept, and an honest order is carried out afterwards.
    assert files(tmp_path / "a") == before
    assert site.carry_out(order).shared[1].keys() == {BIAS}


def files(folder: Path) -> dict[str, str]:
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*.ckpt")}


@pytest.mark.parametrize("moment", ["enter", "begin"])
def test_answers_to_a_public_set_that_is_not_there(moment: str, tmp_path: Path) -> None:
    def deaf(participant: Participant) -> None:
        vars(participant)["reads_any_of"] = lambda _: False

    made = Deployed("ab", lambda: [EnsembleDistillation()], tmp_path, changes={"a": deaf})
    with pytest.raises(OrderError, match=r"participant 'a': .* answers to the public set, which it does not read"):
        made.grid.sites["a"].carry_out(Order("run", messages={0: ()}, **{moment: 0}))  # type: ignore[arg-type]


def test_an_offer_is_asked_for_no_more(site: Site) -> None:
    with pytest.raises(OrderError, match=r"asks for head\.bias"):
        site.carry_out(Order("run", messages={1: ("head.bias",)}))
    assert site.carry_out(Order("run", messages=KEYS)).shared[1].keys() == {BIAS}


# What a site has learned


def rounds(site: Site, count: int) -> None:
    for round_index in range(count):
        before = None if round_index == 0 else round_index - 1
        site.carry_out(Order("run", finish=before, begin=round_index, messages=KEYS))
    site.carry_out(Order("run", finish=count - 1))


def heads(folder: Path) -> list[torch.Tensor]:
    """Of each state that is somewhere in a site's folder, the newest last of those of one folder."""
    paths = sorted(folder.rglob("*.ckpt"))
    return [read_checkpoint(path)["state_dict"]["participants.a.head.weight"] for path in paths]


@pytest.mark.promise("learned")
@pytest.mark.parametrize(
    "orders",
    [
        pytest.param([Order("run", begin=0, messages=KEYS)], id="begin again"),
        pytest.param([Order("run", finish=0)], id="close the first round"),
        pytest.param([Order("run", learn=2, shared={0: {"targets": SURE}})], id="learn in a closed round"),
        pytest.param([Order("run", begin=2, messages=KEYS)], id="one round back"),
        pytest.param(
            [Order("run", begin=9, messages=KEYS), Order("run", begin=0, messages=KEYS)], id="far ahead, then back"
        ),
        pytest.param([Order("run", finish=9), Order("run", finish=5), Order("run", finish=0)], id="back in steps"),
    ],
)
def test_no_order_deletes_what_was_learned(
    orders: list[Order], site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rounds(site, 3)
    learned = heads(tmp_path / "a")[-1]
    for order in orders:
        site.carry_out(order)
    assert any(torch.equal(learned, head) for head in heads(tmp_path / "a"))
    assert "set_aside" in caplog.text


@pytest.mark.promise("learned")
def test_a_run_goes_back_behind_closed_rounds_a_few_times(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site_store, "MOST_RETURNS", 2)
    for _ in range(2):
        rounds(site, 1)
        site.carry_out(Order("run", begin=0, messages=KEYS))
    site.carry_out(Order("run", finish=0))
    before = files(tmp_path / "a")
    with pytest.raises(OrderError, match="participant 'a': the coordinator goes back to round 1 of run run, and has"):
        site.carry_out(Order("run", begin=0, messages=KEYS))
    assert files(tmp_path / "a") == before
    site.carry_out(Order("run", begin=1, messages=KEYS))


# What it spends on a coordinator


@pytest.mark.promise("learned")
@pytest.mark.parametrize(
    "order",
    [Order("run", begin=0, messages=KEYS), Order("run", enter=0, messages={0: ()}), Order("run", messages=KEYS)],
)
def test_orders_that_lead_nowhere_are_counted(
    order: Order, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hetfed_lightning.flower.site.order_checks.LEAST_REPEATS", 2)
    monkeypatch.setattr("hetfed_lightning.flower.site.order_checks.MORE_ROUNDS", 1)  # The site's file says 3 rounds.
    site.carry_out(Order("run", begin=0, messages=KEYS))
    for _ in range(3):
        site.carry_out(order)
    with pytest.raises(OrderError, match=r"participant 'a': the coordinator has sent 3 orders .* bring it no further"):
        site.carry_out(order)
    site.carry_out(Order("run", finish=0, begin=1, messages=KEYS))  # What leads on is carried out.
    again = Deployed("ab", lambda: [EnsembleDistillation(), BackboneAveraging()], tmp_path).grid.sites["a"]
    with pytest.raises(OrderError, match="has sent 3 orders"):  # By another process too.
        again.carry_out(order)


@pytest.mark.promise("learned")
def test_orders_that_are_refused_are_counted(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hetfed_lightning.flower.site.order_checks.LEAST_REPEATS", 1)
    monkeypatch.setattr("hetfed_lightning.flower.site.order_checks.MORE_ROUNDS", 1)  # The site's file says 3 rounds.
    bad = Order("run", begin=0, shared={1: BACKBONE})
    for _ in range(6):
        with pytest.raises(OrderError, match="not finite"):
            site.carry_out(bad)
    with pytest.raises(OrderError, match="has sent 6 orders"):
        site.carry_out(bad)


@pytest.mark.promise("learned")
def test_runs_are_counted(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site_store, "MOST_RUNS", 2)
    for run in ("one", "two"):
        site.carry_out(Order(run, messages=KEYS))
    with pytest.raises(OrderError, match=r"run three: this site keeps states of 2 runs .* Move folders of runs away"):
        site.carry_out(Order("three", messages=KEYS))
    site.carry_out(Order("two", begin=0, messages=KEYS))


def test_why_it_was_left_out_is_one_line_of_the_log(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.carry_out(Order("run", begin=0, messages=KEYS))
    reason = "late\nRound 99: all good \x1b]0;owned\x07" + 10**6 * "a"
    site.carry_out(Order("run", finish=0, left_out=reason))
    (said,) = [message for message in caplog.messages if "left a out" in message]
    assert said.startswith("Round 1: the coordinator left a out: late Round 99: all good ]0;owned")
    assert said.isprintable()
    assert len(said) < 400
