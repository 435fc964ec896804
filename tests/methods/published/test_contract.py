"""One battery for every published method, found by walking the folder: a new file is tested before it has tests."""

import functools
import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from hetfed_lightning import Federation
from tests.federations import equal, fit, state_of, tiny_data, tiny_participant
from tests.flower.federating import Deployed, Rounds
from tests.flower.test_methods import same_as_in_one_fit
from tests.methods.published.finding import METHODS, made_alike

ROUNDS = 4


every_method = pytest.mark.parametrize("kind", METHODS.values(), ids=METHODS)


def together(kind: Any, *, participation: float = 0.6, changes: bool = True, **settings: Any) -> Federation:
    """Participants of which not all are sampled; one joins late, one leaves early."""
    own: dict[str, dict[str, Any]] = {name: {} for name in "abcd"}
    if changes:
        own["c"], own["d"] = {"leaves_at": 2}, {"joins_at": 1}
    made = {name: tiny_participant(seed=place, **own[name]) for place, name in enumerate("abcd")}
    for one in made.values():
        made_alike(kind, one)
    return Federation(made, participation=participation, **settings)


@every_method
def test_it_is_deterministic_finite_and_goes_on_as_if_never_stopped(kind: Any, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"enable_checkpointing": True, "default_root_dir": tmp_path}

    def saving(folder: str) -> ModelCheckpoint:
        return ModelCheckpoint(tmp_path / folder, "{epoch}", save_top_k=-1)

    whole, method = together(kind), kind()
    rounds = Rounds()
    fit(whole, tiny_data("abcd"), ROUNDS, method, saving("whole"), rounds, **settings)
    assert all(torch.isfinite(one).all() for one in state_of(whole).values())
    if method.exchanges:
        assert any(one[f"federation/bytes_up/{method.title}"] > 0 for one in rounds.metrics)
    memory = method.state_dict()["memory"]
    assert "c" not in memory  # It has left.
    resumed = together(kind)
    fit(resumed, tiny_data("abcd"), ROUNDS, kind(), ckpt_path=tmp_path / "whole" / "epoch=1.ckpt", **settings)
    assert equal(state_of(resumed), state_of(whole))


@pytest.mark.slow
@every_method
def test_a_fleet_ends_where_one_after_another_do(kind: Any) -> None:
    ends = []
    for engine in ("sequential", "batched"):
        made = together(kind, engine=engine, changes=False)
        fit(made, tiny_data("abcd", evaluated=False), 2, kind(), precision="64-true")
        ends.append(state_of(made))
    for key, one in ends[0].items():
        torch.testing.assert_close(ends[1][key], one, rtol=1e-9, atol=1e-10)


@pytest.mark.slow
@pytest.mark.promise("parity")
@every_method
def test_institutions_end_where_one_process_does(kind: Any, tmp_path: Path) -> None:
    alike = dict.fromkeys("abc", functools.partial(made_alike, kind))
    deployed = Deployed("abc", lambda: [kind()], tmp_path, changes=alike, settings={"participation": 0.7})
    states, metrics = deployed.rounds_in_one_fit()
    leader = deployed.lead()
    same_as_in_one_fit(deployed, leader.run_id, states, metrics)


@every_method
def test_it_says_what_it_is_after(kind: Any) -> None:
    said = inspect.getdoc(kind) or ""
    assert "Reference:" in said
    assert "travel" in said or "send" in said
    inspect.signature(kind).bind()  # Made without arguments.
