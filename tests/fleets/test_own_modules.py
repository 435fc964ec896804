"""Modules of methods in fleets: rows of the stack beside the participants' own, for all members at once."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from hetfed_lightning import EnsembleDistillation, Federation, Participant
from hetfed_lightning.methods.method import Method
from hetfed_lightning.methods.plans import Part
from tests.federations import equal, fit, sgd, state_of, tiny_data, tiny_federation, tiny_participant
from tests.fleets.kin import OPTIMIZERS, classes, furthest, members, slow, trained
from tests.fleets.spies import alone, lines
from tests.methods.own_methods import Mutual


class Late(Mutual):
    """Uses its module from the second round on, and where something was received before."""

    exchanges = ()

    def example_loss(self, own: Tensor, *args: Any) -> Tensor:
        return super().example_loss(own, *args) if args[-1].round_index > 0 else own


class Once(Mutual):
    """Uses its module for those alone who have received something."""

    def example_loss(self, own: Tensor, *args: Any) -> Tensor:
        return super().example_loss(own, *args) if args[-1].received else own


class Drawn(Method):
    """Weights alone: the module and the head are drawn to each other."""

    exchanges = ()

    def modules(self, participant: Participant) -> dict[str, nn.Module]:
        return {"anchor": nn.Sequential(nn.Linear(7, 3), nn.Tanh())}

    def weight_term(self, parameters: Any, context: Any) -> Tensor:
        inner = context.modules["anchor"][0]
        sizes: list[Tensor] = [one.square().sum() for one in inner.parameters()]
        sizes.append((parameters["head.weight"] - inner.weight).square().sum())
        return torch.stack(sizes).sum()


class Idle(Mutual):
    """A module that no loss uses: nothing may move it, neither weight decay nor momentum."""

    exchanges = ()

    def example_loss(self, own: Tensor, *args: Any) -> Tensor:
        return own


def public(dtype: torch.dtype = torch.float64) -> Any:
    return classes(dtype, public=11)


@pytest.mark.parametrize("optimizer", ["sgd with weight decay", slow("momentum"), "adamw"])
@pytest.mark.parametrize("method", [Late, Once, Drawn, Idle])
def test_a_module_moves_when_a_loss_is_a_function_of_it(
    method: Any, optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A gradient of zero is not none: Adam would count the step, and weight decay pull.
    ends = []
    for engine in ("sequential", "batched"):
        parts = members(OPTIMIZERS[optimizer], gradient_clip_val={"a": 0.5, "b": None, "c": 0.1, "d": 100.0})
        with monkeypatch.context() as patch:
            steps = alone(patch)
            ends.append(trained(engine, public(), parts, method(), rounds=3, precision="64-true"))
    assert steps == []
    assert furthest(ends[1], ends[0]) < 1e-10


@pytest.mark.parametrize("mode", ["phase", slow("mixed")])
def test_distillation_leaves_them_as_they_are(mode: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ends = []
    for engine in ("sequential", "batched"):
        distillation = EnsembleDistillation(mode=mode, start_round=0, batch_size=4)
        with monkeypatch.context() as patch:
            steps = alone(patch)
            parts = members(OPTIMIZERS["adamw"])
            ends.append(trained(engine, public(), parts, Mutual(), distillation, rounds=3, precision="64-true"))
    assert steps == []
    assert furthest(ends[1], ends[0]) < 1e-10


class Parted(Once):
    """The head and the module first, then all but the head; who was not sampled has received nothing."""

    def plan(self, participant: Participant, moment: Any, round_index: int) -> list[Part]:
        if moment != "local":
            return []
        return [Part(steps=1, trains=["head", "method_modules"]), Part(epochs=1, trains="!head")]


@pytest.mark.parametrize("method", [Once, Parted])
def test_the_sampled_newcomers_and_leavers(method: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ends = []
    for engine in ("sequential", "batched"):
        adam = {"optimizer": lambda p: torch.optim.AdamW(p, lr=0.02, weight_decay=0.1)}
        federation = tiny_federation("abcdefg", engine=engine, participation=0.6, participant=adam)
        federation["e"].joins_at = 2
        federation["f"].leaves_at = 3
        with monkeypatch.context() as patch:
            steps = alone(patch)
            fit(federation.double(), tiny_data("abcdefg"), 5, method(), precision="64-true")
        ends.append(federation)
    assert "a" not in steps  # Whoever has the most batches trains alone in the last of them.
    for name in "abcdefg":
        torch.testing.assert_close(state_of(ends[1][name]), state_of(ends[0][name]), rtol=1e-9, atol=1e-12)


def test_members_of_other_modules_are_fleets_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wide(Mutual):
        exchanges = ()

        def modules(self, participant: Participant) -> dict[str, nn.Module]:
            middle = 4 if participant.name in {"a", "b"} else 9
            return {"common": nn.Sequential(nn.Linear(6, middle), nn.Tanh(), nn.Linear(middle, 3))}

    ends = []
    for engine in ("sequential", "batched"):
        with monkeypatch.context() as patch:
            steps = alone(patch)
            ends.append(trained(engine, public(), members(OPTIMIZERS["momentum"]), Wide(), precision="64-true"))
    assert set(steps) == {"b", "d"}  # Of two whoever has more batches takes the last ones alone.
    assert furthest(ends[1], ends[0]) < 1e-10


class Cells(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cells, self.out = nn.LSTM(6, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.out(self.cells(inputs[:, None])[0][:, 0])
        return found


class Halved(nn.Module):
    """Branches on values."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(6, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.out(inputs)
        return found / 2 if found.sum().item() > 0 else found


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (Cells, "one after another, since LSTM has kernels for one set of weights alone"),
        (lambda: nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3)), "since BatchNorm1d keeps running statistics"),
        (lambda: nn.Sequential(nn.Dropout(0.1), nn.Linear(6, 3)), "since Dropout draws for each participant"),
        (Halved, "sequential, since batched fails"),
    ],
)
def test_what_cannot_be_stacked_trains_one_after_another(
    make: Any, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Other(Mutual):
        exchanges = ()

        def modules(self, participant: Participant) -> dict[str, nn.Module]:
            return {"common": make()}

    ends = []
    for engine in ("sequential", "batched"):
        federation = Federation(members(OPTIMIZERS["momentum"]), engine=engine)
        with caplog.at_level(logging.INFO, "hetfed_lightning"):
            fit(federation, public(torch.float32), 2, Other())
        ends.append(federation)
    assert reason in lines(caplog)
    for name in "abcd":
        torch.testing.assert_close(state_of(ends[1][name]), state_of(ends[0][name]), rtol=1e-5, atol=1e-6)


def test_a_buffer_that_is_written_to_is_heeded() -> None:
    class Centred(Mutual):
        def modules(self, participant: Participant) -> dict[str, nn.Module]:
            made = super().modules(participant)["common"]
            made.register_buffer("centre", torch.zeros(3))
            return {"common": made}

        def receive(self, participant: Any, data: Any, state: Any, context: Any) -> None:
            context.modules["common"].centre.data.copy_(state["bias"])

        def example_loss(self, own: Tensor, *args: Any) -> Tensor:
            centre: Tensor = args[-1].modules["common"].centre
            away: Tensor = (args[2] - centre).square().sum(1)
            return super().example_loss(own, *args) + away

    ends = [trained(engine, public(), members(OPTIMIZERS["momentum"]), Centred(), rounds=3, precision="64-true")
            for engine in ("sequential", "batched")]  # fmt: skip
    assert furthest(ends[1], ends[0]) < 1e-10
    assert all(ends[1][name].modules_of("Centred")["common"].state_dict()["centre"].all() for name in "abcd")


def test_rates_that_change_between_rounds() -> None:
    def halved(optimizer: Any) -> Any:
        return torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)

    ends = [trained(engine, public(), members(OPTIMIZERS["momentum"], lr_scheduler=halved), Mutual(), rounds=3,
                    precision="64-true") for engine in ("sequential", "batched")]  # fmt: skip
    assert furthest(ends[1], ends[0]) < 1e-10


def test_whose_numbers_run_away_gets_its_module_back() -> None:
    class Alone(Mutual):
        title = "Mutual"
        exchanges = ()

        def on_fit_start(self, *args: Any) -> None:
            starts.append(state_of(federations[-1]["b"]))

    starts: list[dict[str, Tensor]] = []
    federations: list[Federation] = []
    for rate in (0.1, 1e38):
        rates = {"a": 0.1, "b": rate, "c": 0.1}
        parts = {name: tiny_participant(seed=i, optimizer=sgd(rates[name])) for i, name in enumerate("abc")}
        federations.append(Federation(parts, engine="batched"))
        fit(federations[-1], tiny_data(), 1, Alone())
    assert list(federations[1].guard.quarantined) == ["b"]
    assert equal(state_of(federations[1]["b"]), starts[1])
    assert all(equal(state_of(federations[0][name]), state_of(federations[1][name])) for name in "ac")


def test_a_checkpoint_holds_one_copy_of_each(tmp_path: Path) -> None:
    # A view of the stack that is saved as it is takes the whole stack with it.
    federation = tiny_federation("abcd", engine="batched", participant={"optimizer": sgd(0.1)})
    saving = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=2, save_top_k=-1)
    fit(federation, tiny_data("abcd"), 1, Mutual(), saving, enable_checkpointing=True)
    state = torch.load(tmp_path / "step=2.ckpt", weights_only=True)["state_dict"]
    held = {key: one for key, one in state.items() if "method_modules" in key}
    assert len(held) == 8
    assert all(one.untyped_storage().nbytes() == one.nbytes for one in held.values())
