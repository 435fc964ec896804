"""Methods of a user's own in fleets: losses by example and terms of weights, for all members at once."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from hetfed_lightning import BackboneAveraging, EnsembleDistillation, FederatedCallback, Federation
from hetfed_lightning.methods.messages import Combined, PerParticipant
from tests.federations import Snapshots, equal, fit, sgd, state_of, tiny_data, tiny_federation
from tests.fleets.kin import NAMES, OPTIMIZERS, classes, furthest, members, slow, trained
from tests.fleets.spies import alone, lines
from tests.methods.own_methods import ControlVariates, Mutual, Prototypes

METHODS: dict[str, Callable[[], list[L.Callback]]] = {
    "prototypes": lambda: [Prototypes(2.0)],
    "control variates": lambda: [ControlVariates()],
    "both and averaging": lambda: [Prototypes(2.0), ControlVariates(), BackboneAveraging(proximal=0.5)],
    "mutual learning": lambda: [Mutual(), BackboneAveraging(proximal=0.5)],
    "both and distillation": lambda: [
        ControlVariates(),
        Prototypes(2.0),
        EnsembleDistillation(mode="mixed", start_round=0, batch_size=4),
    ],
}
"""Strong enough that a run without them ends elsewhere."""


def public(dtype: torch.dtype = torch.float64) -> Any:
    return classes(dtype, public=11)


# Equal to one after another


@pytest.mark.parametrize("optimizer", [slow("sgd"), "momentum", "adamw"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("precision", [slow("32-true"), "64-true"])
@pytest.mark.parametrize("engine", [slow("vmap"), "batched"])
def test_steps_of_ragged_batches(
    engine: str, precision: str, method: str, optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dtype, tolerance = (torch.float32, 1e-5) if precision == "32-true" else (torch.float64, 1e-10)
    clip = {"a": 0.5, "b": None, "c": 0.1, "d": 100.0}
    ends = []
    for each in ("sequential", engine):
        parts = members(OPTIMIZERS[optimizer], gradient_clip_val=clip)
        with monkeypatch.context() as patch:
            steps = alone(patch)
            ends.append(trained(each, public(dtype), parts, *METHODS[method](), rounds=3, precision=precision))
    assert steps == []
    assert furthest(ends[1], ends[0]) < tolerance


@pytest.mark.parametrize("method", METHODS)
def test_they_are_not_left_out(method: str) -> None:
    def end(*callbacks: L.Callback) -> Federation:
        return trained("batched", public(), members(OPTIMIZERS["sgd"]), *callbacks, rounds=3, precision="64-true")

    assert furthest(end(), end(*METHODS[method]())) > 1e-2


@pytest.mark.parametrize("method", METHODS)
def test_what_is_logged_is_the_supervised_loss_alone(method: str) -> None:
    figures = []
    for engine in ("sequential", "batched"):
        federation = Federation(members(OPTIMIZERS["momentum"]), engine=engine)
        run = fit(federation, public(), 3, *METHODS[method](), precision="64-true")
        figures.append({key: float(value) for key, value in run.callback_metrics.items()})
    assert figures[0].keys() >= {f"train_loss/{name}" for name in NAMES}
    assert figures[1] == pytest.approx(figures[0], rel=1e-9)


@pytest.mark.parametrize(
    "method",
    ["mutual learning", "both and distillation", *map(slow, ("prototypes", "control variates", "both and averaging"))],
)
def test_the_sampled_and_newcomers(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Whoever was not sampled yet remembers nothing: members have contexts of two layouts.
    ends = []
    for engine in ("sequential", "batched"):
        federation = tiny_federation("abcdefg", engine=engine, participation=0.6, participant={"optimizer": sgd(0.1)})
        federation["e"].joins_at = 2
        seen = Snapshots()
        with monkeypatch.context() as patch:
            steps = alone(patch)
            fit(federation.double(), tiny_data("abcdefg"), 5, *METHODS[method](), seen, precision="64-true")
        ends.append(seen.ends)
    assert "a" not in steps  # Whoever has the most batches trains alone in the last of them.
    for one, other in zip(*ends, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-13)


class Apart(ControlVariates):
    """Each is drawn to the weights of the next."""

    replaces_state = False

    def combine(self, sent: Any, asked: Any, about: Any, server: Any, round_index: int) -> Combined:
        names = list(sent)
        return Combined(
            PerParticipant({name: sent[other] for name, other in zip(names, names[1:] + names[:1], strict=True)})
        )

    def weight_term(self, parameters: Any, context: Any) -> Tensor:
        apart = [(one - context.received.get(key, 0)).square().sum() for key, one in parameters.items()]
        return torch.stack(apart).sum().div(1 + context.round_index)


def test_results_may_differ_between_members() -> None:
    ends = [trained(engine, public(), members(OPTIMIZERS["momentum"]), Apart(), rounds=3, precision="64-true")
            for engine in ("sequential", "vmap")]  # fmt: skip
    assert furthest(ends[1], ends[0]) < 1e-10


class Rooted(Prototypes):
    """The distance and not its square: a root, which has no gradient at 0."""

    def example_loss(self, own: Tensor, inputs: Any, *rest: Any) -> Tensor:
        features: Tensor = rest[0]
        return own + 0.1 * features.square().sum(1).sqrt()


def test_padding_has_no_part_in_a_gradient() -> None:
    # Features without bias are 0 where inputs are.
    def make() -> Any:
        torch.manual_seed(3)
        return torch.nn.ModuleDict({"backbone": torch.nn.Linear(6, 7, bias=False), "head": torch.nn.Linear(7, 3)})

    ends = [trained(engine, public(), members(OPTIMIZERS["sgd"], make), Rooted(), precision="64-true")
            for engine in ("sequential", "vmap")]  # fmt: skip
    assert furthest(ends[1], ends[0]) < 1e-10


@pytest.mark.slow
def test_a_compiled_step_of_all_agrees() -> None:
    ends = []
    for engine, compile_ in (("sequential", False), ("vmap", {"backend": "aot_eager"})):
        parts = members(OPTIMIZERS["momentum"], compile=dict.fromkeys(NAMES, compile_))
        ends.append(trained(engine, public(), parts, *METHODS["both and averaging"](), rounds=3, precision="64-true"))
    assert furthest(ends[1], ends[0]) < 1e-10


@pytest.mark.parametrize("method", ["both and averaging", "both and distillation", "mutual learning"])
@pytest.mark.parametrize("at", [2, 6])
def test_a_run_resumes_in_every_bit(method: str, at: int, tmp_path: Path) -> None:
    def run(folder: str, **settings: Any) -> Federation:
        saving = ModelCheckpoint(tmp_path / folder, every_n_train_steps=at, save_top_k=-1, filename="{step}")
        return trained("batched", public(torch.float32), members(OPTIMIZERS["adam"]), *METHODS[method](), saving,
                       rounds=3, enable_checkpointing=True, **settings)  # fmt: skip

    whole = run("whole")
    resumed = run("rest", ckpt_path=tmp_path / "whole" / f"step={at}.ckpt")
    assert equal(state_of(whole), state_of(resumed))


# What cannot be batched


class Branching(Prototypes):
    def example_loss(self, own: Tensor, *args: Any) -> Tensor:
        return own if own.sum().item() < 0 else super().example_loss(own, *args)


class Mixing(Prototypes):
    def example_loss(self, own: Tensor, inputs: Any, features: Tensor, *rest: Any) -> Tensor:
        return own + (features - features.mean(0)).square().mean(1)


class Drawing(Prototypes):
    def example_loss(self, own: Tensor, *args: Any) -> Tensor:
        return own * torch.rand_like(own)


class BranchingOnce(Branching):
    """Its loss cannot be batched from the second round on."""

    def example_loss(self, own: Tensor, *args: Any) -> Tensor:
        return super().example_loss(own, *args) if args[-1].received else own


class Listed(ControlVariates):
    def weight_term(self, parameters: Any, context: Any) -> Tensor:
        return torch.stack([(one.sum().item() > 0) * one.square().sum() for one in parameters.values()]).sum()


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        (Branching, "sequential, since batched fails"),
        (Mixing, "sequential, since batched fails (what it computes for an example depends on the others"),
        (Drawing, "sequential, since batched fails"),
        (BranchingOnce, "one after another, since what methods add to its loss fails for all at once"),
        (Listed, "sequential, since batched fails"),
    ],
)
def test_whose_loss_cannot_be_batched_train_one_after_another(
    method: Any, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    ends = []
    for engine in ("sequential", "batched"):
        federation = Federation(members(OPTIMIZERS["momentum"]), engine=engine)
        with caplog.at_level(logging.INFO, "hetfed_lightning"):
            fit(federation, public(torch.float32), 3, method())
        ends.append(federation)
    assert reason in lines(caplog)
    assert furthest(ends[1], ends[0]) < 1e-5


class Shapes(FederatedCallback):
    """A loss by example of a plain callback's, of which fleets know nothing."""

    def shapes_loss(self) -> bool:
        return True

    def shaped_losses(self, federation: Any, participant: Any, losses: Tensor, batch: Any) -> Tensor:
        return 2 * losses


class ShapesMore(Prototypes):
    def shaped_losses(self, *args: Any) -> Tensor:
        return 2 * super().shaped_losses(*args)


@pytest.mark.parametrize("callback", [Shapes, ShapesMore])
def test_what_a_callback_does_by_itself_takes_everyone_out(callback: Any, caplog: pytest.LogCaptureFixture) -> None:
    ends = []
    for engine in ("batched", "sequential"):
        with caplog.at_level(logging.INFO, "hetfed_lightning"):
            federation = Federation(members(OPTIMIZERS["sgd"]), engine=engine)
            fit(federation, public(torch.float32), 2, callback())
        ends.append(state_of(federation))
    assert f"since {callback.__name__} shapes the loss of each participant's examples" in lines(caplog)
    assert equal(*ends)
