"""A site that fails costs itself one round, by name; the others go on, and too few end the run in time."""

import logging
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Array, Error, RecordDict

from hetfed_lightning import BackboneAveraging, EnsembleDistillation, PrivateAveraging
from hetfed_lightning.federation.quarantine import TooFewParticipantsError
from hetfed_lightning.flower.coordinator.messenger import Messenger
from hetfed_lightning.flower.coordinator.requests import Fault
from hetfed_lightning.flower.coordinator.site_compatibility import DisagreementError
from hetfed_lightning.flower.protocol.messages import WORK, reply_content, reply_of
from hetfed_lightning.flower.protocol.orders import Order, Reply
from hetfed_lightning.flower.site.site import Site
from tests.federations import equal, tiny_data
from tests.flower.federating import Deployed

pytestmark = pytest.mark.promise("sites")

ROUND = 1
"""In which a site fails."""


def in_round(alter: Callable[[Reply], Any]) -> Callable[[Order, Reply], Any]:
    """A fault in one round alone."""
    return lambda order, reply: alter(reply) if ROUND in (order.begin, order.learn) else reply


def with_state(reply: Reply, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Reply:
    return replace(reply, shared={place: change(dict(state)) for place, state in reply.shared.items()})


def nan(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: torch.full_like(tensor, torch.nan) for key, tensor in state.items()}


def with_file(reply: Reply, shape: str) -> RecordDict:
    """An array of the reply declares another shape, and brings no numbers."""
    content = reply_content(reply)
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({shape}), }}\n".encode()
    data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    content.array_records["shared.0"]["backbone.0.weight"] = Array("float32", (5, 4), "numpy.ndarray", data)
    return content


FAULTS: dict[str, tuple[Callable[[Reply], Any], str]] = {
    "error": (lambda _: Error(1, "CUDA out of\nmemory"), r"its node reports an error \(CUDA out of memory\)"),
    "slow": (lambda _: None, r"no answer within 0\.5 s \(deadline\)"),
    "NaN": (lambda reply: with_state(reply, nan), "its weights are not finite"),
    "a key less": (lambda reply: with_state(reply, lambda one: dict([*one.items()][1:])), "no backbone.0.weight"),
    "a key more": (
        lambda reply: with_state(reply, lambda one: one | {"head.weight": torch.ones(1)}),
        "'head.weight', which it did not describe",
    ),
    "another shape": (
        lambda reply: with_state(reply, lambda one: {key: tensor[:1] for key, tensor in one.items()}),
        r"'backbone.0.weight' cannot be read: it is of shape \(1, 4\)",
    ),
    "another dtype": (
        lambda reply: with_state(reply, lambda one: {key: tensor.double() for key, tensor in one.items()}),
        "float64",
    ),
    "no state": (lambda reply: replace(reply, shared={}), "no backbone.0.weight and 1 more missing"),
    "its size": (lambda reply: replace(reply, samples=10**12), "claims 1000000000000 training examples, and had 16"),
    "another's name": (lambda reply: replace(reply, participant="a"), "it answers for 'a'"),
    "another's figures": (lambda reply: replace(reply, metrics={"val_accuracy/a": 1.0}), "'val_accuracy/a'"),
    "a size that is only declared": (
        lambda reply: with_file(reply, "10000000000000,"),
        r"of shape \(10000000000000,\) and float32, expected",
    ),
    "lines for a reason": (lambda reply: replace(reply, quarantined="a\n\x1b[2JRound 9"), r"out: a \[2JRound 9\.$"),
    "no records": (lambda _: RecordDict(), "its answer cannot be read: expected a record 'reply', found none"),
}


def test_a_fault_costs_the_site_one_round(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A fault in every round but the first and the last, and then the site is as the others are."""
    count = len(FAULTS)
    settings = {"deadline": 0.5}
    deployed = Deployed("abc", lambda: [BackboneAveraging()], tmp_path, rounds=count + 2, settings=settings)
    alters = dict(enumerate((alter for alter, _ in FAULTS.values()), start=1))
    deployed.grid.faults["b"] = lambda order, reply: alters[order.begin](reply) if order.begin in alters else reply
    with caplog.at_level(logging.WARNING):
        leader = deployed.lead(min_participants=2)
    assert [list(left) for left in deployed.notes.left_out] == [[], *[["b"]] * count, []]
    said = [message for message in caplog.messages if "left out" in message]
    assert len(said) == count
    for place, (fault, (_, reason)) in enumerate(FAULTS.items(), start=1):
        assert said[place - 1].startswith(f"Round {place + 1}: b is left out: "), fault
        assert re.search(reason, said[place - 1]), fault
    assert [one["federation/participants"] for one in deployed.notes.figures] == [3, *[2] * count, 3]
    assert [one["federation/quarantined"] for one in deployed.notes.figures] == [0, *[1] * count, 0]
    states = deployed.states(leader.run_id)
    shared = {
        name: {key: one for key, one in state.items() if key.startswith("backbone")} for name, state in states.items()
    }
    assert equal(shared["a"], shared["b"])
    assert all(torch.isfinite(one).all() for state in states.values() for one in state.values())


def test_what_a_round_without_the_site_gives_is_the_mean_of_the_others(tmp_path: Path) -> None:
    deployed = Deployed("abc", lambda: [BackboneAveraging(weighting="uniform")], tmp_path, rounds=1)
    sent: dict[str, Any] = {}

    def keep(name: str) -> Callable[[Order, Reply], Any]:
        def alter(order: Order, reply: Reply) -> Any:
            if order.begin == 0:
                sent[name] = reply.shared[0]
            return with_state(reply, nan) if name == "b" and order.begin == 0 else reply

        return alter

    deployed.grid.faults = {name: keep(name) for name in "abc"}
    leader = deployed.lead()
    found = deployed.states(leader.run_id)["b"]
    for key in sent["a"]:
        assert torch.allclose(found[key], (sent["a"][key] + sent["c"][key]) / 2)


@pytest.mark.parametrize(
    "answers",
    [
        None,
        torch.full((10, 3), torch.nan),
        *(
            pytest.param(answers, marks=pytest.mark.slow)  # Looked at before they are combined, as tests of words show.
            for answers in (torch.ones(10, 4), torch.ones(9, 3), torch.ones(10, 3).long())
        ),
    ],
)
@pytest.mark.parametrize("mode", ["mixed", pytest.param("phase", marks=pytest.mark.slow)])
def test_answers_that_cannot_be_used(mode: Any, answers: Any, tmp_path: Path) -> None:
    deployed = Deployed("abc", lambda: [EnsembleDistillation(mode=mode)], tmp_path)
    deployed.grid.faults["b"] = lambda order, reply: (
        replace(reply, shared={} if answers is None else {0: {"outputs": answers}})
        if ROUND in (order.begin, order.enter) and 0 in reply.shared
        else reply
    )
    leader = deployed.lead(min_participants=2)
    left = [list(one) for one in deployed.notes.left_out]
    assert left[0] == left[2] == []
    assert left[1] == ["b"]
    assert all(torch.isfinite(one).all() for state in deployed.states(leader.run_id).values() for one in state.values())


@pytest.mark.filterwarnings("ignore:.*non-finite.*")
def test_a_site_with_data_that_is_not_finite_leaves_itself_out_and_keeps_its_state(tmp_path: Path) -> None:
    """As in one process: it returns to the state that it began the round with, and receives what is shared."""

    def with_infinity(names: Any) -> Any:
        made = tiny_data(names)
        poisoned: Any = made.data.train["b"]
        poisoned.inputs[3] = torch.inf
        return made

    deployed = Deployed("abc", lambda: [BackboneAveraging()], tmp_path, data=with_infinity)
    states, _ = deployed.in_one_fit()
    leader = deployed.lead(min_participants=2)
    found = deployed.states(leader.run_id)
    assert all(equal(found[name], states[name]) for name in "abc")
    assert all("not finite" in one["b"] for one in deployed.notes.left_out)


def test_too_few_end_the_run_by_name(tmp_path: Path) -> None:
    deployed = Deployed("abc", lambda: [BackboneAveraging()], tmp_path, settings={"deadline": 0.2})
    deployed.grid.faults = {name: in_round(lambda _: None) for name in "bc"}
    with pytest.raises(
        TooFewParticipantsError, match=r"Round 2: 1 of 3 .* \(b: no answer within 0.2 s.*; c: no answer"
    ):
        deployed.lead(min_participants=2)
    assert "Round 2" in deployed.notes.ended
    # Once they are mended it goes on, and with the same numbers as if nothing had been.
    deployed.grid.faults = {}
    leader = deployed.lead(resume=True, min_participants=2)
    states, _ = deployed.in_one_fit()
    found = deployed.states(leader.run_id)
    assert all(equal(found[name], states[name]) for name in "abc")


@pytest.mark.parametrize(
    ("away", "left"),
    [
        pytest.param("a while", [], marks=pytest.mark.slow),
        pytest.param("for good", ["b"], marks=pytest.mark.slow),
        ("at each order", ["b"]),
    ],
)
def test_a_node_that_drops_out_and_comes_back_is_asked_again(
    away: str, left: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hetfed_lightning.flower.coordinator.requests.LOOK", 0.0)
    monkeypatch.setattr("hetfed_lightning.flower.coordinator.requests.GRACE", 0.3)
    deployed = Deployed("abc", lambda: [BackboneAveraging()], tmp_path)
    asked: list[int] = []

    def drop(order: Order, reply: Reply) -> Any:
        if order.begin != ROUND or (away == "a while" and asked):
            return reply
        asked.append(1)
        if away == "for good":
            deployed.grid.online.discard("b")
        return Error(5, "node is unavailable")

    deployed.grid.faults["b"] = drop
    deployed.lead()
    assert list(deployed.notes.left_out[ROUND]) == left
    assert len(asked) == {"a while": 1, "for good": 1, "at each order": 3}[away]


@pytest.mark.parametrize("kind", [MemoryError, RecursionError, OverflowError, UnicodeDecodeError, AttributeError])
@pytest.mark.parametrize("where", ["taken apart", "read"])
def test_whatever_a_reply_ends_with_is_its_sites_fault(
    kind: type[Exception], where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine inflates what came, and may end with anything; what it had of the others is not lost."""
    deployed = Deployed("abc", lambda: [BackboneAveraging()], tmp_path)
    error = kind("utf-8", b"", 0, 1, "said") if kind is UnicodeDecodeError else kind("said")
    messenger = Messenger(deployed.grid)
    messenger.nodes = {name: deployed.grid.node_of(name) for name in "abc"}
    told = {name: deployed.grid.sites[name].describe() for name in "abc"}
    pull = deployed.grid.pull_messages

    def broken(content: Any) -> bool:
        return "reply" in content.config_records and content.config_records["reply"]["participant"] == "b"

    def pulled(numbers: Any) -> Any:
        found = pull(numbers)
        if where == "taken apart" and any(broken(one.content) for one in found):
            raise error
        return found

    def read(content: Any, wanted: Any) -> Reply:
        if where == "read" and broken(content):
            raise error
        return reply_of(content, wanted)

    deployed.grid.pull_messages = pulled  # type: ignore[method-assign,assignment]
    monkeypatch.setattr("hetfed_lightning.flower.coordinator.messenger.reply_of", read)
    orders = {name: Order("r", messages={0: ("backbone.0.bias",)}) for name in "abc"}
    found = messenger.carry_out(orders, 5.0, told)
    assert [type(one) for one in found.values()] == [Reply, Fault, Reply]
    assert found["b"].reason.startswith(f"its answer cannot be {where}: {kind.__name__}: ")  # type: ignore[union-attr]
    assert "said" in found["b"].reason  # type: ignore[union-attr]


def test_an_engine_that_cannot_be_reached_is_nobodys_fault(tmp_path: Path) -> None:
    deployed = Deployed("ab", lambda: [BackboneAveraging()], tmp_path)

    def unreachable(numbers: Any) -> Any:
        raise ConnectionError(str(numbers))

    deployed.grid.pull_messages = unreachable  # type: ignore[method-assign,assignment]
    with pytest.raises(ConnectionError):
        deployed.lead()


def test_a_deadline_is_kept(tmp_path: Path) -> None:
    """By a clock of the test's own, which goes on by a second at every look."""
    deployed = Deployed("ab", lambda: [BackboneAveraging()], tmp_path)
    deployed.grid.faults["b"] = lambda order, reply: None
    looks: list[float] = []
    messenger = Messenger(deployed.grid, looks.append)
    messenger.nodes = {"b": deployed.grid.node_of("b")}
    told = {"b": deployed.grid.sites["b"].describe()}
    began = time.monotonic()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "monotonic", lambda: began + len(looks))
        found = messenger.carry_out({"b": Order("r", messages={0: ("backbone.0.bias",)})}, 5.0, told)
    assert found == {"b": Fault("no answer within 5 s (deadline)")}
    assert len(looks) == 5


@pytest.mark.parametrize(
    ("deadline", "reason"),
    [(1.0, "no answer within 1 s (deadline)"), (60.0, "its node reports an error (may have expired)")],
)
def test_a_message_that_the_engine_lets_expire_was_late(deadline: float, reason: str, tmp_path: Path) -> None:
    deployed = Deployed("ab", lambda: [BackboneAveraging()], tmp_path)
    deployed.grid.faults["b"] = lambda order, reply: Error(3, "may have expired")
    messenger = Messenger(deployed.grid)
    messenger.nodes = {"b": deployed.grid.node_of("b")}
    told = {"b": deployed.grid.sites["b"].describe()}
    found = messenger.carry_out({"b": Order("r", messages={0: ("backbone.0.bias",)})}, deadline, told)
    assert found == {"b": Fault(reason)}


def test_too_few_at_the_start(tmp_path: Path) -> None:
    deployed = Deployed("abc", lambda: [BackboneAveraging()], tmp_path)
    deployed.grid.online = {"a"}
    with pytest.raises(TooFewParticipantsError, match=r"1 sites are connected after .* Not there: b, c"):
        deployed.lead(min_participants=2)


def test_sites_that_do_not_fit_end_the_run_before_training(tmp_path: Path) -> None:
    def another(names: Any) -> Any:
        made = tiny_data(names)
        made.data.public.inputs[0] += 1  # type: ignore[union-attr]
        return made

    deployed = Deployed("abc", lambda: [EnsembleDistillation(), BackboneAveraging()], tmp_path)
    other = Deployed("abc", lambda: [EnsembleDistillation(), BackboneAveraging()], tmp_path / "other", data=another)
    deployed.grid.sites["b"] = other.grid.sites["b"]
    with pytest.raises(DisagreementError) as caught:
        deployed.lead()
    lines = str(caught.value).splitlines()
    assert lines[1].split() == ["a", "b", "c"]
    assert lines[2].startswith("public set")
    assert not [kind for _, kind, _, _ in deployed.grid.sent if kind == "train"]


def test_an_architecture_that_was_not_agreed_on_is_told_by_key(tmp_path: Path) -> None:
    deployed = Deployed("ab", lambda: [BackboneAveraging()], tmp_path)
    promised = {"backbone.0.weight": ((5, 4), "float32"), "backbone.0.bias": ((6,), "float32")}
    with pytest.raises(DisagreementError) as caught:
        deployed.lead(layouts={"b": promised})
    lines = str(caught.value).splitlines()
    assert lines[1].split() == ["coordinator", "b"]
    assert lines[2].split() == ["shared", "backbone.0.bias", "(6,)", "float32", "(5,)", "float32"]
    assert len(lines) == 4


def test_a_site_that_is_away_comes_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    deployed = Deployed("abc", lambda: [BackboneAveraging()], tmp_path, rounds=5)

    def away(name: str, order: Order) -> None:
        if name == "c" and order.begin is not None:
            deployed.grid.online = set("ac") if order.begin in (1, 2) else set("abc")

    deployed.grid.hooks.append(away)
    leader = deployed.lead()
    assert [list(one) for one in deployed.notes.left_out] == [[], [], ["b"], ["b"], []]
    assert "Round 3: b is left out: its node is not connected." in caplog.text
    states = deployed.states(leader.run_id)
    assert equal(*({key: states[name][key] for key in states["a"] if "backbone" in key} for name in "ab"))
    assert "val_accuracy/b" in deployed.notes.metrics[-1]


def test_those_who_are_there_go_on_though_they_have_nothing_in_common(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The other half of a pair is missing as the run begins, and comes later."""
    deployed = Deployed("ab", lambda: [BackboneAveraging()], tmp_path)
    deployed.grid.online = {"a"}
    deployed.grid.hooks.append(lambda _, order: deployed.grid.online.add("b") if order.begin == 0 else None)
    deployed.lead()
    assert "For now averaging goes on as before: the groups of a cannot be found" in caplog.text
    assert [one["federation/participants"] for one in deployed.notes.figures] == [1, 2, 2]
    assert "federation/divergence" in deployed.notes.figures[-1]


def test_a_newcomer_that_nobody_expected(tmp_path: Path) -> None:
    deployed = Deployed("abc", lambda: [BackboneAveraging()], tmp_path)
    deployed.grid.online = set("ab")
    deployed.grid.hooks.append(lambda _, order: deployed.grid.online.add("c") if order.begin == 1 else None)
    made = deployed.coordinator()
    made.sites.order.remove("c")
    object.__setattr__(made.config, "sites", ("a", "b"))
    made.lead()
    assert deployed.notes.introduced[-1] == ["a", "b", "c"]
    first = next(order for name, kind, order, _ in deployed.grid.sent if name == "c" and kind == "train")
    assert first.config_records["order"]["begin"] == 2
    assert "shared.0" in first.array_records
    assert {"val_accuracy/a", "val_accuracy/c"} <= deployed.notes.metrics[-1].keys()


@pytest.mark.parametrize("claim", ["another's", "a second"])
def test_a_node_that_claims_to_be_another(claim: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    deployed = Deployed("abc", lambda: [BackboneAveraging()], tmp_path)
    deployed.grid.sites["d"] = deployed.grid.sites["a"]
    deployed.grid.started["d"] = "1"
    deployed.grid.online.add("d")
    if claim == "another's":  # Whose own node is away.
        deployed.grid.registered["d"] = "d"
        deployed.grid.online.remove("a")
    deployed.lead()
    assert "turned away: it claims to be 'a'" in caplog.text
    assert [name for name, kind, _, _ in deployed.grid.sent if name == "d"] == ["d"]


def test_a_node_that_was_started_again_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hetfed_lightning.flower.coordinator.requests.LOOK", 0.0)
    deployed = Deployed("abc", lambda: [BackboneAveraging()], tmp_path)
    lost: list[int] = []

    def once(order: Order, reply: Reply) -> Any:
        if order.begin == ROUND and not lost:
            lost.append(1)
            deployed.grid.started["b"] = "2"
            return None
        return reply

    states, _ = deployed.in_one_fit()
    deployed.grid.faults["b"] = once
    leader = deployed.lead()
    found = deployed.states(leader.run_id)
    assert lost
    assert not any(deployed.notes.left_out)
    assert all(equal(found[name], states[name]) for name in "abc")


def test_a_node_that_was_turned_away_is_asked_again_once_it_was_started_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    deployed = Deployed("abc", lambda: [BackboneAveraging()], tmp_path, rounds=4)
    deployed.grid.registered["c"] = "d"

    def mend(name: str, order: Order) -> None:
        del name
        if order.begin == 1:
            deployed.grid.registered["c"], deployed.grid.started["c"] = "c", "2"

    deployed.grid.hooks.append(mend)
    with pytest.MonkeyPatch.context() as patch, caplog.at_level(logging.INFO, "hetfed_lightning"):
        patch.setattr("hetfed_lightning.flower.coordinator.connected_sites.PATIENCE", 0.0)
        deployed.lead()
    assert caplog.text.count("is turned away") == 1
    assert "Round 3: c joins." in caplog.text
    assert "val_accuracy/c" in deployed.notes.metrics[-1]


def test_a_node_that_cannot_describe_itself_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    deployed = Deployed("abc", lambda: [BackboneAveraging()], tmp_path)

    def broken() -> Any:
        raise FileNotFoundError("patients.csv: no such file")

    deployed.grid.sites["c"]._make = broken
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hetfed_lightning.flower.coordinator.connected_sites.PATIENCE", 0.0)
        deployed.lead()
    assert caplog.text.count("c does not describe itself: its node reports an error") == 1
    assert "patients.csv: no such file" in caplog.text


def test_a_full_disk_at_the_coordinator_costs_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    deployed = Deployed("ab", lambda: [BackboneAveraging()], tmp_path)

    def full(content: Any, path: Any) -> None:
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hetfed_lightning.flower.coordinator.coordinator.write_checkpoint", full)
        deployed.lead()
    assert deployed.notes.ended == "finished"
    assert "coordinator.ckpt could not be written: No space left on device" in caplog.text


def private() -> list[Any]:
    return [PrivateAveraging(noise_multiplier=2.0, max_update_norm=0.1, delta=0.01)]


def test_a_private_average_that_cannot_be_accounted_for_is_not_sent(tmp_path: Path) -> None:
    deployed = Deployed("ab", private, tmp_path)

    def full(content: Any, path: Any) -> None:
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hetfed_lightning.flower.coordinator.coordinator.write_checkpoint", full)
        with pytest.raises(OSError, match="No space left"):
            deployed.lead()
    down = [content for _, kind, content, _ in deployed.grid.sent if kind == WORK]
    # The common start, once to each, and nothing that was made of what the sites sent.
    assert sum(any(name.startswith("shared") for name in content.array_records) for content in down) == 2


def test_a_private_account_stays_when_its_participant_leaves(tmp_path: Path) -> None:
    deployed = Deployed("abc", private, tmp_path, own={"b": {"leaves_at": 1}})
    leader = deployed.lead()
    counts = {"a": 3, "b": 1, "c": 3}
    assert leader.methods[0].method.releases == counts  # type: ignore[attr-defined]
    again = deployed.coordinator(resume=True)
    assert again.methods[0].method.releases == counts  # type: ignore[attr-defined]


def test_a_full_disk_at_a_site_costs_it_the_round(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from hetfed_lightning.flower.site import site_store

    deployed = Deployed("ab", lambda: [BackboneAveraging()], tmp_path)
    write = vars(site_store)["write_checkpoint"]

    def full_at_b(content: Any, path: Path) -> None:
        if path.parent.parent.name == "b" and path.name == "round-000001-trained.ckpt":
            raise OSError(28, "No space left on device")
        write(content, path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(site_store, "write_checkpoint", full_at_b)
        deployed.lead()
    assert [list(one) for one in deployed.notes.left_out] == [[], ["b"], []]
    assert "No space left on device" in caplog.text


@pytest.mark.parametrize("mode", [pytest.param("mixed", marks=pytest.mark.slow), "phase"])
def test_a_coordinator_leads_more_rounds_than_the_sites_files_say(mode: Any, tmp_path: Path) -> None:
    deployed = Deployed("abc", lambda: [EnsembleDistillation(mode=mode), BackboneAveraging()], tmp_path, rounds=4)
    for name in "abc":
        make = deployed.parts_of(name)
        deployed.grid.sites[name] = Site(lambda make=make: replace(make(), rounds=2), tmp_path / name)  # type: ignore[misc]
    states, _ = deployed.in_one_fit()
    leader = deployed.lead()
    found = deployed.states(leader.run_id)
    assert not any(deployed.notes.left_out)
    assert all(equal(found[name], states[name]) for name in "abc")
