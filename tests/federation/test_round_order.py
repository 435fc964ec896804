"""What happens in a round, in which order, and what validation and checkpoints see of it."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from hetfed_lightning import (
    BackboneAveraging,
    EnsembleDistillation,
    FederatedCallback,
    FederatedDataModule,
    Federation,
    FederationView,
    Participant,
    Phase,
)
from tests.federations import (
    Snapshots,
    equal,
    examples,
    fit,
    sgd,
    state_of,
    tiny_data,
    tiny_federation,
    tiny_participant,
)


class Diary(FederatedCallback):
    """Writes events down, those of its phase under its own name."""

    def __init__(self, title: str, entries: list[str]) -> None:
        self.title = title
        self.entries = entries

    def prepare(self, trainer: L.Trainer, federation: FederationView) -> None:
        self.entries.append(f"{self.title} prepares")

    def on_round_start(self, trainer: L.Trainer, federation: FederationView, round_index: int) -> None:
        self.entries.append(f"{self.title} starts {round_index}")

    def on_round_end(self, trainer: L.Trainer, federation: FederationView, round_index: int) -> None:
        self.entries.append(f"{self.title} ends {round_index}")

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.title == "monitor":
            self.entries.append("validation")

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.title == "monitor":
            self.entries.append("epoch ends")


class Averages(Diary):
    phase = Phase.AVERAGING


class Distils(Diary):
    phase = Phase.DISTILLATION


class Diarist(Participant):
    """Writes down each of its own steps."""

    entries: list[str]

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.entries.append(f"{self.name} steps {batch_idx}")
        return super().training_step(batch, batch_idx)


def diarist(entries: list[str]) -> Diarist:
    made = Diarist(torch.nn.Linear(4, 3), shared=("*",))
    made.entries = entries
    return made


def test_order_of_events() -> None:
    entries: list[str] = []
    federation = Federation({"a": diarist(entries), "b": diarist(entries)})
    # Given in the wrong order: the phases put them right.
    callbacks = [Diary("monitor", entries), Averages("averaging", entries), Distils("distillation", entries)]
    fit(federation, tiny_data("ab", count=4), 2, *callbacks)

    def a_round(index: int) -> list[str]:
        return [
            f"distillation starts {index}",
            f"averaging starts {index}",
            f"monitor starts {index}",
            "a steps 0",
            "b steps 0",
            "b steps 1",
            f"distillation ends {index}",
            f"averaging ends {index}",
            f"monitor ends {index}",
            "validation",
            "epoch ends",
        ]

    prepared = ["distillation prepares", "averaging prepares", "monitor prepares"]
    assert entries == prepared + a_round(0) + a_round(1)


def test_equal_phases_keep_the_order_of_the_trainer() -> None:
    entries: list[str] = []
    fit(tiny_federation(), tiny_data(), 1, Averages("first", entries), Averages("second", entries))
    assert entries[-2:] == ["first ends 0", "second ends 0"]


class Validated(Snapshots):
    """Also keeps everyone's state as validation begins."""

    def __init__(self) -> None:
        super().__init__()
        self.validated: list[Any] = []

    def on_validation_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.validated.append({name: state_of(member) for name, member in pl_module.members().items()})


def test_validation_and_checkpoints_see_the_models_after_the_round(tmp_path: Path) -> None:
    federation, seen = tiny_federation(), Validated()
    # 20 samples of "c" in batches of 4: five batches a round.
    saving = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=5, save_top_k=-1)
    callbacks = [saving, seen, BackboneAveraging(), EnsembleDistillation()]
    fit(federation, tiny_data(), 2, *callbacks, enable_checkpointing=True)
    for index in range(2):
        end = seen.ends[index]
        saved = torch.load(tmp_path / f"step={5 * (index + 1)}.ckpt", weights_only=True)["state_dict"]
        for name in federation.members():
            assert equal(seen.validated[index][name], end[name])
            prefix = f"participants.{name}."
            own = {key.removeprefix(prefix): value for key, value in saved.items() if key.startswith(prefix)}
            assert equal(own, end[name])
        assert torch.equal(end["a"]["backbone.0.weight"], end["c"]["backbone.0.weight"])


@pytest.mark.parametrize(("limit", "steps"), [(2, 2), (1, 1), (0.5, 2)])
def test_a_shortened_round_ends_too(limit: float, steps: int) -> None:
    entries: list[str] = []
    fit(tiny_federation(), tiny_data(), 2, Averages("averaging", entries), limit_train_batches=limit)
    assert entries[1:] == ["averaging starts 0", "averaging ends 0", "averaging starts 1", "averaging ends 1"]


def test_fast_dev_run_is_one_round_of_one_batch() -> None:
    seen = Snapshots()
    trained = fit(tiny_federation(), tiny_data(), 5, seen, BackboneAveraging(), fast_dev_run=True)
    assert len(seen.ends) == 1
    assert trained.global_step == 1


def test_a_step_is_a_batch_index_however_many_participants() -> None:
    trained = fit(tiny_federation(), tiny_data(), 2)
    assert trained.global_step == 10


def test_max_steps_ends_within_a_round() -> None:
    trained = fit(tiny_federation(), tiny_data(), 5, max_steps=7)
    assert trained.global_step == 7


def test_without_validation_sets_nothing_is_validated_and_nobody_warned() -> None:
    seen = Validated()
    data = FederatedDataModule({name: examples(8, seed=1) for name in "abc"}, batch_size=4)
    fit(tiny_federation(), data, 2, seen, BackboneAveraging())
    assert len(seen.ends) == 2


def test_a_second_run_counts_its_rounds_from_zero() -> None:
    def halving(optimizer: Any) -> Any:
        return torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)

    federation = Federation({"a": tiny_participant(lr_scheduler=halving)})
    for _ in range(2):
        fit(federation, tiny_data("a"), 2)
        assert federation.local["a"].optimizers[0].param_groups[0]["lr"] == pytest.approx(0.1 / 4)


@pytest.mark.parametrize("precision", ["64-true", "bf16-true", "bf16-mixed"])
def test_precision_reaches_preflight_public_set_and_evaluation(precision: Any) -> None:
    federation = tiny_federation(student=tiny_participant(seed=9))
    trained = fit(
        federation, tiny_data(), 1, EnsembleDistillation(students="both"), BackboneAveraging(), precision=precision
    )
    wanted = {"64-true": torch.float64, "bf16-true": torch.bfloat16, "bf16-mixed": torch.float32}[precision]
    assert {tensor.dtype for tensor in state_of(federation).values()} == {wanted}
    assert torch.isfinite(trained.callback_metrics["val_loss/a"])


class Shifts(FederatedCallback):
    """Adds 1 to everything that participant a shares, in the phase in which it is averaged."""

    phase = Phase.AVERAGING

    def on_round_end(self, trainer: Any, federation: Any, round_index: int) -> None:
        with torch.no_grad():
            for parameter in federation["a"].backbone.parameters():
                parameter.add_(1.0)


def test_a_callback_of_the_same_phase_acts_before_or_after_averages_as_the_list_says() -> None:
    ends = []
    for order in ([BackboneAveraging(weighting="uniform")], [Shifts(), BackboneAveraging(weighting="uniform")]):
        federation = tiny_federation(participant={"optimizer": sgd(0.0)})
        fit(federation, tiny_data(), 1, *order)
        ends.append(state_of(federation["b"].backbone))
    # One of three has been moved by 1 before the mean of all was taken.
    for key, tensor in ends[0].items():
        torch.testing.assert_close(ends[1][key], tensor + 1 / 3)
    federation = tiny_federation(participant={"optimizer": sgd(0.0)})
    fit(federation, tiny_data(), 1, BackboneAveraging(weighting="uniform"), Shifts())
    for key, tensor in ends[0].items():
        torch.testing.assert_close(state_of(federation["a"].backbone)[key], tensor + 1)
        torch.testing.assert_close(state_of(federation["b"].backbone)[key], tensor)
