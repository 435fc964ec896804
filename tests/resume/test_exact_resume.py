"""A run that is stopped and resumed ends in the same bits as one that is not, wherever it was stopped."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.cli import ReduceLROnPlateau
from torch import Tensor, nn
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import Dataset

from hetfed_lightning import BackboneAveraging, EnsembleDistillation, FederatedDataModule, Federation, Participant
from hetfed_lightning.distillation import ValidationWeighted
from tests.federations import equal, examples, state_of, tiny_data, tiny_participant
from tests.resume.runs import Run, Setup, checkpoints, same_run

# The run that is resumed keeps no checkpoints; the one before it did.
pytestmark = pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks:UserWarning")

ROUNDS = 2
BATCHES = 5  # of the largest participant in a round; the others have 3 and 4


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=0.01)


def momentum(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=1.0, momentum=0.5)


def plateau(optimizer: torch.optim.Optimizer) -> Any:
    return ReduceLROnPlateau(optimizer, monitor="val_loss", patience=0, threshold=0.5, factor=0.5)


def every_third_step(optimizer: torch.optim.Optimizer) -> Any:
    return StepLR(optimizer, 3, 0.5)


def every_round(optimizer: torch.optim.Optimizer) -> Any:
    return StepLR(optimizer, 1, 0.9)


def forgetful(seed: int, **settings: Any) -> Participant:
    """A participant with dropout, which draws random numbers in every step."""
    participant = tiny_participant(seed=seed, **({"optimizer": adam} | settings))
    participant.backbone.append(nn.Dropout(0.3))  # type: ignore[operator]
    return participant


def setup(*callbacks: Callable[[], L.Callback], own: dict[str, dict[str, Any]] | None = None, **federation: Any) -> Any:
    """What makes three participants with dropout, on data in memory; ``own`` has settings by participant."""

    def make() -> Setup:
        members = {name: forgetful(index, **(own or {}).get(name, {})) for index, name in enumerate("abc")}
        settings = {key: value() if key == "student" else value for key, value in federation.items()}
        return Federation(members, seed=3, **settings), tiny_data(), [callback() for callback in callbacks]

    return make


def check(
    make: Callable[[], Setup], folder: Path, steps: tuple[int, ...], *, every: dict[str, Any], **trainer: Any
) -> None:
    """Resume a run from its checkpoints after ``steps`` batches, or from its first, and find no difference to it."""
    straight = Run(make, ROUNDS, every=checkpoints(folder, **every), **trainer)
    written = {torch.load(path, weights_only=True)["global_step"]: path for path in folder.glob("*.ckpt")}
    for step in steps or (min(written),):
        assert same_run(straight, Run(make, ROUNDS, resume=written[step], **trainer)) == [], f"after {step} batches"


AT_EPOCH_END = {"save_on_train_epoch_end": True}
AT_VALIDATION_END = {"save_on_train_epoch_end": False}
EVERY_BATCH = {"every_n_train_steps": 1}

FEDERATIONS = {
    "local": setup(),
    "averaged": setup(lambda: BackboneAveraging(proximal=0.1)),
    "server optimizer": setup(lambda: BackboneAveraging(server_optimizer=momentum)),
    "every second round": setup(lambda: BackboneAveraging(every_n_rounds=2), own={"c": {"local_epochs": 2}}),
    "optimizers reset": setup(lambda: BackboneAveraging(optimizer_state="reset")),
    "distilled": setup(lambda: EnsembleDistillation(ValidationWeighted()), BackboneAveraging),
    "distilled, mixed": setup(lambda: EnsembleDistillation(ValidationWeighted(), mode="mixed"), BackboneAveraging),
    "with a student": setup(lambda: EnsembleDistillation(students="both", mode="mixed"), student=lambda: forgetful(9)),
    "schedulers": setup(
        BackboneAveraging,
        own={
            "a": {"lr_scheduler": plateau},
            "b": {"lr_scheduler": every_third_step, "lr_scheduler_interval": "step"},
            "c": {"lr_scheduler": every_round},
        },
    ),
    "accumulated": setup(
        BackboneAveraging, own={"a": {"accumulate_grad_batches": 3}, "c": {"accumulate_grad_batches": 2}}
    ),
    "sampled, one joins late": setup(BackboneAveraging, own={"c": {"joins_at": 1}}, participation=0.6),
}


@pytest.mark.parametrize("kind", FEDERATIONS)
def test_the_end_of_a_round_resumes_exactly(kind: str, tmp_path: Path) -> None:
    check(FEDERATIONS[kind], tmp_path, (10,) if kind == "every second round" else (), every=AT_EPOCH_END)


@pytest.mark.parametrize("kind", FEDERATIONS)
def test_the_middle_of_a_round_resumes_exactly(kind: str, tmp_path: Path) -> None:
    # After 4 batches the smallest participant has done its work of the round; 7 is the second of the second round.
    check(FEDERATIONS[kind], tmp_path, (4, 7), every=EVERY_BATCH)


@pytest.mark.parametrize("kind", ["distilled, mixed", "schedulers"])
def test_the_last_batch_of_a_round_resumes_with_the_validation_and_the_epoch_end_that_follow(
    kind: str, tmp_path: Path
) -> None:
    check(FEDERATIONS[kind], tmp_path, (BATCHES,), every={"every_n_train_steps": BATCHES})


@pytest.mark.parametrize("kind", ["distilled, mixed", "schedulers"])
def test_the_end_of_a_validation_resumes_exactly(kind: str, tmp_path: Path) -> None:
    check(FEDERATIONS[kind], tmp_path, (BATCHES,), every=AT_VALIDATION_END)


def test_validation_within_a_round_is_neither_left_out_nor_repeated(tmp_path: Path) -> None:
    # Validation follows batches 2 and 4 of 5.
    check(FEDERATIONS["schedulers"], tmp_path, (2, 3, 9), every=EVERY_BATCH, val_check_interval=0.5)


def test_the_end_of_a_validation_within_a_round_resumes_exactly(tmp_path: Path) -> None:
    check(FEDERATIONS["distilled, mixed"], tmp_path, (2, 9), every=AT_VALIDATION_END, val_check_interval=0.5)


@pytest.mark.parametrize("limit", [BATCHES, 3])
def test_a_round_without_validation_resumes_exactly_at_its_last_batch(limit: int, tmp_path: Path) -> None:
    every = {"every_n_train_steps": limit}
    settings = {"check_val_every_n_epoch": 2, "limit_train_batches": limit}
    check(FEDERATIONS["distilled"], tmp_path, (limit,), every=every, **settings)


@pytest.mark.parametrize(
    ("every", "step"), [(AT_EPOCH_END, 5), (AT_VALIDATION_END, 5), (EVERY_BATCH, 5), (EVERY_BATCH, 7)]
)
def test_a_run_that_only_max_steps_ends_resumes_exactly(every: dict[str, Any], step: int, tmp_path: Path) -> None:
    # Lightning takes the end of an epoch for the middle of one where there is no max_epochs.
    check(FEDERATIONS["distilled"], tmp_path, (step,), every=every, max_steps=ROUNDS * BATCHES)


@pytest.mark.parametrize(("limit", "length"), [(3, 3), (0.5, 2)])
def test_a_limited_round_resumes_exactly(limit: float, length: int, tmp_path: Path) -> None:
    steps = (1, length, length + 1)
    check(FEDERATIONS["averaged"], tmp_path, steps, every=EVERY_BATCH, limit_train_batches=limit)


def test_early_stopping_stops_in_the_same_round(tmp_path: Path) -> None:
    def make() -> Setup:
        federation, data, callbacks = FEDERATIONS["averaged"]()
        stopping = EarlyStopping("federation/val_accuracy_mean", mode="max", patience=1, min_delta=1.0)
        return federation, data, [*callbacks, stopping]

    straight = Run(make, 9, every=checkpoints(tmp_path, every_n_train_steps=BATCHES))
    assert straight.trainer.current_epoch == 2
    resumed = Run(make, 9, resume=min(tmp_path.glob("*.ckpt")))
    assert resumed.trainer.current_epoch == 2
    assert same_run(straight, resumed) == []


def test_a_checkpoint_saved_after_fit_goes_on_like_a_longer_run(tmp_path: Path) -> None:
    make = FEDERATIONS["distilled"]
    straight = Run(make, ROUNDS)
    Run(make, 1).trainer.save_checkpoint(tmp_path / "first.ckpt")
    assert same_run(straight, Run(make, ROUNDS, resume=tmp_path / "first.ckpt")) == []


def test_resuming_twice_in_one_round_is_exact(tmp_path: Path) -> None:
    make = FEDERATIONS["accumulated"]
    straight = Run(make, 1, every=checkpoints(tmp_path / "one", **EVERY_BATCH))
    Run(make, 1, resume=tmp_path / "one" / "002.ckpt", every=checkpoints(tmp_path / "two", **EVERY_BATCH))
    assert same_run(straight, Run(make, 1, resume=tmp_path / "two" / "004.ckpt")) == []


# Data that is read sample by sample


class Noisy(Dataset[Any]):
    """Samples changed at random whenever they are read, by each of the generators that people draw from."""

    def __init__(self, seed: int, count: int) -> None:
        self.inside = examples(count, seed=seed)

    def __len__(self) -> int:
        return len(self.inside)

    def __getitem__(self, index: int) -> Any:
        inputs, target = self.inside.batch(torch.tensor(index))
        assert isinstance(inputs, Tensor)
        return inputs + 0.1 * torch.randn(4) + 0.1 * float(np.random.randn()), target  # noqa: NPY002 - as users do


def noisy(num_workers: int) -> Callable[[], Setup]:
    def make() -> Setup:
        federation, _, callbacks = FEDERATIONS["averaged"]()
        train = {name: Noisy(index, 12 + 4 * index) for index, name in enumerate("abc")}
        return federation, FederatedDataModule(train, batch_size=4, num_workers=num_workers), callbacks

    return make


@pytest.mark.parametrize("num_workers", [0, 2])
def test_random_augmentation_is_drawn_again_as_it_was(num_workers: int, tmp_path: Path) -> None:
    straight = Run(noisy(0), 2, every=checkpoints(tmp_path, every_n_train_steps=4))
    assert same_run(straight, Run(noisy(num_workers), 2, resume=tmp_path / "004.ckpt")) == []


class NumpyNoise:
    """A participant's transform that draws from NumPy and not from torch."""

    def __call__(self, inputs: Tensor) -> Tensor:
        return inputs + float(np.random.randn())  # noqa: NPY002 - as users do


def test_a_transform_may_draw_from_numpy(tmp_path: Path) -> None:
    check(setup(own={"b": {"transform": NumpyNoise()}}), tmp_path, (2, BATCHES), every=EVERY_BATCH)


# The order of the participants


def test_reordered_participants_take_their_own_state_by_name(tmp_path: Path) -> None:
    def make(names: str) -> Callable[[], Setup]:
        def federation() -> Setup:
            # Different optimizers: a state taken by position would not even fit.
            optimizers: dict[str, Any] = {"a": adam, "b": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), "c": adam}
            schedulers: dict[str, Any] = {"a": plateau, "c": every_round}
            members = {
                name: forgetful("abc".index(name), optimizer=optimizers[name], lr_scheduler=schedulers.get(name))
                for name in names
            }
            return Federation(members, seed=3), tiny_data(), []

        return federation

    straight = Run(make("abc"), 2)
    first = Run(make("abc"), 1)
    first.trainer.save_checkpoint(tmp_path / "abc.ckpt")
    turned = Run(make("cab"), 2, resume=tmp_path / "abc.ckpt")
    for name in "abc":
        assert equal(state_of(straight.federation[name]), state_of(turned.federation[name]))
        one, other = straight.federation.local[name], turned.federation.local[name]
        assert str(one.optimizers[0].state_dict()) == str(other.optimizers[0].state_dict())
        assert one.progress == other.progress
        assert [s.scheduler.state_dict() for s in one.schedules] == [s.scheduler.state_dict() for s in other.schedules]


def test_one_checkpoint_a_batch_keeps_them_all(tmp_path: Path) -> None:
    # Lightning takes a logged "step" for the number of batches; names that count rounds would overwrite each other.
    Run(FEDERATIONS["local"], 2, every=ModelCheckpoint(tmp_path, save_top_k=-1, every_n_train_steps=1))
    assert sorted(path.name for path in tmp_path.glob("*.ckpt")) == sorted(
        f"epoch={(step - 1) // BATCHES}-step={step}.ckpt" for step in range(1, 2 * BATCHES + 1)
    )
