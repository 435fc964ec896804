"""A participant without a federation is a LightningModule like any other."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import ReduceLROnPlateau
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from hetfed_lightning import Participant
from hetfed_lightning.tasks import TaskName
from tests.federations import equal, examples, fit, sgd, state_of, tiny_data, tiny_federation, tiny_participant, trainer


def loader(count: int = 10, *, seed: int = 0) -> DataLoader[Any]:
    return DataLoader(examples(count, seed=seed), batch_size=4)


def test_fit_is_plain_gradient_descent() -> None:
    participant = tiny_participant(optimizer=sgd(0.1))
    by_hand = tiny_participant(optimizer=sgd(0.1))
    made = trainer(2)
    made.fit(participant, loader(), loader(seed=1))
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.1)
    for _ in range(2):
        for inputs, target in loader():
            optimizer.zero_grad()
            nn.functional.cross_entropy(by_hand.head(by_hand.backbone(inputs)), target).backward()
            optimizer.step()
    assert equal(state_of(participant), state_of(by_hand))
    assert set(made.callback_metrics) == {"train_loss", "val_loss", "val_accuracy"}
    assert made.global_step == 6


@pytest.mark.parametrize("method", ["validate", "test"])
def test_evaluation_is_over_all_examples(method: str) -> None:
    participant, data = tiny_participant(), examples(10)
    found = getattr(trainer(1), method)(participant, loader(), verbose=False)[0]
    stage = "val" if method == "validate" else "test"
    with torch.no_grad():
        outputs = participant.eval()(data.inputs)
    right = (outputs.argmax(1) == data.targets).float().mean()
    assert data.targets is not None
    assert found[f"{stage}_accuracy"] == pytest.approx(float(right))
    assert found[f"{stage}_loss"] == pytest.approx(float(nn.functional.cross_entropy(outputs, data.targets)))


def test_a_second_validation_begins_anew() -> None:
    participant, made = tiny_participant(), trainer(1)
    first = made.validate(participant, loader(), verbose=False)
    made.validate(participant, loader(seed=9), verbose=False)
    assert made.validate(participant, loader(), verbose=False) == first


@pytest.mark.parametrize("targets", [True, False])
def test_predictions_are_probabilities(targets: bool) -> None:
    participant, data = tiny_participant(), examples(6)
    assert isinstance(data.inputs, Tensor)
    inputs = DataLoader(data if targets else TensorDataset(data.inputs), batch_size=4)
    found = trainer(1).predict(participant, inputs)
    assert found is not None
    with torch.no_grad():
        assert torch.allclose(torch.cat(found), participant.eval()(data.inputs).softmax(1))  # type: ignore[arg-type]


def test_the_transform_is_applied_everywhere() -> None:
    # Weights halved and inputs doubled are the same network.
    plain, doubled = tiny_participant(), tiny_participant(transform=lambda inputs: 2 * inputs)
    with torch.no_grad():
        doubled.backbone[0].weight /= 2  # type: ignore[index]
    for method in ("validate", "test"):
        one, other = (getattr(trainer(1), method)(p, loader(), verbose=False) for p in (plain, doubled))
        assert one[0] == pytest.approx(other[0])
    one, other = (trainer(1).predict(participant, loader()) for participant in (plain, doubled))
    assert all(torch.allclose(a, b) for a, b in zip(one, other, strict=True))  # type: ignore[arg-type]
    losses = []
    for participant in (plain, doubled):
        participant.optimizer_factory = sgd(0.0)
        made = trainer(1, limit_val_batches=0)
        made.fit(participant, loader(), loader())
        losses.append(float(made.callback_metrics["train_loss"]))
    assert losses[0] == pytest.approx(losses[1])


@pytest.mark.parametrize(
    ("task", "width", "target", "metrics"),
    [
        ("binary", 1, lambda n: torch.arange(n) % 2, {"val_loss", "val_accuracy", "val_auroc"}),
        ("multilabel", 3, lambda n: (torch.arange(3 * n) % 2).reshape(n, 3), {"val_loss", "val_accuracy", "val_f1"}),
        ("regression", 2, lambda n: torch.arange(2.0 * n).reshape(n, 2), {"val_loss", "val_r2", "val_mae"}),
    ],
)
def test_every_task(task: TaskName, width: int, target: Any, metrics: set[str]) -> None:
    data = DataLoader(TensorDataset(torch.randn(8, 4, generator=torch.Generator().manual_seed(0)), target(8)), 4)
    made = trainer(1)
    made.fit(Participant(nn.Linear(4, width), task=task), data, data)
    assert set(made.callback_metrics) == metrics | {"train_loss"}


def test_a_scheduler_may_follow_a_metric() -> None:
    participant = tiny_participant(
        optimizer=sgd(0.1),
        lr_scheduler=lambda optimizer: ReduceLROnPlateau(optimizer, "val_loss", patience=0, threshold=0.9, factor=0.5),
    )
    made = trainer(3)
    made.fit(participant, loader(), loader())
    assert participant.optimizers().param_groups[0]["lr"] == pytest.approx(0.1 / 4)


def test_the_trainers_own_clipping_and_accumulation_work() -> None:
    participant = tiny_participant(optimizer=sgd(1.0))
    before = state_of(participant)
    made = trainer(1, gradient_clip_val=0.01, accumulate_grad_batches=3)
    made.fit(participant, loader(12), loader())
    moved = torch.stack([(after - before[key]).norm() for key, after in state_of(participant).items()]).norm()
    assert made.global_step == 1
    assert float(moved) == pytest.approx(0.01, rel=1e-3)


def test_it_resumes_from_its_own_checkpoint(tmp_path: Path) -> None:
    straight, first, resumed = (tiny_participant() for _ in range(3))
    trainer(2).fit(straight, loader(), loader())
    keep = ModelCheckpoint(tmp_path, monitor="val_accuracy", mode="max", filename="best")
    trainer(1, keep, enable_checkpointing=True).fit(first, loader(), loader())
    again = ModelCheckpoint(tmp_path / "again", monitor="val_accuracy", mode="max")
    made = trainer(2, again, enable_checkpointing=True)
    made.fit(resumed, loader(), loader(), ckpt_path=tmp_path / "best.ckpt", weights_only=True)
    assert equal(state_of(straight), state_of(resumed))


def test_after_a_federation_it_is_its_own_again() -> None:
    federation = tiny_federation("ab")
    fit(federation, tiny_data("ab"), 1)
    participant = federation["a"]
    participant.detach()
    made = trainer(1)
    made.fit(participant, loader(), loader())
    assert "val_accuracy" in made.callback_metrics
    assert participant.name is None


def test_subclasses_override_what_they_like() -> None:
    class Own(Participant):
        def training_step(self, batch: Any, batch_idx: int) -> Mapping[str, Tensor]:
            loss = super().training_step(batch, batch_idx)
            return {"loss": loss * 2}

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.05)

    once, twice = tiny_participant(optimizer=sgd(0.1)), tiny_participant()
    own = Own(twice.backbone, twice.head)
    for participant in (once, own):
        trainer(1).fit(participant, loader(), loader())
    assert all(torch.allclose(a, b) for a, b in zip(once.parameters(), own.parameters(), strict=True))
    assert isinstance(own, L.LightningModule)
