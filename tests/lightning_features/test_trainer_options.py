"""Options of ``lightning.Trainer`` mean for a federation what a Lightning user expects of them."""

import multiprocessing
from collections.abc import Mapping
from contextlib import nullcontext
from datetime import timedelta
from typing import Any

import lightning as L
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    BaseFinetuning,
    BatchSizeFinder,
    EMAWeightAveraging,
    GradientAccumulationScheduler,
    LearningRateFinder,
    ModelPruning,
    StochasticWeightAveraging,
    WeightAveraging,
)
from lightning.pytorch.callbacks.spike import SpikeDetection
from lightning.pytorch.utilities.model_summary.model_summary import ModelSummary
from torch import Tensor

from hetfed_lightning import BackboneAveraging, EnsembleDistillation, FederatedDataModule, Federation, Participant
from hetfed_lightning.data import Examples
from tests.federations import (
    Listed,
    equal,
    examples,
    fit,
    sgd,
    state_of,
    tiny_data,
    tiny_federation,
    tiny_participant,
)

NAMES = ("a", "b", "c")  # with 3, 4 and 5 batches of 4


class Steps(L.Callback):
    """Counts whose batches were trained on, and what was validated when."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.of: dict[str, int] = dict.fromkeys(NAMES, 0)
        self.validated: list[int] = []
        self.batches = 0
        self.stop_after = stop_after

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: Any, batch: Mapping[str, Any], batch_idx: int
    ) -> None:
        for name in batch:
            self.of[name] += 1

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        self.batches += 1
        if self.batches == self.stop_after:
            trainer.should_stop = True

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.validated.append(self.batches)


def counted(rounds: int = 1, stop_after: int | None = None, **settings: Any) -> tuple[Steps, L.Trainer]:
    steps = Steps(stop_after)
    return steps, fit(tiny_federation(), tiny_data(), rounds, steps, **settings)


def test_a_round_is_an_epoch_and_a_step_is_a_batch_index() -> None:
    steps, made = counted(2)
    assert steps.of == {"a": 6, "b": 8, "c": 10}
    assert (made.current_epoch, made.global_step) == (2, 10)


def test_fast_dev_run_trains_and_validates_one_batch_of_each() -> None:
    steps, made = counted(9, fast_dev_run=True)
    assert steps.of == {"a": 1, "b": 1, "c": 1}
    assert (steps.validated, made.global_step) == ([1], 1)


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (2, {"a": 2, "b": 2, "c": 2}),
        (4, {"a": 3, "b": 4, "c": 4}),
        (99, {"a": 3, "b": 4, "c": 5}),
        # A share of each participant's own batches, and not of the longest's: 1.5, 2 and 2.5, rounded down.
        (0.5, {"a": 1, "b": 2, "c": 2}),
        (0.2, {"a": 1, "b": 1, "c": 1}),
        (1.0, {"a": 3, "b": 4, "c": 5}),
    ],
)
def test_limit_train_batches_is_each_participants_own(limit: float, expected: dict[str, int]) -> None:
    steps, made = counted(limit_train_batches=limit)
    assert steps.of == expected
    assert made.global_step == max(expected.values())


def test_a_limited_round_still_ends_in_averaging() -> None:
    federation = tiny_federation()
    fit(federation, tiny_data(), 1, BackboneAveraging(), limit_train_batches=2)
    first, *others = (state_of(federation[name].backbone) for name in NAMES)
    assert all(equal(first, other) for other in others)


def test_no_training_at_all() -> None:
    federation = tiny_federation()
    before = state_of(federation)
    fit(federation, tiny_data(), 3, limit_train_batches=0)
    assert equal(before, state_of(federation))


def test_limit_val_batches() -> None:
    data = tiny_data(eval_batch_size=2)  # 3 batches of each participant's validation set, 9 of everyone's
    federation, seen = tiny_federation(), []
    original = federation["a"].evaluate_batch

    def counted(batch: Any, stage: Any, evaluated: Any = None) -> None:
        seen.append(len(batch[1]))
        original(batch, stage, evaluated)

    federation["a"].evaluate_batch = counted  # type: ignore[method-assign]
    fit(federation, data, 1, limit_val_batches=1)
    assert seen == [2, 2]  # one batch of its own, one of everyone's


def test_limit_val_batches_of_zero_leaves_validation_out() -> None:
    steps, made = counted(limit_val_batches=0)
    assert steps.validated == []
    assert "val_loss/a" not in made.callback_metrics


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [5, 10]),
        ({"val_check_interval": 2}, [2, 4, 7, 9]),
        ({"val_check_interval": 0.5}, [2, 4, 7, 9]),
        ({"val_check_interval": 3, "check_val_every_n_epoch": None}, [3, 6, 9]),
        ({"check_val_every_n_epoch": 2}, [10]),
    ],
)
def test_validation_runs_when_it_should(settings: dict[str, Any], expected: list[int]) -> None:
    steps, _ = counted(2, **settings)
    assert steps.validated == expected


def test_the_sanity_check_sees_everyone_and_leaves_no_trace() -> None:
    checked, unchecked = tiny_federation(), tiny_federation()
    one = fit(checked, tiny_data(), 1, EnsembleDistillation(), BackboneAveraging(), num_sanity_val_steps=2)
    other = fit(unchecked, tiny_data(), 1, EnsembleDistillation(), BackboneAveraging())
    assert equal(state_of(checked), state_of(unchecked))
    seconds = "federation/seconds_per_round"
    logged = [{key: float(v) for key, v in made.callback_metrics.items() if key != seconds} for made in (one, other)]
    assert logged[0] == logged[1]


def test_max_steps_counts_batches_and_may_end_within_a_round() -> None:
    steps, made = counted(9, max_steps=7)
    assert steps.of == {"a": 5, "b": 6, "c": 7}
    assert made.global_step == 7
    assert "train_loss/a" in made.callback_metrics


def test_max_steps_with_several_optimizer_steps_in_a_batch() -> None:
    federation = tiny_federation(participant={"accumulate_grad_batches": 2})
    made = fit(federation, tiny_data(), 9, max_steps=5)
    assert (made.global_step, made.current_epoch) == (5, 1)
    assert federation.local["c"].progress == 3  # batches 1-2, 3-4, and what was left of the round


def test_min_steps_outlast_a_request_to_stop() -> None:
    steps, _ = counted(9, stop_after=1, min_steps=8)
    assert steps.batches == 8


def test_should_stop_ends_the_run_after_the_batch() -> None:
    steps, made = counted(9, stop_after=7)
    assert steps.batches == 7
    assert made.current_epoch == 2


def test_max_time() -> None:
    steps, _ = counted(9, max_time=timedelta(seconds=0))
    assert steps.batches < 5


def test_detect_anomaly_names_the_operation() -> None:
    class Root(torch.nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return (inputs * 0).sqrt() + inputs  # its gradient is 0 / 0

    participant = tiny_participant()
    participant.backbone.append(Root())  # type: ignore[operator]
    with (
        pytest.warns(UserWarning, match=r"Error detected in \w+Backward0"),
        pytest.raises(RuntimeError, match="returned nan values"),
    ):
        fit(Federation({"a": participant}), tiny_data("a"), 1, detect_anomaly=True)


def test_gradients_are_clipped_by_participant() -> None:
    free = tiny_participant(optimizer=sgd(1.0))
    held = tiny_participant(optimizer=sgd(1.0), gradient_clip_val=0.01)
    federation = Federation({"a": free, "b": held})
    before = {name: state_of(federation[name]) for name in "ab"}
    fit(federation, tiny_data("ab"), 1, limit_train_batches=1)
    moved = {
        name: torch.stack(
            [(after - before[name][key]).norm() for key, after in state_of(federation[name]).items()]
        ).norm()
        for name in "ab"
    }
    # One step of plain descent at a rate of 1 is as long as the gradient.
    assert float(moved["b"]) == pytest.approx(0.01, rel=1e-3)
    assert float(moved["a"]) > 0.1


def test_a_model_summary_can_be_printed() -> None:
    # As text, since Lightning prints by way of `rich` or of its logger, whichever is there.
    federation = tiny_federation()
    fit(federation, tiny_data(), 1, enable_model_summary=True, limit_train_batches=1)
    printed = str(ModelSummary(federation))
    assert "participants" in printed
    assert "129" in printed  # 3 * (4 * 5 + 5 + 5 * 3 + 3) parameters


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"gradient_clip_val": 0.5}, r"gradient_clip_val=0\.5\).*Use Participant\(gradient_clip_val="),
        ({"accumulate_grad_batches": 4}, r"accumulate_grad_batches=4\).*Use Participant\(accumulate_grad_batches="),
        ({"overfit_batches": 2}, r"overfit_batches.*Use Trainer\(limit_train_batches="),
    ],
)
def test_options_without_a_meaning_are_refused_with_what_to_use(settings: dict[str, Any], words: str) -> None:
    federation = tiny_federation()
    before = state_of(federation)
    with pytest.raises(MisconfigurationException, match=words):
        fit(federation, tiny_data(), 1, **settings)
    assert equal(before, state_of(federation))


@pytest.mark.parametrize("fails", [False, True])
def test_worker_processes_end_with_the_fit(fails: bool) -> None:
    # Left to the garbage collector, torch waits 5 seconds for each.
    class Fails(L.Callback):
        def on_train_batch_end(self, *args: Any) -> None:
            if fails:
                raise ArithmeticError

    before = set(multiprocessing.active_children())
    data = FederatedDataModule({name: Listed(examples(8)) for name in NAMES}, batch_size=4, num_workers=2)
    with pytest.raises(ArithmeticError) if fails else nullcontext():
        fit(tiny_federation(), data, 2, Fails())
    assert set(multiprocessing.active_children()) <= before


def test_a_participant_that_is_told_to_step_itself_does() -> None:
    class Manual(Participant):
        def __init__(self) -> None:
            made = tiny_participant()
            super().__init__(made.backbone, made.head, optimizer=sgd(0.1))
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.task.loss(self(batch[0]), batch[1]).backward()
            optimizer.step()

    manual, automatic = Federation({"a": Manual()}), Federation({"a": tiny_participant()})
    for federation in (manual, automatic):
        fit(federation, tiny_data("a"), 2)
    assert equal(state_of(manual), state_of(automatic))


class Freezing(BaseFinetuning):
    """As a user's own."""

    def freeze_before_training(self, pl_module: L.LightningModule) -> None: ...

    def finetune_function(self, *args: Any) -> None: ...


@pytest.mark.parametrize(
    ("callback", "words"),
    [
        (GradientAccumulationScheduler({0: 2}), r"Use Participant\(accumulate_grad_batches=\.\.\.\)"),
        (StochasticWeightAveraging(1e-2), "WeightAveraging or EMAWeightAveraging"),
        (BackboneFinetuning(), "Freeze layers in the participant"),
        (Freezing(), r"callbacks=\[Freezing\(\.\.\.\)\].*Freeze layers"),
        (ModelPruning("l1_unstructured"), "Prune what was trained"),
        (LearningRateFinder(), r"Participant\(optimizer=\.\.\.\)"),
        (BatchSizeFinder(), "set batch_size in the data module"),
        (SpikeDetection(), "train_loss/NAME"),
    ],
)
def test_callbacks_for_one_model_are_refused_with_what_to_use(callback: L.Callback, words: str) -> None:
    federation = tiny_federation()
    before = state_of(federation)
    with pytest.raises(MisconfigurationException, match=words):
        fit(federation, tiny_data(), 1, callback)
    assert equal(before, state_of(federation))


def test_a_strategy_that_wraps_the_model_is_refused_on_one_device_too() -> None:
    with pytest.raises(MisconfigurationException, match=r"gave DDPStrategy, which wraps.*strategy='federated'"):
        fit(tiny_federation(), tiny_data(), 1, strategy="ddp")


@pytest.mark.parametrize("kind", [WeightAveraging, EMAWeightAveraging])
def test_averages_of_weights_over_time_end_as_the_mean_they_promise(kind: type[WeightAveraging]) -> None:
    # One participant that steps by a fixed amount: weights 0, -1, -2, -3 after its 0 to 3 steps.
    class Falling(Participant):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self.backbone.weight.sum()  # type: ignore[operator]

    member = Falling(torch.nn.Linear(1, 1, bias=False), task="regression", optimizer=sgd(1.0))
    torch.nn.init.zeros_(member.backbone.weight)  # type: ignore[arg-type]
    data = FederatedDataModule({"a": Examples(torch.zeros(12, 1), torch.zeros(12, 1))}, batch_size=4)
    callback = kind() if kind is WeightAveraging else kind(decay=0.5)
    fit(Federation({"a": member}), data, 1, callback)
    # Equal weights: the mean of -1, -2, -3. With a decay of a half: ((-1 - 2) / 2 - 3) / 2.
    wanted = -2.0 if kind is WeightAveraging else -2.25
    assert member.backbone.weight.item() == pytest.approx(wanted)  # type: ignore[operator]
