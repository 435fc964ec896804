"""Callbacks' hooks around backward passes and steps: called in Lightning's order, with whose gradients they are."""

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
    FederatedDataModule,
    Federation,
    FederationView,
    Participant,
)
from hetfed_lightning.local_training.step_hooks import STEP_HOOKS
from hetfed_lightning.privacy import DPSGD
from tests.federations import equal, fit, line, sgd, state_of, tiny_data, tiny_federation, tiny_participant, values
from tests.fleets.spies import lines


class Hears(L.Callback):
    """Notes every hook: which, of whom, and the norm of the head's gradient at that moment."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str]] = []
        self.norms: list[float | None] = []

    def _note(self, hook: str, participant: Any) -> None:
        assert isinstance(participant, Participant)
        self.heard.append((hook, participant.name or ""))
        gradient: Any = next(participant.parameters()).grad
        self.norms.append(None if gradient is None else float(gradient.norm()))

    def on_before_backward(self, trainer: L.Trainer, pl_module: Any, loss: Tensor) -> None:
        assert loss.ndim == 0
        self._note("on_before_backward", pl_module)

    def on_after_backward(self, trainer: L.Trainer, pl_module: Any) -> None:
        self._note("on_after_backward", pl_module)

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: Any, optimizer: Any) -> None:
        assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in pl_module.parameters()]
        self._note("on_before_optimizer_step", pl_module)

    def on_before_zero_grad(self, trainer: L.Trainer, pl_module: Any, optimizer: Any) -> None:
        self._note("on_before_zero_grad", pl_module)


def steps(name: str, count: int = 1) -> list[tuple[str, str]]:
    return [(hook, name) for hook in STEP_HOOKS] * count


def test_they_are_called_for_each_participant_in_its_turn() -> None:
    hears = Hears()
    federation = tiny_federation(participant={"gradient_clip_val": 1e-3})
    fit(federation, tiny_data(), 1, hears)
    # Batches of four of 12, 16 and 20 examples.
    assert hears.heard == [*(steps("a") + steps("b") + steps("c")) * 3, *steps("b"), *steps("c"), *steps("c")]
    norms = hears.norms
    for place in range(0, len(norms), 4):
        before, after, unclipped, clipped = norms[place : place + 4]
        assert before is None
        assert after == unclipped
        assert clipped == pytest.approx(0, abs=1e-3 + 1e-6)
        assert unclipped is not None
        assert unclipped > 1e-3


def test_what_they_do_to_gradients_is_stepped_on(caplog: pytest.LogCaptureFixture) -> None:
    class Holds(L.Callback):
        def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: Any, optimizer: Any) -> None:
            if pl_module.name == "b":
                for parameter in pl_module.parameters():
                    parameter.grad = None

    federation = tiny_federation(engine="batched")
    before = {name: state_of(federation[name]) for name in "abc"}
    with caplog.at_level(logging.INFO, "hetfed_lightning"):
        fit(federation, tiny_data(), 1, Holds())
    moved = {name: not equal(before[name], state_of(federation[name])) for name in "abc"}
    assert moved == {"a": True, "b": False, "c": True}
    assert "since Holds.on_before_optimizer_step is about each participant's own gradients" in lines(caplog)


def test_norms_are_logged_under_the_participants_names() -> None:
    """Of lines that begin at 0, the first gradient is -2/n x^T y."""

    class Norms(L.Callback):
        def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: Any, optimizer: Any) -> None:
            pl_module.log("norm", pl_module.backbone.weight.grad.norm())

    sets = {name: values(12, seed=seed, dtype=torch.float32) for seed, name in enumerate("ab")}
    data = FederatedDataModule(sets, batch_size=12)
    federation = Federation({name: line() for name in "ab"})
    made = fit(federation, data, 1, Norms())
    for name in "ab":
        inputs, targets = sets[name].batch(torch.arange(12))
        wanted = (2 / 12 * inputs.T @ targets).norm()  # type: ignore[union-attr, operator]  # a tensor it is
        assert made.callback_metrics[f"norm/{name}"] == pytest.approx(float(wanted), rel=1e-5)


def test_they_hear_of_distillation_of_the_student_and_of_accumulation() -> None:
    hears = Hears()
    federation = Federation(
        {name: tiny_participant(seed=seed, accumulate_grad_batches=2) for seed, name in enumerate("ab")},
        tiny_participant(seed=9),
    )
    fit(federation, tiny_data("ab"), 1, hears, EnsembleDistillation(batch_size=5, students="both"))
    heard = hears.heard
    # 3 and 4 batches of their own, 2 public ones; two at a time, and what is left of them.
    assert [heard.count(("on_after_backward", name)) for name in ("a", "b", "student")] == [3 + 2, 4 + 2, 2]
    assert [heard.count(("on_before_optimizer_step", name)) for name in ("a", "b", "student")] == [2 + 1, 2 + 1, 2]


@pytest.mark.parametrize("closed", [False, True])
def test_steps_by_hand_are_heard(closed: bool) -> None:
    own: list[str] = []

    class ByHand(Participant):
        def __init__(self) -> None:
            model = tiny_participant()
            super().__init__(model.backbone, model.head, optimizer=sgd())
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            def closure() -> Tensor:
                loss: Tensor = self.task.loss(self(batch[0]), batch[1])
                self.optimizers().zero_grad()
                self.manual_backward(loss)
                return loss

            self.optimizers().step(closure) if closed else (closure(), self.optimizers().step())

        def on_after_backward(self) -> None:
            own.append("on_after_backward")

        def on_before_optimizer_step(self, optimizer: Any) -> None:
            own.append("on_before_optimizer_step")

    hears, quiet = Hears(), Federation({"a": ByHand()})
    fit(quiet, tiny_data("a"), 1)
    assert own == ["on_after_backward", "on_before_optimizer_step"] * 3
    heard = Federation({"a": ByHand()})
    fit(heard, tiny_data("a"), 1, hears, EnsembleDistillation(batch_size=5))
    expected = [(hook, "a") for hook in STEP_HOOKS[:3]] * 3  # As in Lightning, which hears of no `zero_grad` here.
    assert hears.heard == expected + steps("a", 2)
    fit(again := Federation({"a": ByHand()}), tiny_data("a"), 1, hears)
    assert equal(state_of(again), state_of(quiet))


def test_those_of_a_federation_of_ones_own_are_called() -> None:
    heard: list[Any] = []

    class Own(Federation):
        def on_before_optimizer_step(self, optimizer: Any) -> None:
            heard.append(optimizer)

    federation = Own({name: tiny_participant() for name in "ab"}, engine="batched")
    fit(federation, tiny_data("ab", count=4), 1, BackboneAveraging())
    # One batch of "a", two of "b".
    assert [id(one) for one in heard] == [id(federation.local[name].optimizers[0]) for name in "abb"]


def test_a_backward_pass_that_would_tell_of_private_examples_is_refused() -> None:
    pytest.importorskip("opacus")
    federation = tiny_federation("a", participant={"privacy": DPSGD(1.0, 1.0, 1e-3)})
    with pytest.raises(ValueError, match=r"'a'.*Hears.on_after_backward would see its gradients without noise"):
        fit(federation, tiny_data("a"), 1, Hears())


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks:UserWarning")
@pytest.mark.parametrize("at", [None, 2])
def test_whoever_returns_minus_one_rests_for_the_round(at: int | None, tmp_path: Path) -> None:
    """As in Lightning, where the epoch ends; the others go on, and a run that is resumed in the round remembers."""

    class Rests(Participant):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> Any:
            return -1 if batch_idx == 1 else None

    def made() -> Federation:
        model, other = tiny_participant(), tiny_participant(seed=1)
        return Federation({"a": Rests(model.backbone, model.head, optimizer=sgd()), "b": other}, engine="sequential")

    landed: dict[str, int] = {}

    class Counts(FederatedCallback):
        def on_round_end(self, trainer: L.Trainer, federation: FederationView, round_index: int) -> None:
            landed.update({name: local.landed for name, local in federation.local.items()})

    federation = made()
    if at is None:
        fit(federation, tiny_data("ab"), 1, Counts())
    else:
        saves = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=at, save_top_k=-1)
        fit(made(), tiny_data("ab"), 1, saves, enable_checkpointing=True)
        fit(federation, tiny_data("ab"), 1, Counts(), ckpt_path=tmp_path / f"step={at}.ckpt")
    assert landed == {"a": 1, "b": 4}
