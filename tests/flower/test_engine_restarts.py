"""Processes that are killed and started again, while an app runs and between two runs."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hetfed_lightning.flower.engine.control import Control
from hetfed_lightning.flower.engine.local_engine import LocalEngine
from tests.flower.engines import EMPTY_APP, empty_engine, rounds, run_to_end, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.promise("restarts")]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalEngine]:
    with empty_engine(tmp_path_factory.mktemp("restarts"), "clinic", "hospital") as engine:
        yield engine


@pytest.fixture
def control(engine: LocalEngine) -> Iterator[Control]:
    with engine.control() as control:
        yield control


def said_by(engine: LocalEngine, site: str) -> str:
    return (engine.folder / f"{site}.log").read_text(encoding="utf-8")


def test_a_node_killed_between_rounds_is_started_again_as_the_same(engine: LocalEngine, control: Control) -> None:
    run = control.start_run(EMPTY_APP, {"rounds": 4, "pause": 3.0})
    before = dict(engine.node_ids)
    wait_until(lambda: said_by(engine, "clinic").count("clinic answers") >= 1, 60, "the first message is answered")
    time.sleep(1.0)
    engine.kill_node("clinic")
    assert [sentence.split(" (see")[0] for sentence in engine.look_after()] == [
        "clinic: its SuperNode was ended by signal 9"
    ]
    told = rounds("".join(control.logs(run)))
    answered = [each["answered"] for each in told]
    assert answered[0] == answered[-1] == answered[-2] == ["clinic", "hospital"], "a message while it is away is lost"
    assert answered[1] in (["hospital"], ["clinic", "hospital"])
    assert control.nodes() == dict.fromkeys(before.values(), "online")
    assert max(each["seconds"] for each in told) < 15, "and not after the minute that an absent node is waited for"


def test_a_node_killed_at_work_costs_that_message_and_no_more(engine: LocalEngine, control: Control) -> None:
    seen = said_by(engine, "clinic").count("clinic answers")
    run = control.start_run(EMPTY_APP, {"rounds": 2, "work": 4.0})
    wait_until(lambda: said_by(engine, "clinic").count("clinic answers") > seen, 60, "the message is worked on")
    engine.kill_node("clinic")
    engine.look_after()
    told = rounds("".join(control.logs(run)))
    assert [each["answered"] for each in told] == [["hospital"], ["clinic", "hospital"]]
    assert len(told[0]["errors"]) == 1
    assert said_by(engine, "clinic").count("clinic answers") == seen + 2


def test_a_superlink_that_is_killed_knows_its_nodes_when_it_is_back(engine: LocalEngine, control: Control) -> None:
    old = control.start_run(EMPTY_APP, {"rounds": 1000})
    wait_until(lambda: control.outcome(old).status == "running", 60, "the run goes on")
    engine.kill_superlink()
    engine.restart_superlink()
    said = run_to_end(engine, rounds=2)
    assert [each["answered"] for each in rounds(said)] == [["clinic", "hospital"]] * 2
    assert control.nodes() == dict.fromkeys(engine.node_ids.values(), "online")
    if not control.outcome(old).is_finished:  # as it is on a slow machine, where nobody has led it for a minute
        control.stop_run(old)
    assert control.outcome(old).sub_status in {"stopped", "failed"}


def test_an_executor_that_ends_is_started_again(engine: LocalEngine, tmp_path: Path) -> None:
    assert engine.executor is not None
    engine.executor.kill()
    assert ["executor" in sentence for sentence in engine.look_after()] == [True]
    assert [each["answered"] for each in rounds(run_to_end(engine, rounds=1))] == [["clinic", "hospital"]]
