"""What a coordinator leaves of a whole run, without processes, beside what a fit of the same federation leaves."""

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import TensorBoardLogger

from hetfed_lightning import BackboneAveraging, EnsembleDistillation, FederatedCallback, FederationMonitor, RunRecord
from hetfed_lightning.distillation import ClassPriorWeighted
from hetfed_lightning.flower.coordinator.journal import Journal
from hetfed_lightning.flower.protocol.orders import Order
from hetfed_lightning.logs.run_record import Record
from tests.federations import fit
from tests.flower.events import images, layouts, scalars, texts
from tests.flower.federating import Deployed

SECONDS, BYTES_DOWN = "federation/seconds_per_round", "federation/bytes_down"


class Killed(BaseException):
    """The coordinator's process ends."""


def callbacks() -> list[FederatedCallback]:
    return [EnsembleDistillation(ClassPriorWeighted()), BackboneAveraging()]


def written(deployed: Deployed) -> Path:
    """Have the coordinator of now write into the folder of the run."""
    folder = deployed.folder / "run"
    made: Any = Journal(folder, config="seed: 0", name="run", seed=0, rounds=deployed.rounds)
    deployed.notes = made
    return folder


@pytest.mark.parametrize("kill", [11, pytest.param(0, marks=pytest.mark.slow)])
def test_a_run_leaves_what_a_fit_leaves(kill: int, tmp_path: Path) -> None:
    """Not killed, or after the first round was written and before that was noted: it is written again."""
    deployed = Deployed("abc", callbacks, tmp_path / "sites")
    board = TensorBoardLogger(tmp_path, name="local", version="0")
    monitor, record = FederationMonitor("seed: 0"), RunRecord(config="seed: 0", name="run")
    fit(deployed.everyone(), deployed.data("abc"), deployed.rounds, *callbacks(), monitor, record, logger=board)
    board.experiment.close()
    orders = []

    def hook(name: str, order: Order) -> None:
        del name
        orders.append(order)
        if len(orders) == kill:
            raise Killed

    folder = written(deployed)
    deployed.grid.hooks.append(hook)
    if kill:
        with pytest.raises(Killed):
            deployed.lead()
        written(deployed)
    deployed.lead(resume=bool(kill))
    local = Path(board.log_dir)
    expected, found = scalars(local), scalars(folder)
    assert found.keys() == expected.keys()
    assert found.pop(SECONDS).keys() == expected.pop(SECONDS).keys()
    # Whether the start has travelled is another matter between institutions.
    assert found.pop(BYTES_DOWN).keys() == expected.pop(BYTES_DOWN).keys()
    for tag, points in expected.items():
        assert found[tag] == pytest.approx(points, abs=1e-6), tag
    assert layouts(folder)[-1] == layouts(local)[-1]
    assert {name: pages[-1][1] for name, pages in texts(folder).items()} == {
        name: pages[-1][1] for name, pages in texts(local).items()
    }
    assert {*images(folder)} == {"federation/label_distribution", "federation/teacher_agreement_matrix"}
    of_fit, of_run = Record.read(local), Record.read(folder)
    assert of_run.participants == of_fit.participants
    assert of_run.label_counts == of_fit.label_counts
    assert [one["round"] for one in of_run.history] == [1, 2, 3]
    assert [one["values"].keys() for one in of_run.history] == [one["values"].keys() for one in of_fit.history]
    assert (of_run.finished, of_run.left_out) == (True, [])
