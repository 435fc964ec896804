"""A callback whose tensors change, and that saves nothing of them, is warned of as a checkpoint is written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from hetfed_lightning import (
    BackboneAveraging,
    EnsembleDistillation,
    FederatedCallback,
    FederationView,
    Phase,
)
from tests.federations import fit, sgd, tiny_data, tiny_federation
from tests.methods.test_hook_results import Heads


class Momentum(FederatedCallback):
    """A server's momentum: adds what it remembers to every backbone."""

    phase = Phase.AVERAGING

    def __init__(self) -> None:
        self.velocity: Any = torch.zeros(5, 4)
        self.told = ("constant", torch.ones(3))

    def on_round_end(self, trainer: L.Trainer, federation: FederationView, round_index: int) -> None:
        self.velocity = 0.5 * self.velocity + federation["a"].backbone[0].weight.detach()  # type: ignore[index]


class InPlace(Momentum):
    def on_round_end(self, trainer: L.Trainer, federation: FederationView, round_index: int) -> None:
        self.velocity.add_(1.0)


class Listed(Momentum):
    def on_round_end(self, trainer: L.Trainer, federation: FederationView, round_index: int) -> None:
        self.history = {"a": [torch.ones(2)]}


class Server(Momentum):
    """A network that learns at the server."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Linear(2, 1)
        self.optimizer = torch.optim.Adam(self.network.parameters())

    def on_round_end(self, trainer: L.Trainer, federation: FederationView, round_index: int) -> None:
        self.network(torch.ones(1, 2)).sum().backward()
        self.optimizer.step()


class Saved(Momentum):
    def state_dict(self) -> dict[str, Any]:
        return {"velocity": self.velocity}


class SavedByHook(Momentum):
    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["velocity"] = self.velocity


class Constant(Momentum):
    """Holds tensors of the federation's, constants and what it is through with."""

    def on_round_end(self, trainer: L.Trainer, federation: Any, round_index: int) -> None:
        self.trainer, self.federation = trainer, federation
        self.theirs = federation["a"].backbone
        self.weights = list(federation.parameters())
        self.seen = round_index


def logged(tmp_path: Path, *callbacks: L.Callback, rounds: int = 3) -> None:
    keep = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    federation = tiny_federation(engine="sequential", participant={"optimizer": sgd(momentum=0.9)})
    fit(federation, tiny_data(), rounds, keep, *callbacks, enable_checkpointing=True)


@pytest.mark.parametrize(
    ("kind", "attributes"),
    [(Momentum, "velocity"), (InPlace, "velocity"), (Listed, "history"), (Server, "network, optimizer")],
)
def test_what_changes_and_is_saved_nowhere_is_warned_of_once_by_name(
    kind: type[Momentum], attributes: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logged(tmp_path, kind())
    assert caplog.text.count(f"{kind.__name__} has changed tensors in {attributes}, and saves nothing of them") == 1
    assert "Define state_dict() and load_state_dict(state)" in caplog.text


@pytest.mark.parametrize("kind", [Saved, SavedByHook, Constant])
def test_what_is_saved_or_does_not_change_is_not(
    kind: type[Momentum], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = [BackboneAveraging(proximal=0.1, server_optimizer=sgd(momentum=0.9)), EnsembleDistillation(mode="mixed")]
    logged(tmp_path, kind(), *own)
    assert "changed tensors" not in caplog.text


def test_without_checkpoints_nothing_is_forgotten(caplog: pytest.LogCaptureFixture) -> None:
    fit(tiny_federation(), tiny_data(), 2, Momentum())
    assert "changed tensors" not in caplog.text


class Remembering(Heads):
    """A method that changes something of its own as it combines."""

    def __init__(self, change: Callable[[Any], None]) -> None:
        self.change = change
        self.rounds, self.seen, self.velocity = 0, {"names": [0.5]}, torch.zeros(2)

    def combine(self, sent: Any, *rest: Any) -> Any:
        self.change(self)
        return super().combine(sent)


def forget_number(method: Any) -> None:
    method.rounds += 1


def forget_list(method: Any) -> None:
    method.seen["names"].append(1.5)


def forget_tensor(method: Any) -> None:
    method.velocity = method.velocity + 1


class KeepsOwn(Remembering):
    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"rounds": self.rounds}


class KeepsOwnAlone(Remembering):
    def state_dict(self) -> dict[str, Any]:
        return {"rounds": self.rounds}


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (Remembering(forget_number), "Remembering has changed values in rounds, and no checkpoint holds them"),
        (Remembering(forget_list), "Remembering has changed values in seen, and no checkpoint"),
        (Remembering(forget_tensor), "Remembering has changed values in velocity, and no checkpoint"),
        (Remembering(lambda _: None), ""),
        (KeepsOwn(forget_number), ""),
        (KeepsOwnAlone(forget_number), r"KeepsOwnAlone.state_dict leaves out what super().state_dict() returns"),
    ],
)
def test_what_a_method_keeps_beside_its_memory_is_warned_of(
    method: Any, expected: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keeper = ModelCheckpoint(tmp_path)
    fit(tiny_federation(), tiny_data(evaluated=False), 2, method, keeper, enable_checkpointing=True)
    told = [one for one in caplog.messages if "checkpoint" in one and type(method).__name__ in one]
    assert [one.startswith(expected) for one in told] == ([True] if expected else [])
