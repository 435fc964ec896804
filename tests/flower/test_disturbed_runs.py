"""Runs whose processes are killed: no head is lost, and the numbers are those of a run that nothing befell."""

from pathlib import Path

import pytest
import torch

from hetfed_lightning.flower.site.site_store import Place, Stage
from hetfed_lightning.logs.run_record import Record
from scripts.flower_restarts import Plan, Result, disturbed
from scripts.restarting.watch import Saved, Watch
from tests.flower.loopback import write_config

START = {"head.weight": torch.zeros(2)}


def saved(round_index: int, stage: Stage, head: float, began: float, steps: int) -> Saved:
    one = Saved(Place(round_index, stage), {}, {}, steps)
    one.head["head.weight"] = torch.full((2,), head)
    one.began["head.weight"] = torch.full((2,), began)
    return one


T, F = Stage.TRAINED, Stage.FINISHED
WHOLE = [(0, T, 1, 0, 5), (0, F, 1, 1, 5), (1, T, 2, 1, 10), (1, F, 2, 2, 10), (2, T, 3, 2, 15)]


def watching(folder: Path, *states: tuple[int, Stage, float, float, int]) -> Watch:
    """A watch that has seen these: round, stage, head, the head that the round began with, steps."""
    made = Watch(folder, [], folder)
    made.saved, made.start = {"a": [saved(*one) for one in states]}, {"a": START}
    return made


@pytest.mark.parametrize(
    ("states", "reason"),
    [
        (WHOLE, ""),
        ([*WHOLE[:3], *WHOLE[2:]], ""),  # Its steps done once more, as after a kill.
        ([*WHOLE, (1, F, 2, 2, 10), (2, T, 3, 2, 15)], ""),  # The coordinator went back by a round.
        ([*WHOLE[:2], (2, T, 3, 1, 10)], ""),  # It missed a round.
        ([*WHOLE[:2], (1, T, 2, 0, 10)], "round 1, trained: its head does not go on"),
        ([*WHOLE[:2], (1, F, 0, 0, 5)], "round 1, finished: its head does not go on"),
        ([*WHOLE[:2], (1, T, 2, 1, 5)], "round 1, trained: 5 steps of its optimizer, after 5"),
        ([(0, T, 0, 0, 5)], "round 0, trained: 5 steps of its optimizer, after 0, and the head of the start"),
    ],
)
def test_a_head_that_does_not_go_on_is_told(states: list[tuple[int, Stage, float, float, int]], reason: str) -> None:
    found = watching(Path(), *states).breaks("a")
    assert len(found) == bool(reason)
    assert reason in "".join(found)


def test_faults_of_a_run_are_told() -> None:
    watch = watching(Path(), *WHOLE, *WHOLE)
    record = Record("run", "1", rounds=3, history=[{"round": one, "values": {}} for one in (1, 3)])
    plan = Plan("b", [], [2], done=["server killed in round 1"])
    assert Result(watch, record, 3, 1.0, plan, {"a": 1e-3}).faults() == [
        "rounds [0, 2] of 3 are recorded",
        "a did rounds [0, 1, 2] more than once",
        "not everything that was planned was done",
        "a ends 1.0e-03 from `hetfed fit`",
    ]


@pytest.mark.slow
def test_a_node_and_the_server_are_killed(tmp_path: Path) -> None:
    config = write_config(tmp_path / "small.yaml", ["clinic", "hospital"], rounds=6)
    plan = Plan("clinic", [1], [3])
    result = disturbed(config, tmp_path / "disturbed", 6, plan)
    assert plan.done == ["clinic killed in round 1, as it began", "server killed in round 3"]
    assert result.faults() == []
    assert result.missed == {"clinic": [], "hospital": []}
    assert result.far.keys() == {"clinic", "hospital"}
    assert result.redone["hospital"] == [3]
