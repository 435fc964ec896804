"""The phase of a distillation in which a fleet learns together: every step as each member would take it by itself."""

import logging
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from hetfed_lightning import (
    BackboneAveraging,
    EnsembleDistillation,
    FederatedCallback,
    Federation,
    FederationView,
    Phase,
)
from hetfed_lightning.distillation import MeanLogits
from hetfed_lightning.fleets.public_engine import PublicEngine
from tests.federations import Snapshots, equal, fit, state_of, tiny_data, tiny_federation
from tests.fleets.kin import NAMES, OPTIMIZERS, classes, furthest, members, slow, trained
from tests.fleets.spies import alone, lines


def taught(**settings: Any) -> EnsembleDistillation:
    """Two passes over 11 examples in batches of 4, heavy enough that nobody ends where it would without."""
    return EnsembleDistillation(weight=3.0, epochs=2, batch_size=4, **settings)


def ends(
    engine: str, optimizer: str, *, own: str | None = None, dtype: torch.dtype = torch.float64, **settings: Any
) -> list[Federation]:
    """Where one after another and an engine lead; ``own`` names an optimizer of the phase."""
    found = []
    for each in ("sequential", engine):
        callback = taught(optimizer=None if own is None else OPTIMIZERS[own](0.2))
        parts = members(OPTIMIZERS[optimizer], **settings)
        found.append(trained(each, classes(dtype, public=11), parts, callback, BackboneAveraging(),
                             precision="64-true" if dtype == torch.float64 else "32-true"))  # fmt: skip
    return found


# Equal to one after another


@pytest.mark.parametrize("optimizer", [slow("sgd"), "momentum", slow("adam"), "adamw"])
@pytest.mark.parametrize("own", [None, slow("sgd"), slow("nesterov"), "adam"])
@pytest.mark.parametrize("clip", [None, {"a": 0.5, "b": None, "c": 0.1, "d": 100.0}], ids=["free", "clipped"])
@pytest.mark.parametrize("precision", [slow("32-true"), "64-true"])
@pytest.mark.parametrize("engine", [slow("vmap"), "batched"])
def test_a_phase_of_all(
    engine: str, precision: str, clip: Any, own: str | None, optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dtype, tolerance = (torch.float32, 1e-5) if precision == "32-true" else (torch.float64, 1e-10)
    steps = alone(monkeypatch)
    one, other = ends(engine, optimizer, own=own, dtype=dtype, gradient_clip_val=clip)
    # Two rounds of 4, 3, 4 and 2 local steps and of one phase each, all of them by the first of the two.
    assert len(steps) == 2 * (13 + 4)
    assert furthest(other, one) < tolerance


def test_it_teaches_something() -> None:
    without = trained("batched", classes(torch.float64), members(OPTIMIZERS["sgd"]), precision="64-true")
    assert furthest(ends("batched", "sgd")[1], without) > 1e-2


@pytest.mark.parametrize("own", [None, "adam"])
@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_states_of_the_optimizers_and_the_counts_agree(optimizer: str, own: str | None) -> None:
    one, other = ends("batched", optimizer, own=own)
    for name in NAMES:
        mine, theirs = one.local[name], other.local[name]
        assert (mine.landed, mine.progress) == (theirs.landed, theirs.progress)
        pairs = zip(mine.optimizers[0].state.values(), theirs.optimizers[0].state.values(), strict=True)
        for expected, found in pairs:
            assert expected.keys() == found.keys()
            for key, value in expected.items():
                torch.testing.assert_close(found[key], value, rtol=1e-10, atol=1e-14)


def test_schedulers_that_count_steps_count_those_of_the_phase() -> None:
    def halving(optimizer: Any) -> Any:
        return torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.5)

    one, other = ends("batched", "momentum", lr_scheduler=halving, lr_scheduler_interval="step")
    rates = [[local.optimizers[0].param_groups[0]["lr"] for local in end.local.values()] for end in (one, other)]
    assert rates[0] == rates[1]
    assert furthest(other, one) < 1e-10


def test_an_optimizer_that_cannot_be_batched_steps_one_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for engine in ("sequential", "batched"):
        steps = alone(monkeypatch)
        callback = taught(optimizer=lambda p: torch.optim.RMSprop(p, lr=0.01))
        found.append(trained(engine, classes(torch.float64, public=11), members(OPTIMIZERS["sgd"]), callback,
                             precision="64-true"))  # fmt: skip
    assert sorted(steps) == sorted(2 * NAMES)
    assert furthest(found[1], found[0]) < 1e-10


def test_epochs_and_schedules_over_rounds() -> None:
    found = []
    for engine in ("sequential", "batched"):
        federation = tiny_federation("abcdef", engine=engine, participation=0.5).double()
        seen = Snapshots()
        callback = EnsembleDistillation(MeanLogits(), temperature=3.0, every_n_rounds=2, start_round=1, batch_size=3)
        fit(federation, tiny_data("abcdef"), 5, callback, BackboneAveraging(), seen, precision="64-true")
        found.append(seen.ends)
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("own", [None, "adam"])
@pytest.mark.parametrize("at", [2, slow(4), slow(6)])
def test_a_run_resumes_in_every_bit(at: int, own: str | None, tmp_path: Path) -> None:
    def run(folder: str, **settings: Any) -> Federation:
        saving = ModelCheckpoint(tmp_path / folder, every_n_train_steps=at, save_top_k=-1, filename="{step}")
        callback = taught(optimizer=None if own is None else OPTIMIZERS[own](0.2))
        return trained("batched", classes(torch.float32, public=11), members(OPTIMIZERS["adam"]), callback,
                       BackboneAveraging(), saving, rounds=3, enable_checkpointing=True, **settings)  # fmt: skip

    whole = run("whole")
    resumed = run("rest", ckpt_path=tmp_path / "whole" / f"step={at}.ckpt")
    assert equal(state_of(whole), state_of(resumed))


# Some of a fleet


class TakesOut(FederatedCallback):
    """Takes some out of the round before the phase."""

    phase = Phase.GUARD

    def __init__(self, *names: str) -> None:
        self.names = names

    def on_round_end(self, trainer: L.Trainer, federation: FederationView, round_index: int) -> None:
        for name in self.names if round_index == 0 else ():
            federation.quarantine(name, "a test says so")


@pytest.mark.parametrize("names", [slow("a"), slow("b"), slow("bd"), "bda"])
@pytest.mark.parametrize("own", [None, "nesterov"])  # Whom nobody else teaches has a slope of 0, as Adam has not.
def test_members_that_are_out_of_the_round_learn_nothing(names: str, own: str | None) -> None:
    found = []
    for engine in ("sequential", "batched"):
        callback = taught(optimizer=None if own is None else OPTIMIZERS[own](0.2))
        seen = Snapshots()
        federation = trained(engine, classes(torch.float64, public=11), members(OPTIMIZERS["adam"]), TakesOut(*names),
                             callback, BackboneAveraging(), seen, rounds=3, precision="64-true")  # fmt: skip
        found.append((federation, seen))
    for one, other in zip(found[0][1].ends, found[1][1].ends, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-13)
    first = found[1][1]
    assert torch.equal(first.ends[0][names[0]]["head.weight"], first.starts[0][names[0]]["head.weight"])
    assert furthest(found[1][0], found[0][0]) < 1e-10


# Faults


@pytest.mark.parametrize("own", [None, "adam"])
@pytest.mark.parametrize("at", [slow(1), 4])
def test_a_step_that_fails_is_taken_up_where_it_was(
    at: int, own: str | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[int] = []
    right = PublicEngine.gradients

    def gradients(self: PublicEngine, *args: Any, **kwargs: Any) -> Tensor:
        calls.append(len(calls))
        if len(calls) == at:
            raise RuntimeError("out of memory")
        return right(self, *args, **kwargs)

    monkeypatch.setattr(PublicEngine, "gradients", gradients)
    with caplog.at_level(logging.INFO, "hetfed_lightning"):
        one, other = ends("batched", "momentum", own=own)
    assert len(calls) == at
    (line,) = lines(caplog).splitlines()[1:]
    assert line.startswith(
        "Fleets: 4 participants (b, d, a, c; Sequential + Linear): they learn on public data one after another"
    )
    assert line.endswith("since a step failed (RuntimeError: out of memory).")
    assert furthest(other, one) < 1e-10
    assert [local.progress for local in one.local.values()] == [local.progress for local in other.local.values()]


def test_one_member_whose_numbers_run_away_in_a_phase_harms_nobody() -> None:
    found = []
    for rate in (0.1, 1e30):
        parts = members(OPTIMIZERS["sgd"])

        def optimizer(parameters: Any, parts: Any = parts, rate: float = rate) -> torch.optim.Optimizer:
            own = any(parameter is next(parts["b"].parameters()) for parameter in parameters)
            return torch.optim.SGD(parameters, lr=rate if own else 0.1)

        found.append(trained("batched", classes(torch.float32, public=11), parts, taught(optimizer=optimizer),
                             rounds=1))  # fmt: skip
    assert list(found[1].guard.quarantined) == ["b"]
    for name in "acd":
        assert equal(state_of(found[0][name]), state_of(found[1][name]))
