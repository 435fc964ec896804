"""Public examples are changed where students learn from them, and nowhere else."""

import random
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from hetfed_lightning import (
    BackboneAveraging,
    EnsembleDistillation,
    FederatedDataModule,
    Federation,
    Inheritance,
    Participant,
    Transfer,
)
from hetfed_lightning.data import Examples
from hetfed_lightning.distillation import MeanProbabilities, Teachers
from hetfed_lightning.layers import GaussianNoise, RandomShift
from hetfed_lightning.methods.plans import Part
from hetfed_lightning.participants.multi_input import MultiInputParticipant
from hetfed_lightning.seeding import stream_generator, stream_seed
from tests.federations import (
    equal,
    examples,
    fit,
    sgd,
    state_of,
    tiny_data,
    tiny_federation,
    tiny_participant,
)
from tests.fleets.kin import OPTIMIZERS, classes, furthest, members, slow, trained
from tests.fleets.spies import alone
from tests.methods.planned import FedMD

MODES: dict[str, dict[str, Any]] = {
    "phase": {"mode": "phase", "epochs": 2},
    "mixed": {"mode": "mixed", "start_round": 0},
    "mixed from the second round": {"mode": "mixed"},
}
NOISE = GaussianNoise(0.5)


def linear(seed: int, rate: float = 0.0, **settings: Any) -> Participant:
    """Logits ``x W'`` of 4 features and 3 classes; it does not move at rate 0."""
    torch.manual_seed(seed)
    return Participant(nn.Linear(4, 3, bias=False), shared=(), optimizer=sgd(rate), **settings)


def double(inputs: Any) -> Tensor:
    made: Tensor = inputs.double()
    return made


PUBLIC = double(examples(10, seed=300).inputs)


def data64(names: str, **settings: Any) -> FederatedDataModule:
    train = {name: Examples(double(examples(8, seed=1).inputs), examples(8, seed=1).targets) for name in names}
    return FederatedDataModule(train, public=Examples(PUBLIC), batch_size=8, **settings)


class Kept(MeanProbabilities):
    """Keeps the outputs that it has combined."""

    def __init__(self) -> None:
        self.heard: list[Tensor] = []

    def __call__(self, teachers: Teachers, temperature: float) -> Tensor:
        self.heard.append(teachers.logits.clone())
        return super().__call__(teachers, temperature)


# By hand


@pytest.mark.parametrize("who", ["student", "phase", "mixed"])
def test_a_step_on_changed_examples_towards_targets_of_the_plain_ones_by_hand(who: str) -> None:
    # d/dz of T^2 KL(q || softmax(z / T)), mean over B, is T (softmax(z / T) - q) / B, and z = f(x) W'.
    def backwards(inputs: Tensor) -> Tensor:
        return inputs.flip(1).mul_(-2)

    rate, temperature, weight = 0.5, 3.0, 0.7
    learner = linear(0, rate)
    settings: dict[str, Any] = {} if who == "student" else {"students": "mutual", "mode": who, "start_round": 0}
    callback = EnsembleDistillation(
        temperature=temperature, weight=weight, batch_size=10, public_transform=backwards, **settings
    )
    weights = state_of(learner)["backbone.weight"].double()
    if who == "student":
        teachers = {"a": linear(1), "b": linear(2)}
        said = [state_of(one)["backbone.weight"].double() for one in teachers.values()]
        federation, data = Federation(teachers, learner), data64("ab")
    else:
        federation, data, said = Federation({"a": learner}), data64("a"), [weights]
    train = data.data.train["a"]
    fit(federation, data, 1, callback, precision="64-true")
    assert isinstance(train, Examples)
    if who == "phase":  # A local step comes first, after which the teacher speaks.
        weights = weights - rate * local_gradient(train, weights)
        said = [weights]
    target = torch.stack([(PUBLIC @ one.T / temperature).softmax(1) for one in said]).mean(0)
    inputs = -2 * PUBLIC.flip(1)
    slope = temperature * ((inputs @ weights.T / temperature).softmax(1) - target) / 10
    gradient = weight * slope.T @ inputs + (local_gradient(train, weights) if who == "mixed" else 0)
    found = state_of(learner)["backbone.weight"]
    torch.testing.assert_close(found, weights - rate * gradient, rtol=0, atol=1e-12)


def local_gradient(train: Examples, weights: Tensor) -> Tensor:
    """Gradient of the mean cross-entropy."""
    assert isinstance(train.inputs, Tensor)
    assert train.targets is not None
    apart = (train.inputs @ weights.T).softmax(1) - nn.functional.one_hot(train.targets, 3)
    return apart.T @ train.inputs / len(train.inputs)


class Noting(nn.Module):
    """Adds noise, and keeps what it was given and what it gave."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[Tensor] = []
        self.made: list[Tensor] = []

    def forward(self, inputs: Tensor) -> Tensor:
        self.given.append(inputs.clone())
        self.made.append(inputs + torch.randn(inputs.shape, dtype=inputs.dtype))
        return self.made[-1]


CHECKS = 2
"""Calls before training."""


def test_draws_are_named_by_participant_round_and_batch_and_follow_the_own_transform() -> None:
    noting = Noting()
    federation = tiny_federation("ab", seed=7, engine="sequential", participant={"transform": partial(torch.mul, 3)})
    fit(federation, tiny_data("ab"), 2, EnsembleDistillation(batch_size=4, public_transform=noting))
    batches = [(name, step, place) for step in range(2) for name in "ab" for place in range(3)]
    calls = zip(noting.given[2 * CHECKS :], noting.made[2 * CHECKS :], strict=True)
    for (name, step, place), (given, made) in zip(batches, calls, strict=True):
        order = torch.randperm(10, generator=stream_generator(7, "distil", name, step, 0))
        wanted = 3 * PUBLIC.float()[order[4 * place : 4 * place + 4]]
        assert torch.equal(given, wanted)
        seed = stream_seed(7, "public transform", "distillation", "distil", name, step, 0, place)
        noise = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(seed))
        assert torch.equal(made, wanted + noise)


# Nothing else


def forgetful() -> Federation:
    """Participants whose own draws would show any that is taken from them."""
    made = {
        name: Participant(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Dropout(0.3)), nn.Linear(6, 3), optimizer=sgd())
        for name in "ab"
    }
    for index, one in enumerate(made.values()):
        one.load_state_dict({key: torch.full_like(value, 0.1 + index) for key, value in one.state_dict().items()})
        one.transform = jittered
    return Federation(made, Participant(nn.Linear(4, 3), shared=(), optimizer=sgd()), engine="sequential")


def jittered(inputs: Tensor) -> Tensor:
    return inputs + random.random() + float(np.random.rand()) + 0.1 * torch.rand(())  # noqa: S311, NPY002


def greedy(inputs: Tensor) -> Tensor:
    """Changes nothing, and draws from every generator."""
    torch.rand(5)
    random.random()  # noqa: S311
    np.random.rand()  # noqa: NPY002
    return inputs


@pytest.mark.parametrize("mode", MODES)
def test_its_draws_disturb_no_others(mode: str) -> None:
    found = []
    for transform in (None, greedy):
        torch.manual_seed(0)
        federation = forgetful()
        callback = EnsembleDistillation(students="both", public_transform=transform, **MODES[mode])
        fit(federation, tiny_data("ab"), 3, callback, BackboneAveraging())
        found.append(state_of(federation))
    assert equal(*found)


@pytest.mark.parametrize("engine", ["sequential", "batched"])
def test_answers_predictions_and_figures_are_of_plain_examples(engine: Any) -> None:
    plain, noisy = Kept(), Kept()
    noting = Noting()
    for ensemble, transform in ((plain, None), (noisy, noting)):
        federation = tiny_federation("abc", engine=engine)
        callback = EnsembleDistillation(ensemble, batch_size=4, public_transform=transform)
        made = fit(federation, tiny_data("abc"), 1, callback)
        calls = len(noting.given)
        made.validate(federation, datamodule=tiny_data("abc"), verbose=False)
        made.test(federation, datamodule=tiny_data("abc"), verbose=False)
        made.predict(federation, datamodule=tiny_data("abc"))
        assert len(noting.given) == calls
    assert torch.equal(plain.heard[0], noisy.heard[0])
    assert len(noting.given) == CHECKS + 3 * 3  # Participants, batches: they are alike, and one is checked for all.


# Anywhere


@pytest.mark.parametrize("own", [None, partial(torch.mul, 0.5)], ids=["plain", "transform"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("engine", [slow("vmap"), "batched"])
def test_a_fleet_learns_from_the_examples_of_each_member(
    engine: str, mode: str, own: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(engine: str, transform: Any = NOISE) -> Federation:
        callback = EnsembleDistillation(weight=3.0, batch_size=4, public_transform=transform, **MODES[mode])
        parts = members(OPTIMIZERS["momentum"], transform=own)
        return trained(engine, classes(torch.float64, public=11), parts, callback, BackboneAveraging(), rounds=3,
                       precision="64-true")  # fmt: skip

    one = run("sequential")
    steps = alone(monkeypatch)
    other = run(engine)
    assert not steps
    assert furthest(other, one) < 1e-10
    assert furthest(run(engine, None), one) > 1e-2


class NoisyFedMD(FedMD):
    """A method with a transform of its own, and steps on public examples alone."""

    public_transform = NOISE


@pytest.mark.parametrize(("moment", "last"), [("local", 2), ("received", 1)])
def test_any_method_may_have_one_for_steps_on_public_examples_alone(
    moment: str, last: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for engine, kind in (("sequential", NoisyFedMD), ("batched", NoisyFedMD), ("batched", FedMD)):
        with monkeypatch.context() as patch:
            steps = alone(patch)
            parts = members(OPTIMIZERS["momentum"])
            method = kind({moment: [Part(epochs=1, on="public", batch_size=4), Part(epochs=1)][:last]}, first=1)
            data = classes(torch.float64, public=11)
            found.append(trained(engine, data, parts, method, rounds=3, precision="64-true"))
        assert bool(steps) == (engine == "sequential")
    assert furthest(found[1], found[0]) < 1e-10
    assert furthest(found[2], found[0]) > 1e-3


@pytest.mark.parametrize("engine", ["sequential", "batched"])
@pytest.mark.parametrize("mode", ["phase", "mixed"])
def test_a_run_resumes_in_every_bit(mode: str, engine: str, tmp_path: Path) -> None:
    def run(folder: str, **settings: Any) -> Federation:
        saving = ModelCheckpoint(tmp_path / folder, every_n_train_steps=3, save_top_k=-1, filename="{step}")
        callback = EnsembleDistillation(public_transform=NOISE, batch_size=4, **MODES[mode])
        return trained(engine, classes(torch.float32, public=11), members(OPTIMIZERS["adam"]), callback,
                       BackboneAveraging(), saving, rounds=3, enable_checkpointing=True, **settings)  # fmt: skip

    whole = run("whole")
    for step in (3, 6, 9):
        resumed = run(f"rest {step}", ckpt_path=tmp_path / "whole" / f"step={step}.ckpt")
        assert equal(state_of(whole), state_of(resumed)), step


def test_lessons_of_newcomers_are_of_changed_examples() -> None:
    # In a run, and from a trained federation afterwards: each two passes of three batches.
    noting = Noting()
    callback = EnsembleDistillation(batch_size=4, students="student", public_transform=noting)
    new = Transfer(distillation_epochs=2)
    parts = {"a": tiny_participant(), "b": tiny_participant(seed=1, joins_at=1, transfer=new)}
    federation = Federation(parts, tiny_participant(seed=2))
    fit(federation, tiny_data("ab"), 2, callback)
    assert len(noting.given) == CHECKS + 2 * 3 + 2 * 3  # The student's, a pass in each round, and the newcomer's.
    noting.given.clear()
    late = Federation({"c": tiny_participant(seed=3, transfer=new)})
    fit(late, tiny_data("c"), 1, Inheritance(federation, callback, batch_size=4))
    assert len(noting.given) == CHECKS + 2 * 3


def test_modules_in_a_list_are_applied_in_order() -> None:
    callback = EnsembleDistillation(public_transform=[RandomShift(1), GaussianNoise(0.1)])
    assert isinstance(callback.public_transform, nn.Sequential)
    assert [type(one) for one in callback.public_transform] == [RandomShift, GaussianNoise]


# Refused


class Private(nn.Module):
    """Draws from a generator of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = np.random.default_rng(0)

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs + float(self.numbers.random())


def fails(inputs: Tensor) -> Tensor:
    raise RuntimeError("no crop fits")


def halved(inputs: Tensor) -> Tensor:
    return inputs.half()


def logarithm(inputs: Tensor) -> Tensor:
    return inputs.log()


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "another shape": (lambda: nn.Flatten(0), r"expected float32 of shape \(4, 4\), as it was given, got .*\(16,\)"),
    "another dtype": (lambda: halved, r"halved.*got float16 of shape \(4, 4\)"),
    "no tensor": (lambda: Tensor.tolist, "got a list. Have it return a tensor"),
    "not finite": (lambda: logarithm, "expected finite numbers from the first public batch, got [0-9]+ that are not"),
    "to be trained": (lambda: nn.Linear(4, 4), "its parameter 'weight' requires a gradient, and nothing would train"),
    "a state": (lambda: nn.BatchNorm1d(4, affine=False), "its buffer 'running_mean' changes with each batch"),
    "a generator": (Private, "two calls under one seed differ.*Draw from torch, random or"),
    "failing": (lambda: fails, r"it fails on the first public batch, float32 of shape \(4, 4\): RuntimeError: no crop"),
    "images alone": (lambda: RandomShift(1), r"RandomShift\(max_pixels=1\).*expected images of shape \(B, H, W\)"),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fault", REFUSED)
def test_what_cannot_be_applied_is_refused_before_training(fault: str, mode: str) -> None:
    make, message = REFUSED[fault]
    federation = tiny_federation("ab")
    before = state_of(federation)
    callback = EnsembleDistillation(batch_size=4, public_transform=make(), **MODES[mode])
    with pytest.raises(ValueError, match=message) as refused:
        fit(federation, tiny_data("ab"), 3, callback)
    assert str(refused.value).startswith("participant 'a', EnsembleDistillation(public_transform=")
    assert equal(before, state_of(federation))


def test_frozen_parameters_and_buffers_that_stay_are_none_of_it() -> None:
    blur = nn.Sequential(nn.Linear(4, 4).requires_grad_(False), nn.BatchNorm1d(4, affine=False).eval())
    fit(tiny_federation("ab"), tiny_data("ab"), 1, EnsembleDistillation(public_transform=blur))


class Reading(nn.Module):
    """Logits of whole numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.embedding(inputs).mean(1)
        return found


@pytest.mark.parametrize("by_name", [False, True])
def test_inputs_that_are_no_floating_point_numbers_are_refused(by_name: bool) -> None:
    inputs: Tensor | Mapping[str, Tensor] = torch.arange(20).reshape(10, 2) % 5
    targets = torch.arange(10) % 3
    if by_name:
        inputs = {"x": torch.randn(10, 4), "y": torch.randn(10, 4)}
        one: Participant = MultiInputParticipant(
            nn.Linear(4, 3), nn.Linear(6, 3), reads="x", branches={"y": nn.Linear(4, 3)}, optimizer=sgd()
        )
    else:
        one = Participant(Reading(), optimizer=sgd())
    data = FederatedDataModule({"a": Examples(inputs, targets)}, public=Examples(inputs), batch_size=5)
    found = "a dict" if by_name else r"int64 of shape \(10, 2\)"
    with pytest.raises(ValueError, match=f"participant 'a'.*one tensor of floating-point numbers, got {found}"):
        fit(Federation({"a": one}), data, 1, EnsembleDistillation(public_transform=NOISE))


def test_who_learns_from_no_public_examples_is_not_asked() -> None:
    # The participants read whole numbers, which they only answer; the student reads others.
    torch.manual_seed(0)
    parts = {name: Participant(Reading(), optimizer=sgd(), transform=Tensor.long) for name in "ab"}
    student = Participant(nn.Linear(2, 3), shared=(), optimizer=sgd())
    inputs = torch.arange(20.0).reshape(10, 2) % 5
    sets = {name: Examples(inputs, torch.arange(10) % 3) for name in "ab"}
    data = FederatedDataModule(sets, public=Examples(inputs), batch_size=5)
    fit(Federation(parts, student), data, 1, EnsembleDistillation(public_transform=NOISE))


@pytest.mark.parametrize("engine", ["sequential", "batched"])
@pytest.mark.parametrize("mode", ["phase", "mixed"])
def test_a_later_batch_that_loses_its_shape_ends_the_run_by_name(mode: str, engine: Any) -> None:
    # Batches of 4, 4 and 2 public examples, of which the last is made 4.
    def four(inputs: Tensor) -> Tensor:
        return torch.cat([inputs, inputs])[:4]

    callback = EnsembleDistillation(batch_size=4, public_transform=four, **MODES[mode])
    with pytest.raises(ValueError, match=r"public_transform=four: expected float32 of shape \(2, 4\)") as refused:
        fit(tiny_federation("ab", engine=engine), tiny_data("ab"), 1, callback)
    assert "participant 'a', round 0, " in "".join(refused.value.__notes__)


@pytest.mark.parametrize("given", ["shift", 3, RandomShift, [RandomShift]])
def test_what_cannot_be_called_is_refused_at_once(given: Any) -> None:
    with pytest.raises(TypeError, match="public_transform: expected a module, a function of a batch, or modules in"):
        EnsembleDistillation(public_transform=given)


class Precise(L.Callback):
    """Keeps the precision of what reached a transform."""

    def __init__(self) -> None:
        self.seen: set[tuple[torch.dtype, torch.dtype]] = set()

    def __call__(self, inputs: Tensor) -> Tensor:
        self.seen.add((inputs.dtype, (inputs @ inputs.mT).dtype))
        return inputs


@pytest.mark.parametrize(("precision", "dtype"), [("bf16-mixed", torch.float32), ("64-true", torch.float64)])
@pytest.mark.parametrize("mode", ["phase", "mixed"])
def test_it_computes_in_the_precision_of_the_inputs(mode: str, precision: Any, dtype: torch.dtype) -> None:
    kept = Precise()
    callback = EnsembleDistillation(public_transform=kept, **MODES[mode])
    fit(tiny_federation("ab"), tiny_data("ab"), 1, callback, precision=precision)
    assert kept.seen == {(dtype, dtype)}
