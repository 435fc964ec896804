"""Networks that mix the examples of a batch: a fleet would fill up short batches, and so each trains by itself."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from hetfed_lightning import BackboneAveraging, Federation, Participant
from hetfed_lightning.fleets import calibration, fleets
from tests.federations import equal, fit, sgd, state_of, tiny_data
from tests.fleets.spies import lines

NAMES = ("a", "b", "c", "d")
REASON = "depends on the others in its batch"
Mixture = Callable[[Tensor], Tensor]


class Mixing(nn.Module):
    def __init__(self, mixture: Mixture, gate: float | None = None) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 5)
        self.gate = None if gate is None else nn.Parameter(torch.tensor(gate))
        self.mixture = mixture

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.linear(inputs)
        mixed = self.mixture(found)
        outputs: Tensor = mixed if self.gate is None else found + self.gate * mixed
        return outputs


def centred(found: Tensor) -> Tensor:
    return found - found.mean(0)


def normed(found: Tensor) -> Tensor:
    normal: Tensor = found / torch.linalg.vector_norm(found, dim=0)
    return normal


def attending(found: Tensor) -> Tensor:
    return torch.softmax(found @ found.T, 1) @ found


def counting(found: Tensor) -> Tensor:
    return found / len(found)


def run(
    engine: Any,
    mixture: Mixture,
    *,
    gate: float | None = None,
    zero: bool = False,
    callback: L.Callback | None = None,
    ckpt_path: Path | None = None,
) -> tuple[Federation, dict[str, float]]:
    """Two rounds; training and validation sets end in batches of 2, 4 and 2 examples."""
    participants = {}
    for seed, name in enumerate(NAMES):
        torch.manual_seed(seed)
        head = nn.Linear(5, 3)
        if zero:
            nn.init.zeros_(head.weight)
        participants[name] = Participant(Mixing(mixture, gate), head, optimizer=sgd(0.1))
    federation = Federation(participants, engine=engine)
    data = tiny_data(NAMES, count=14)
    own = [] if callback is None else [callback]
    done = fit(federation, data, 2, BackboneAveraging(), *own, enable_checkpointing=bool(own), ckpt_path=ckpt_path)
    return federation, {key: float(value) for key, value in done.callback_metrics.items()}


@pytest.mark.parametrize("mixture", [centred, normed, attending, counting])
@pytest.mark.parametrize("engine", ["vmap", "auto"])
def test_everyone_is_trained_and_measured_alone(
    engine: Any, mixture: Mixture, caplog: pytest.LogCaptureFixture
) -> None:
    alone, wanted = run("sequential", mixture)
    with caplog.at_level(logging.INFO, "hetfed_lightning"):
        federation, found = run(engine, mixture)
    assert set(federation.fleets.chosen.values()) == {"sequential"}
    assert equal(state_of(federation), state_of(alone))
    assert found == wanted
    assert REASON in lines(caplog)


@pytest.mark.parametrize("hidden", [{"gate": 0.0}, {"zero": True}])
def test_weights_of_zero_hide_nothing(hidden: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    alone, wanted = run("sequential", centred, **hidden)
    with caplog.at_level(logging.INFO, "hetfed_lightning"):
        federation, found = run("vmap", centred, **hidden)
    assert equal(state_of(federation), state_of(alone))
    assert found == wanted
    assert REASON in lines(caplog)


@pytest.mark.parametrize("gate", [None, 0.0])
def test_networks_that_look_at_each_example_stay_together(gate: float | None) -> None:
    federation, _ = run("vmap", torch.tanh if gate is None else nn.LayerNorm(5, elementwise_affine=False), gate=gate)
    assert set(federation.fleets.chosen.values()) == {"vmap"}


@pytest.mark.parametrize("at", [3, 7])  # Within the round, and at its end, ahead of its validation.
def test_the_engine_of_a_checkpoint_is_left(
    at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def saving(folder: str) -> ModelCheckpoint:
        return ModelCheckpoint(tmp_path / folder, every_n_train_steps=at, save_top_k=-1, filename="{step}")

    with monkeypatch.context() as patched:
        for module in (calibration, fleets):
            patched.setattr(module, "dependence", lambda *given: None)
        former, _ = run("vmap", centred, callback=saving("former"))
        assert set(former.fleets.chosen.values()) == {"vmap"}
    path = tmp_path / "former" / f"step={at}.ckpt"
    alone, wanted = run("sequential", centred, callback=saving("alone"), ckpt_path=path)
    with caplog.at_level(logging.INFO, "hetfed_lightning"):
        federation, found = run("vmap", centred, callback=saving("resumed"), ckpt_path=path)
    assert set(federation.fleets.chosen.values()) == {"sequential"}
    assert equal(state_of(federation), state_of(alone))
    assert found == wanted
    assert REASON in lines(caplog)
