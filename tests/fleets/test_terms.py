"""What callbacks add to local losses, added for a fleet at once: FedProx's term and distillation mixed in."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from hetfed_lightning import (
    BackboneAveraging,
    EnsembleDistillation,
    FederatedCallback,
    Federation,
    FederationView,
    Participant,
)
from hetfed_lightning.distillation import MeanLogits
from hetfed_lightning.methods.averaging import proximal
from hetfed_lightning.schedules import LinearSchedule
from hetfed_lightning.tasks import MulticlassTask
from tests.federations import Listed, Snapshots, equal, examples, fit, sgd, state_of, tiny_data, tiny_federation
from tests.fleets.kin import NAMES, OPTIMIZERS, classes, furthest, members, slow, trained
from tests.fleets.spies import alone, lines

COOLING = LinearSchedule(3, 1, 2)

TERMS: dict[str, Callable[[], list[L.Callback]]] = {
    "proximal": lambda: [BackboneAveraging(proximal=2.0)],
    "mixed": lambda: [
        EnsembleDistillation(
            mode="mixed", start_round=0, batch_size=4, weight=3.0, temperature=LinearSchedule(3, 1, 2)
        ),
        BackboneAveraging(),
    ],
    "mixed into the last pass": lambda: [
        EnsembleDistillation(mode="mixed", start_round=0, batch_size=4, weight=3.0, mixed_epochs=1),
        BackboneAveraging(),
    ],
    "both": lambda: [
        BackboneAveraging(proximal=2.0),
        EnsembleDistillation(mode="mixed", start_round=0, batch_size=20, weight=3.0),
    ],
}
"""Heavy enough that a run without them ends elsewhere."""


def public(dtype: torch.dtype = torch.float64) -> Any:
    return classes(dtype, public=11)


# Equal to one after another


@pytest.mark.parametrize("optimizer", [slow("sgd"), "momentum", slow("adam"), "adamw"])
# One member of the clipped ones is free.
@pytest.mark.parametrize(
    "clip",
    [
        pytest.param(None, id="free", marks=pytest.mark.slow),
        pytest.param({"a": 0.5, "b": None, "c": 0.1, "d": 100.0}, id="clipped"),
    ],
)
@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize("precision", [slow("32-true"), "64-true"])
@pytest.mark.parametrize("engine", [slow("vmap"), "batched"])
def test_steps_of_ragged_batches(
    engine: str, precision: str, term: str, optimizer: str, clip: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    dtype, tolerance = (torch.float32, 1e-5) if precision == "32-true" else (torch.float64, 1e-10)
    ends = []
    for each in ("sequential", engine):
        parts = members(OPTIMIZERS[optimizer], gradient_clip_val=clip, local_epochs={"a": 2, "b": 2, "c": 3, "d": 2})
        with monkeypatch.context() as patch:
            steps = alone(patch)
            ends.append(trained(each, public(dtype), parts, *TERMS[term](), precision=precision))
    assert steps == []
    assert furthest(ends[1], ends[0]) < tolerance


@pytest.mark.parametrize("term", TERMS)
def test_they_are_not_left_out(term: str) -> None:
    def end(*callbacks: L.Callback) -> Federation:
        parts = members(OPTIMIZERS["sgd"], local_epochs=2)
        return trained("batched", public(), parts, *callbacks, precision="64-true")

    assert furthest(end(*TERMS[term]()), end()) > 1e-2


@pytest.mark.parametrize("term", TERMS)
def test_what_is_logged_is_the_supervised_loss_alone(term: str) -> None:
    figures = []
    for engine in ("sequential", "batched"):
        federation = Federation(members(OPTIMIZERS["momentum"]), engine=engine)
        run = fit(federation, public(), 2, *TERMS[term](), precision="64-true")
        figures.append({key: float(value) for key, value in run.callback_metrics.items()})
    assert figures[0].keys() >= {f"train_loss/{name}" for name in NAMES}
    assert figures[1] == pytest.approx(figures[0], rel=1e-9)


@pytest.mark.parametrize("chunk", [1, 2**18])
@pytest.mark.parametrize("engine", ["vmap", "batched"])
def test_members_may_share_different_parts(engine: str, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # In the order of their rows: b shares all, d what the backbone has, a all, c one matrix. Rows 0 and 2 form a group.
    shared = {"a": ("*",), "b": ("*",), "c": ("backbone.0.weight",), "d": ("backbone",)}
    monkeypatch.setattr(proximal, "CHUNK", chunk)
    ends = []
    for each in ("sequential", engine):
        parts = members(OPTIMIZERS["momentum"], shared=shared)
        ends.append(trained(each, public(), parts, BackboneAveraging(proximal=2.0), precision="64-true"))
    callback = BackboneAveraging(proximal=2.0)
    fit(Federation(members(OPTIMIZERS["sgd"], shared=shared)), public(), 1, callback, precision="64-true")
    assert {group.members for group in callback.sharing.values()} == {tuple("abcd"), tuple("abd"), tuple("ab")}
    assert furthest(ends[1], ends[0]) < 1e-10


@pytest.mark.parametrize("engine", ["vmap", "batched"])
def test_whoever_does_not_distil_yet_may_sit_between_those_who_do(engine: str) -> None:
    # In the order of their rows: b, c, d with 4 steps, a with 3. In the first two steps c is in a pass that does not.
    ends = []
    for each in ("sequential", engine):
        parts = members(OPTIMIZERS["momentum"], local_epochs={"a": 1, "b": 1, "c": 2, "d": 1})
        ends.append(trained(each, public(), parts, *TERMS["mixed into the last pass"](), precision="64-true"))
    assert furthest(ends[1], ends[0]) < 1e-10


@pytest.mark.parametrize("term", TERMS)
def test_the_sampled_and_newcomers(term: str) -> None:
    ends = []
    for engine in ("sequential", "batched"):
        federation = tiny_federation("abcdef", engine=engine, participation=0.7, participant={"optimizer": sgd(0.1)})
        federation["e"].joins_at = 2
        seen = Snapshots()
        fit(federation.double(), tiny_data("abcdef"), 4, *TERMS[term](), seen, precision="64-true")
        ends.append(seen.ends)
    for one, other in zip(*ends, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("kind", ["multiclass", "binary", "multilabel", "regression"])
@pytest.mark.parametrize("engine", ["vmap", "batched"])
@pytest.mark.parametrize("mode", ["mixed", "phase"])
def test_every_task_distils(engine: str, kind: Any, mode: Any) -> None:
    def make() -> nn.ModuleDict:
        torch.manual_seed(2)
        width = 1 if kind == "binary" else 3
        return nn.ModuleDict({"backbone": nn.Sequential(nn.Linear(6, 5), nn.ReLU()), "head": nn.Linear(5, width)})

    ends = []
    for each in ("sequential", engine):
        data = public()
        for own in data._given[0].values():
            hot = nn.functional.one_hot(own.targets, 3)
            own.targets = {"multiclass": own.targets, "binary": hot[:, :1], "multilabel": hot}.get(kind, hot.double())
        callback = EnsembleDistillation(mode=mode, start_round=0, weight=3.0, batch_size=4)
        ends.append(trained(each, data, members(OPTIMIZERS["sgd"], make, task=kind), callback, precision="64-true"))
    assert furthest(ends[1], ends[0]) < 1e-10


@pytest.mark.parametrize("transform", [lambda x: 2 * x, lambda x: x + torch.randn_like(x)], ids=["fixed", "random"])
@pytest.mark.parametrize("mode", ["mixed", "phase"])
def test_public_examples_pass_through_each_ones_transform(
    mode: Any, transform: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = []
    for engine in ("sequential", "batched"):
        parts = members(OPTIMIZERS["sgd"], transform={"a": transform, "b": None, "c": transform, "d": transform})
        with monkeypatch.context() as patch:
            steps = alone(patch)
            callback = EnsembleDistillation(mode=mode, start_round=0, weight=3.0, batch_size=4)
            ends.append(trained(engine, public(), parts, callback, precision="64-true"))
    assert steps == []
    assert furthest(ends[1], ends[0]) < 1e-10


class Doubling(Participant):
    def transformed(self, inputs: Any) -> Any:
        return 2 * inputs


@pytest.mark.parametrize("mode", ["mixed", "phase"])
def test_a_transform_of_a_class_of_ones_own_counts(mode: Any) -> None:
    ends = []
    for engine in ("sequential", "vmap"):
        parts: dict[str, Participant] = {}
        for name in NAMES:
            torch.manual_seed(0)
            parts[name] = Doubling(nn.Linear(6, 4), nn.Linear(4, 3), optimizer=sgd(0.1))
        ends.append(trained(engine, public(), parts, EnsembleDistillation(mode=mode, start_round=0),
                            precision="64-true"))  # fmt: skip
    assert furthest(ends[1], ends[0]) < 1e-10


@pytest.mark.parametrize("mode", ["mixed", "phase"])
@pytest.mark.parametrize("collate", [False, True])
def test_a_public_set_that_is_read_one_by_one(mode: Any, collate: bool) -> None:
    def longest(samples: list[Any]) -> Any:  # A batch depends on who is in it, as one filled up to the longest does.
        stacked = torch.stack([torch.as_tensor(sample) for sample in samples])
        return stacked / stacked.abs().max()

    ends = []
    for engine in ("sequential", "batched"):
        data = tiny_data(public=Listed(examples(10, seed=300)), collate_fn=longest if collate else None)
        callback = EnsembleDistillation(mode=mode, start_round=0, weight=3.0, batch_size=4)
        federation = tiny_federation(engine=engine)
        fit(federation, data, 2, callback)
        ends.append(federation)
    assert furthest(ends[1], ends[0]) < 1e-5


@pytest.mark.slow
def test_a_compiled_step_of_all_agrees() -> None:
    ends = []
    for engine, compile_ in (("sequential", False), ("vmap", {"backend": "aot_eager"})):
        parts = members(OPTIMIZERS["momentum"], compile=dict.fromkeys(NAMES, compile_))
        ends.append(trained(engine, public(), parts, *TERMS["mixed"](), precision="64-true"))
    ends.append(trained("sequential", public(), members(OPTIMIZERS["momentum"]), *TERMS["mixed"](),
                        precision="64-true"))  # fmt: skip
    assert furthest(ends[1], ends[0]) < 1e-10


# Rounds


@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize("at", [2, 6])
def test_a_run_resumes_in_every_bit(term: str, at: int, tmp_path: Path) -> None:
    def run(folder: str, **settings: Any) -> Federation:
        saving = ModelCheckpoint(tmp_path / folder, every_n_train_steps=at, save_top_k=-1, filename="{step}")
        parts = members(OPTIMIZERS["adam"])
        data = public(torch.float32)
        return trained("batched", data, parts, *TERMS[term](), saving, rounds=3, enable_checkpointing=True,
                       **settings)  # fmt: skip

    whole = run("whole")
    resumed = run("rest", ckpt_path=tmp_path / "whole" / f"step={at}.ckpt")
    assert equal(state_of(whole), state_of(resumed))


@pytest.mark.parametrize("term", TERMS)
def test_one_member_whose_numbers_run_away_harms_nobody(term: str) -> None:
    ends = []
    for rate in (0.1, 1e30):
        parts = members(OPTIMIZERS["sgd"])
        parts["b"].optimizer_factory = sgd(rate)
        ends.append(trained("batched", classes(torch.float32, public=11), parts, *TERMS[term](), rounds=1))
    assert list(ends[1].guard.quarantined) == ["b"]
    for name in "acd":
        assert equal(state_of(ends[0][name].head), state_of(ends[1][name].head))


@pytest.mark.parametrize("mode", ["mixed", "phase"])
def test_the_student_learns_beside_a_fleet(mode: Any) -> None:
    ends = []
    for engine in ("sequential", "batched"):
        parts = members(OPTIMIZERS["sgd"])
        student = members(OPTIMIZERS["sgd"])["a"]
        federation = Federation(parts, student, engine=engine)
        fit(federation, public(), 2, EnsembleDistillation(mode=mode, students="both", start_round=0),
            BackboneAveraging(), precision="64-true")  # fmt: skip
        ends.append(federation)
    assert furthest(ends[1], ends[0]) < 1e-10


# What cannot be batched


class Pulls(FederatedCallback):
    def local_loss(self, federation: FederationView, participant: Participant, batch_idx: int) -> Tensor | None:
        return 0.1 * sum(parameter.square().sum() for parameter in participant.parameters())  # type: ignore[return-value]


class PullsMore(BackboneAveraging):
    def local_loss(self, federation: FederationView, participant: Participant, batch_idx: int) -> Tensor | None:
        term = super().local_loss(federation, participant, batch_idx)
        return None if term is None else 3 * term


@pytest.mark.parametrize("callback", [Pulls, lambda: PullsMore(proximal=0.1)])
def test_a_loss_of_ones_own_takes_everyone_out(callback: Any, caplog: pytest.LogCaptureFixture) -> None:
    ends = []
    for engine in ("batched", "sequential"):
        with caplog.at_level(logging.INFO, "hetfed_lightning"):
            federation = Federation(members(OPTIMIZERS["sgd"]), engine=engine)
            fit(federation, public(torch.float32), 2, (made := callback()))
        ends.append(state_of(federation))
    reason = f"everyone trains one after another, since {type(made).__name__} adds to each participant's loss."
    assert lines(caplog) == f"Fleets: {reason}"
    assert equal(*ends)


class Slanted(MulticlassTask):
    def distillation_loss(self, outputs: Tensor, targets: Tensor, temperature: float) -> Tensor:
        return (outputs - targets).square().mean()


@pytest.mark.parametrize("mode", ["mixed", "phase"])
def test_a_distillation_loss_of_ones_own_is_heard_of_each_member(mode: Any, caplog: pytest.LogCaptureFixture) -> None:
    ends = []
    for engine in ("sequential", "batched"):
        with caplog.at_level(logging.INFO, "hetfed_lightning"):
            federation = Federation(members(OPTIMIZERS["sgd"], task={name: Slanted() for name in NAMES}), engine=engine)
            callback = EnsembleDistillation(MeanLogits(), mode=mode, start_round=0, weight=3.0, batch_size=4)
            fit(federation, public(), 3, callback, precision="64-true")
        ends.append(federation)
    assert len(lines(caplog).splitlines()) == 1  # The engine.
    assert furthest(ends[1], ends[0]) < 1e-10
