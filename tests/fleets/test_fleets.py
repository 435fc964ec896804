"""Who forms a fleet, what stays as it was, and what happens where none can be."""

import io
import logging
from collections import defaultdict
from copy import deepcopy
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn

from hetfed_lightning import (
    BackboneAveraging,
    EnsembleDistillation,
    FederatedCallback,
    Federation,
    FederationView,
    Participant,
    Phase,
)
from hetfed_lightning.tasks import MulticlassTask
from tests.federations import (
    Snapshots,
    equal,
    fit,
    sgd,
    state_of,
    tiny_data,
    tiny_federation,
    tiny_participant,
    trainer,
)  # fmt: skip
from tests.fleets.spies import lines


def storages(modules: Any) -> set[int]:
    return {parameter.untyped_storage().data_ptr() for module in modules for parameter in module.parameters()}


class Inside(FederatedCallback):
    """Does something at the end of a round, before averaging."""

    phase = Phase.GUARD

    def __init__(self, act: Any) -> None:
        self.act, self.seen = act, []  # type: ignore[var-annotated]

    def on_round_end(self, trainer: L.Trainer, federation: FederationView, round_index: int) -> None:
        self.seen.append(self.act(federation, round_index))


# One stack


def test_parameters_are_views_of_one_stack_while_they_train_and_of_their_own_afterwards() -> None:
    federation = tiny_federation(engine="batched")
    held = {name: list(member.parameters()) for name, member in federation.members().items()}
    inside = Inside(lambda fed, _: len(storages(fed.members().values())))
    fit(federation, tiny_data(), 2, inside)
    assert inside.seen == [1, 1]
    assert len(storages(federation.members().values())) == 12
    for name, member in federation.members().items():
        assert all(one is other for one, other in zip(held[name], member.parameters(), strict=True))


def test_what_is_saved_of_a_member_is_its_own_alone() -> None:
    def sizes(federation: Federation, _: int) -> list[int]:
        member = federation["b"]
        found = []
        for what in (member.state_dict(), member, deepcopy(member), member.state_of(member.shared_keys())):
            stream = io.BytesIO()
            torch.save(what, stream)
            found.append(stream.getbuffer().nbytes)
            assert secret(federation["a"]) not in stream.getvalue()
        return found

    def secret(member: Participant) -> bytes:
        return member.head.weight.detach().numpy().tobytes()  # type: ignore[operator]

    ends = {}
    for engine in ("sequential", "batched"):
        inside = Inside(sizes)
        fit(tiny_federation(engine=engine, participant={"optimizer": torch.optim.Adam}), tiny_data(), 1, inside)
        ends[engine] = inside.seen[0]
    assert ends["batched"] == pytest.approx(ends["sequential"], rel=0.05)


def test_a_member_can_be_loaded_and_copied_inside_a_round() -> None:
    def act(federation: Federation, _: int) -> bool:
        one, other = federation["a"], federation["b"]
        kept = state_of(other)
        one.load_state_dict({key: torch.ones_like(tensor) for key, tensor in one.state_dict().items()})
        copied = deepcopy(one)
        with torch.no_grad():
            for parameter in copied.parameters():
                parameter.zero_()
        return equal(kept, state_of(other)) and all(bool((tensor == 1).all()) for tensor in state_of(one).values())

    inside = Inside(act)
    fit(tiny_federation(engine="batched"), tiny_data(), 1, inside)
    assert inside.seen == [True]


def test_a_checkpoint_holds_what_all_have_alike_once(tmp_path: Path) -> None:
    sizes = {}
    for shared in ("*", "head.bias"):
        federation = tiny_federation([f"p{i}" for i in range(20)], participant={"hidden": 500, "shared": (shared,)})
        run = fit(federation, tiny_data([f"p{i}" for i in range(20)], evaluated=False), 1, BackboneAveraging())
        run.save_checkpoint(tmp_path / "x.ckpt")
        sizes[shared] = (tmp_path / "x.ckpt").stat().st_size
        loaded = torch.load(tmp_path / "x.ckpt", weights_only=True)["state_dict"]
        assert equal(loaded, federation.state_dict())
    assert sizes["*"] < sizes["head.bias"] / 4


# Memory and state over rounds


@pytest.mark.parametrize("participation", [1.0, 0.5])
def test_partial_participation_moves_the_sampled_alone(participation: float) -> None:
    names = "abcdef"
    ends = []
    for engine in ("sequential", "batched"):
        torch.manual_seed(0)
        own = {"optimizer": lambda p: torch.optim.Adam(p, lr=0.01)}
        federation = tiny_federation(names, engine=engine, participation=participation, participant=own).double()
        snapshots = Snapshots()
        fit(federation, tiny_data(names), 4, snapshots, BackboneAveraging(), precision="64-true")
        ends.append((snapshots.ends, {name: len(federation.local[name].optimizers[0].state) for name in names}))
    for one, other in zip(ends[0][0], ends[1][0], strict=True):
        for name in names:
            torch.testing.assert_close(one[name], other[name], rtol=1e-10, atol=1e-13)
    assert ends[0][1] == ends[1][1]


def test_averaging_may_make_optimizers_forget() -> None:
    ends = []
    for engine in ("sequential", "batched"):
        federation = tiny_federation(engine=engine, participant={"optimizer": sgd(0.1, momentum=0.9)})
        fit(federation, tiny_data(), 3, BackboneAveraging(optimizer_state="reset"))
        ends.append(state_of(federation))
    torch.testing.assert_close(ends[1], ends[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("at", [2, 5, 7])
def test_a_run_resumes_in_every_bit(tmp_path: Path, at: int) -> None:
    from lightning.pytorch.callbacks import ModelCheckpoint

    def run(*callbacks: L.Callback, **settings: Any) -> Federation:
        own = {"optimizer": lambda p: torch.optim.Adam(p, lr=0.01)}
        federation = tiny_federation(engine="auto", participant=own)
        fit(federation, tiny_data(), 3, BackboneAveraging(), *callbacks, **settings)
        return federation

    def saving(folder: str) -> ModelCheckpoint:
        return ModelCheckpoint(tmp_path / folder, every_n_train_steps=at, save_top_k=-1, filename="{step}")

    whole = run(saving("whole"), enable_checkpointing=True)
    resumed = run(saving("rest"), enable_checkpointing=True, ckpt_path=tmp_path / "whole" / f"step={at}.ckpt")
    assert resumed.fleets.chosen == whole.fleets.chosen
    assert equal(state_of(whole), state_of(resumed))


@pytest.mark.parametrize(("wanted", "found"), [("auto", "vmap"), ("batched", "batched"), ("sequential", None)])
def test_another_engine_that_is_asked_for_is_taken(wanted: Any, found: str | None, tmp_path: Path) -> None:
    fit(tiny_federation(engine="vmap"), tiny_data(), 1).save_checkpoint(tmp_path / "x.ckpt")
    resumed = tiny_federation(engine=wanted)
    fit(resumed, tiny_data(), 2, ckpt_path=tmp_path / "x.ckpt")
    assert set(resumed.fleets.chosen.values()) == ({found} if found else set())


# Faults


def test_one_member_whose_numbers_run_away_harms_nobody() -> None:
    ends = []
    for rate in (0.1, 1e38):
        members = {
            name: tiny_participant(seed=i, optimizer=sgd(rate if name == "b" else 0.1)) for i, name in enumerate("abc")
        }
        federation = Federation(members, engine="batched")
        fit(federation, tiny_data(), 1)
        ends.append(federation)
    assert list(ends[1].guard.quarantined) == ["b"]
    for name in "ac":
        assert equal(state_of(ends[0][name]), state_of(ends[1][name]))


# Who forms none, and why


class OwnStep(Participant):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return 2 * super().training_step(batch, batch_idx)


class OwnLoss(MulticlassTask):
    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        return outputs.square().mean()


def made(kind: str, seed: int) -> Participant:
    torch.manual_seed(seed)
    settings: dict[str, Any] = {"optimizer": sgd()}
    cls: type[Participant] = Participant
    backbone: nn.Module = nn.Linear(4, 5)
    if kind == "OwnStep.training_step":
        cls = OwnStep
    elif kind == "Dropout":
        backbone = nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.5))
    elif kind == "BatchNorm1d":
        backbone = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5))
    elif kind == "LayerNorm":
        backbone = nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5))
    elif kind == "GRU":
        backbone = Last(nn.GRU(4, 5, batch_first=True))
    elif kind == "accumulate_grad_batches":
        settings["accumulate_grad_batches"] = 2
    elif kind == "RMSprop":
        settings["optimizer"] = lambda p: torch.optim.RMSprop(p, lr=0.01)
    elif kind == "OwnLoss":
        settings["task"] = OwnLoss()
    elif kind == "parameter groups":
        settings["optimizer"] = lambda p: torch.optim.SGD([{"params": p[:1], "lr": 0.1}, {"params": p[1:]}], lr=0.2)
    elif kind == "hooks":
        backbone.register_forward_hook(lambda *_: None)
    elif kind == "amsgrad":
        settings["optimizer"] = lambda p: torch.optim.Adam(p, amsgrad=True)
    return cls(backbone, nn.Linear(5, 3), **settings)


class Last(nn.Module):
    def __init__(self, inside: nn.RNNBase) -> None:
        super().__init__()
        self.inside = inside

    def forward(self, x: Tensor) -> Tensor:
        return self.inside(x.unsqueeze(1))[0][:, -1]  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "kind",
    [
        "OwnStep.training_step", "Dropout", "BatchNorm1d", "GRU", "accumulate_grad_batches", "RMSprop", "OwnLoss",
        "parameter groups", "hooks", "amsgrad",
    ],
)  # fmt: skip
def test_what_cannot_be_batched_falls_back_and_says_so(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "hetfed_lightning"):
        federation = Federation({name: made(kind, seed) for seed, name in enumerate("ab")})
        fit(federation, tiny_data("ab"), 1)
    alone = Federation({name: made(kind, seed) for seed, name in enumerate("ab")}, engine="sequential")
    fit(alone, tiny_data("ab"), 1)
    assert kind in lines(caplog)
    assert equal(state_of(federation), state_of(alone))


def test_a_reason_that_many_have_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    names = [f"p{number}" for number in range(6)]
    with caplog.at_level(logging.INFO, "hetfed_lightning"):
        federation = Federation({name: made("Dropout", seed) for seed, name in enumerate(names)})
        fit(federation, tiny_data(names, evaluated=False), 2)
    assert lines(caplog).count("\n") == 0
    assert lines(caplog).startswith("Fleets: p0, p1, ..., p5: one after another, since Dropout draws")


def test_what_keeps_everyone_out_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "hetfed_lightning"):
        fit(tiny_federation(), tiny_data(), 2, BackboneAveraging(), precision="bf16-mixed")
    assert "precision bf16-mixed casts" in lines(caplog)


def test_different_architectures_are_silent(caplog: pytest.LogCaptureFixture) -> None:
    members = {"a": tiny_participant(hidden=5), "b": tiny_participant(hidden=6), "c": made("GRU", 0)}
    with caplog.at_level(logging.INFO, "hetfed_lightning"):
        federation = Federation(members)
        fit(federation, tiny_data(), 1)
    assert lines(caplog) == ""
    assert federation.fleets.chosen == {}


@pytest.mark.parametrize(
    "other",
    [
        lambda: Participant(nn.Sequential(nn.Linear(4, 5), nn.Tanh()), nn.Linear(5, 3), optimizer=sgd()),
        lambda: tiny_participant(optimizer=sgd(0.1, momentum=0.9)),
        lambda: tiny_participant(task=MulticlassTask(label_smoothing=0.1)),
        lambda: tiny_participant(task=MulticlassTask(class_weights=[1.0, 2.0, 3.0])),
        lambda: tiny_participant(optimizer=torch.optim.Adam),
    ],
)
def test_only_the_alike_are_trained_together(other: Any) -> None:
    members = {"a": tiny_participant(), "b": tiny_participant(seed=1), "c": other()}
    federation = Federation(members, engine="vmap")
    inside = Inside(lambda fed, _: [sorted(one.name for one in fleet.members) for fleet in fed.fleets._fleets.values()])
    fit(federation, tiny_data(), 1, inside)
    assert inside.seen == [[["a", "b"]]]


def test_settings_and_transforms_may_differ() -> None:
    ends = []
    for engine in ("sequential", "vmap"):
        members = {
            name: tiny_participant(seed=i, transform=lambda x, i=i: (i + 1) * x, optimizer=sgd(0.1 / (i + 1)))
            for i, name in enumerate("abc")
        }
        federation = Federation(members, engine=engine)
        fit(federation, tiny_data(), 2, BackboneAveraging())
        ends.append(state_of(federation))
    torch.testing.assert_close(ends[1], ends[0], rtol=1e-5, atol=1e-6)


def test_random_transforms_draw_what_they_draw_alone() -> None:
    ends = []
    for engine in ("sequential", "vmap"):
        members = {
            name: tiny_participant(seed=i, transform=lambda x: x + torch.randn_like(x)) for i, name in enumerate("ab")
        }
        federation = Federation(members, engine=engine)
        fit(federation, tiny_data("ab"), 1)
        ends.append(state_of(federation))
    torch.testing.assert_close(ends[1], ends[0], rtol=1e-5, atol=1e-6)


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(ValueError, match="engine: expected one of auto, sequential, vmap, batched, got 'quick'"):
        tiny_federation(engine="quick")


def test_an_engine_that_computes_something_else_is_refused(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from hetfed_lightning.fleets.batched import BatchedEngine

    right = BatchedEngine.descend
    monkeypatch.setattr(BatchedEngine, "descend", lambda self, p, rates, batch: right(self, p, 1.01 * rates, batch))
    with caplog.at_level(logging.INFO, "hetfed_lightning"):
        federation = tiny_federation(engine="batched")
        fit(federation, tiny_data(), 1)
    assert "sequential, since batched fails (its step is off by 1.0e-02 of the step's length)" in lines(caplog)
    alone = tiny_federation(engine="sequential")
    fit(alone, tiny_data(), 1)
    assert equal(state_of(federation), state_of(alone))


def test_a_fleet_trains_under_a_trainer_with_its_defaults(tmp_path: Path) -> None:
    made = trainer(2, BackboneAveraging(), default_root_dir=tmp_path, logger=True, enable_checkpointing=True)
    federation = tiny_federation(engine="batched")
    made.fit(federation, datamodule=tiny_data())
    assert made.callback_metrics["val_accuracy/a"] >= 0
    assert made.checkpoint_callback.best_model_path  # type: ignore[union-attr]


def test_what_everyone_is_measured_on_and_teaches_is_computed_together(monkeypatch: pytest.MonkeyPatch) -> None:
    from hetfed_lightning.fleets.batched import BatchedEngine

    asked: list[int] = []
    right = BatchedEngine.outputs

    def outputs(self: BatchedEngine, parameters: Any, inputs: Any, *, common: bool = False) -> Tensor:
        if common:
            asked.append(len(inputs))
        return right(self, parameters, inputs, common=common)

    monkeypatch.setattr(BatchedEngine, "outputs", outputs)
    figures = []
    for engine in ("sequential", "batched"):
        federation = tiny_federation(engine=engine).double()
        made = fit(federation, tiny_data(), 2, EnsembleDistillation(), BackboneAveraging(), precision="64-true")
        figures.append({key: float(value) for key, value in made.callback_metrics.items()})
    # In each round 10 public examples, and 18 of everyone's validation set.
    assert asked == [10, 18] * 2
    assert "val_global_loss/a" in figures[0]
    assert figures[1] == pytest.approx(figures[0], rel=1e-9)


class LouderInTraining(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x if self.training else x


def test_whoever_predicts_otherwise_than_it_trains_is_measured_as_it_predicts() -> None:
    figures = []
    for engine in ("sequential", "vmap"):
        members = {}
        for name in "ab":
            torch.manual_seed(0)
            members[name] = Participant(
                nn.Sequential(nn.Linear(4, 5), LouderInTraining()), nn.Linear(5, 3), optimizer=sgd()
            )
        federation = Federation(members, engine=engine)
        made = fit(federation, tiny_data("ab"), 2, EnsembleDistillation())
        assert set(federation.fleets.chosen.values()) == (set() if engine == "sequential" else {"vmap"})
        figures.append({key: float(value) for key, value in made.callback_metrics.items()})
    assert figures[1] == pytest.approx(figures[0], rel=1e-4)


def test_whoever_measures_in_a_way_of_its_own_is_asked_to() -> None:
    class Own(Participant):
        def validation_step(self, batch: Any, batch_idx: int) -> Any:
            self.log("val_own", 1.0)

    members = {}
    for name in "ab":
        torch.manual_seed(0)
        members[name] = Own(nn.Linear(4, 5), nn.Linear(5, 3), optimizer=sgd())
    made = fit(Federation(members, engine="batched"), tiny_data("ab"), 2)
    assert made.callback_metrics["val_global_own/a"] == 1
    assert "val_global_loss/a" not in made.callback_metrics


@pytest.mark.slow
def test_a_compiled_step_of_all_agrees() -> None:
    ends = []
    for engine, compile_ in (("sequential", False), ("vmap", {"backend": "aot_eager"})):
        federation = tiny_federation(
            engine=engine, participant={"compile": compile_, "optimizer": sgd(0.1, momentum=0.9)}
        )
        fit(federation, tiny_data(), 2, BackboneAveraging())
        ends.append(state_of(federation))
    assert set(federation.fleets.chosen.values()) == {"vmap"}
    torch.testing.assert_close(ends[1], ends[0], rtol=1e-5, atol=1e-6)


def test_every_batch_is_counted_for_each_member() -> None:
    counts: dict[str, list[int]] = defaultdict(list)
    for engine in ("sequential", "batched"):
        federation = tiny_federation(engine=engine, participant={"local_epochs": 2, "step_budget": 7})
        fit(federation, tiny_data(), 2)
        for name, local in federation.local.items():
            counts[name].append(local.progress)
    assert all(one == other for one, other in counts.values())
