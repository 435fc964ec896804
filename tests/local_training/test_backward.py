"""The backward pass without the calls that nobody hears is the one with them."""

from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import LambdaCallback
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor

from hetfed_lightning import EnsembleDistillation
from hetfed_lightning.local_training.backward import is_usual
from hetfed_lightning.local_training.step_hooks import StepHooks
from tests.federations import equal, fit, state_of, tiny_data, tiny_federation


class Listener(L.Callback):
    """Notes what it hears."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.gradients = 0

    def on_before_backward(self, trainer: L.Trainer, pl_module: Any, loss: Tensor) -> None:
        self.losses.append(loss.item())

    def on_after_backward(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.gradients += any(parameter.grad is not None for parameter in pl_module.parameters())


class Silent(L.Callback):
    """Hears of no backward pass."""


@pytest.mark.parametrize(
    ("callback", "heard"), [(Silent(), False), (Listener(), True), (LambdaCallback(on_after_backward=print), True)]
)
def test_who_listens(callback: L.Callback, heard: bool, capsys: pytest.CaptureFixture[str]) -> None:
    made = fit(tiny_federation(), tiny_data(), 1, callback)
    assert (StepHooks(made).listener is not None) is heard
    assert is_usual(made)
    capsys.readouterr()


def test_a_plugin_of_the_users_is_not_passed_over() -> None:
    seen: list[float] = []

    class Own(MixedPrecision):
        def pre_backward(self, tensor: Tensor, module: Any) -> Tensor:
            seen.append(tensor.item())
            return super().pre_backward(tensor, module)

    made = fit(tiny_federation(), tiny_data(), 1, plugins=[Own("bf16-mixed", "cpu")])
    assert not is_usual(made)
    assert len(seen) == 3 + 4 + 5


def test_a_listener_hears_every_step_and_changes_none() -> None:
    ends = []
    for callback in (Silent(), Listener()):
        federation = tiny_federation(engine="sequential")  # Whoever listens trains by itself.
        fit(federation, tiny_data(), 2, callback, EnsembleDistillation(batch_size=5))
        ends.append(state_of(federation))
    assert equal(ends[0], ends[1])
    assert isinstance(callback, Listener)
    # 3, 4 and 5 batches of their own, and 10 public samples in batches of 5 for each of three, in 2 rounds.
    assert len(callback.losses) == callback.gradients == 2 * (12 + 3 * 2)


@pytest.mark.parametrize("callback", [Silent(), Listener()])
def test_a_loss_is_scaled_once(callback: L.Callback) -> None:
    norms = []
    for scale in (1.0, 1024.0):

        class Norms(L.Callback):
            def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *args: Any) -> None:
                norms.append(sum(p.detach().norm().item() for p in pl_module.parameters()))

        scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=1000)
        plugins = [MixedPrecision("16-mixed", "cpu", scaler)]
        fit(tiny_federation(), tiny_data(), 1, callback, Norms(), plugins=plugins)
    half = len(norms) // 2
    assert norms[:half] == pytest.approx(norms[half:], rel=1e-3)
