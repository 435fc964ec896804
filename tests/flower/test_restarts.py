"""Sites and coordinator that are killed go on where they were: the numbers are those of a run that nothing befell."""

from pathlib import Path
from typing import Any

import pytest
import torch

from hetfed_lightning import BackboneAveraging, EnsembleDistillation
from hetfed_lightning.checkpointing.reading import read_checkpoint
from hetfed_lightning.checkpointing.sealing import is_sealed, write_checkpoint
from hetfed_lightning.distillation import ValidationWeighted
from hetfed_lightning.flower.coordinator.coordinator import STATE
from hetfed_lightning.flower.protocol.orders import Order
from hetfed_lightning.flower.site.site import Site, SiteError
from hetfed_lightning.flower.site.site_store import Place, SiteStore, Stage
from tests.federations import equal, sgd
from tests.flower.federating import Callbacks, Deployed

pytestmark = pytest.mark.promise("restarts")

ROUNDS = 4


class Killed(BaseException):
    """The coordinator's process ends."""


def averaging() -> list[BackboneAveraging | EnsembleDistillation]:
    return [BackboneAveraging(server_optimizer=lambda parameters: torch.optim.Adam(parameters, lr=0.1))]


def phase() -> list[BackboneAveraging | EnsembleDistillation]:
    return [EnsembleDistillation(ValidationWeighted()), *averaging()]


def mixed() -> list[BackboneAveraging | EnsembleDistillation]:
    return [EnsembleDistillation(ValidationWeighted(), mode="mixed"), *averaging()]


@pytest.mark.parametrize("callbacks", [averaging, phase, pytest.param(mixed, marks=pytest.mark.slow)])
@pytest.mark.parametrize("place", [8, *(pytest.param(place, marks=pytest.mark.slow) for place in (3, 10, 14))])
def test_a_killed_coordinator_goes_on(callbacks: Callbacks, place: int, tmp_path: Path) -> None:
    """Killed at some message; sites may have carried out orders that nobody will ever ask for the outcome of."""
    settings = {"participants": {"optimizer": sgd(momentum=0.9)}, "rounds": ROUNDS}
    deployed = Deployed("abc", callbacks, tmp_path, **settings)  # type: ignore[arg-type]
    orders = []

    def kill(name: str, order: Order) -> None:
        del name
        orders.append(order)
        if len(orders) == place:
            raise Killed

    deployed.grid.hooks.append(kill)
    with pytest.raises(Killed):
        deployed.lead()
    done = list(deployed.notes.rounds)
    there = (tmp_path / STATE).is_file()
    assert there or place < 8  # By then a round has ended.
    leader = deployed.lead(resume=there)
    states, _ = deployed.in_one_fit()
    found = deployed.states(leader.run_id)
    assert all(equal(found[name], states[name]) for name in "abc")
    again = deployed.notes.rounds[len(done) :]
    assert again == list(range(again[0], ROUNDS))
    assert again[0] <= (done[-1] + 1 if done else 0)


def test_a_state_that_kept_teachers_apart_is_gone_on_with(tmp_path: Path) -> None:
    """Coordinators of earlier versions wrote the server's half of distillation beside the methods."""
    deployed = Deployed("abc", mixed, tmp_path, rounds=ROUNDS)

    def kill(name: str, order: Order) -> None:
        if name == "b" and order.begin == 2:
            raise Killed

    deployed.grid.hooks.append(kill)
    with pytest.raises(Killed):
        deployed.lead()
    deployed.grid.hooks.clear()
    saved = read_checkpoint(tmp_path / STATE)
    teachers = saved["methods"].pop(0)["method"]
    assert teachers["scores"].keys() == {*"abc"}
    memory: dict[str, dict[str, Any]] = {"teachers": {"last": {}, "own": {}, "tensors": {}, "kept": {}}}
    saved["lessons"] = {0: {"groups": {"teachers": [*"abc"]}, "memory": memory, "scores": teachers["scores"]}}
    write_checkpoint(saved, tmp_path / STATE)
    states, _ = deployed.in_one_fit()
    found = deployed.states(deployed.lead(resume=True).run_id)
    assert all(equal(found[name], states[name]) for name in "abc")


def test_the_last_figures_come_again(tmp_path: Path) -> None:
    """The coordinator is killed when all rounds are done and the last figures are not yet there."""
    deployed = Deployed("ab", averaging, tmp_path)

    def kill(name: str, order: Order) -> None:
        if name == "b" and order.finish == 2:
            raise Killed

    deployed.grid.hooks.append(kill)
    with pytest.raises(Killed):
        deployed.lead()
    deployed.grid.hooks.clear()
    deployed.lead(resume=True)
    assert deployed.notes.rounds == [0, 1, 2]
    assert {"val_accuracy/a", "val_accuracy/b"} <= deployed.notes.metrics[-1].keys()


def test_a_run_that_is_whole_can_be_resumed_again(tmp_path: Path) -> None:
    deployed = Deployed("ab", averaging, tmp_path)
    leader = deployed.lead()
    before = deployed.states(leader.run_id)
    deployed.lead(resume=True)
    after = deployed.states(leader.run_id)
    assert all(equal(before[name], after[name]) for name in "ab")


def test_states_are_sealed_and_two_rounds_are_kept(tmp_path: Path) -> None:
    deployed = Deployed("ab", phase, tmp_path)
    leader = deployed.lead()
    files = sorted((tmp_path / "a" / leader.run_id).glob("*.ckpt"))
    assert [path.name for path in files] == [
        f"round-00000{number}-{stage}.ckpt" for number in (1, 2) for stage in ("finished", "learned", "trained")
    ]
    assert all(is_sealed(path) for path in files)
    assert is_sealed(tmp_path / STATE)


def test_a_damaged_state_is_as_if_it_were_not_there(tmp_path: Path) -> None:
    """The site goes on from the one before it, and says nothing wrong."""
    deployed = Deployed("ab", averaging, tmp_path)

    def damage(name: str, order: Order) -> None:
        if name == "b" and order.begin == 2:
            path = SiteStore(tmp_path / "b", order.run).path_of(Place(1, Stage.TRAINED))
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 1
            path.write_bytes(bytes(content))

    deployed.grid.hooks.append(damage)
    leader = deployed.lead()
    found = deployed.states(leader.run_id)
    assert not any(deployed.notes.left_out)
    assert all(torch.isfinite(one).all() for one in found["b"].values())
    assert equal(*({key: found[name][key] for key in found["a"] if "backbone" in key} for name in "ab"))


def test_an_order_to_learn_what_was_not_trained_is_refused(tmp_path: Path) -> None:
    deployed = Deployed("ab", phase, tmp_path)
    site: Site = deployed.grid.sites["a"]
    with pytest.raises(SiteError, match="Round 3: participant 'a' is to learn"):
        site.carry_out(Order("run", learn=3, shared={0: {"targets": torch.ones(10, 3) / 3}}))


def test_runs_do_not_touch_each_other(tmp_path: Path) -> None:
    deployed = Deployed("ab", averaging, tmp_path)
    first = deployed.lead()
    before = deployed.states(first.run_id)
    (tmp_path / STATE).unlink()
    second = deployed.lead()
    assert second.run_id != first.run_id
    assert all(equal(before[name], deployed.states(first.run_id)[name]) for name in "ab")
    assert all(equal(before[name], deployed.states(second.run_id)[name]) for name in "ab")


@pytest.mark.parametrize(
    "run", ["", "../elsewhere", "a/b", "a b", "a\n", ".lock", "-rf", "description", "Engine", 65 * "a", "\x1b]0;a\x07"]
)
def test_a_run_names_no_other_folder(run: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="run: expected"):
        SiteStore(tmp_path, run)
