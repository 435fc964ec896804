"""Every engine leads where one participant after another leads: a whole round, and the next one after averaging."""

import copy
import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hetfed_lightning import BackboneAveraging, FederatedDataModule, Federation, Participant
from hetfed_lightning.backbones import ConvBackbone, MLPBackbone, TransformerBackbone
from hetfed_lightning.data import Examples
from hetfed_lightning.heads import CosineHead, MLPHead
from hetfed_lightning.tasks import MulticlassTask
from tests.federations import fit, state_of
from tests.fleets.kin import COUNTS, NAMES, OPTIMIZERS, classes, furthest, members, slow, trained


@pytest.mark.parametrize(
    "optimizer", [slow(name) if name in {"sgd", "nesterov", "adam"} else name for name in OPTIMIZERS]
)
@pytest.mark.parametrize(
    "clip", [pytest.param(False, id="free", marks=pytest.mark.slow), pytest.param(True, id="clipped")]
)
def test_steps_of_ragged_batches(optimizer: str, clip: bool) -> None:
    # One member of the clipped ones is free.
    norms = {"a": 0.5, "b": None, "c": 0.1, "d": 100.0} if clip else None
    for precision, dtype, tolerance in (("32-true", torch.float32, 1e-5), ("64-true", torch.float64, 1e-10)):
        alone, *together = [
            trained(
                engine, classes(dtype), members(OPTIMIZERS[optimizer], gradient_clip_val=norms, local_epochs=2),
                precision=precision,
            )
            for engine in ("sequential", "vmap", "batched")
        ]  # fmt: skip
        for end in together:
            assert furthest(end, alone) < tolerance
            assert state_of(end["a"])["head.weight"].dtype == dtype


def test_states_of_the_optimizers_and_the_counts_agree() -> None:
    ends = [trained(each, classes(torch.float64), members(OPTIMIZERS["adam"]), precision="64-true")
            for each in ("sequential", "batched")]  # fmt: skip
    for name in NAMES:
        one, other = (end.local[name] for end in ends)
        assert (one.landed, one.progress) == (other.landed, other.progress)
        states = [list(local.optimizers[0].state.values()) for local in (one, other)]
        for mine, theirs in zip(*states, strict=True):
            assert mine.keys() == theirs.keys()
            for key, value in mine.items():
                torch.testing.assert_close(value, theirs[key], rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(
    ("scheduler", "interval"),
    [
        (lambda o: torch.optim.lr_scheduler.LinearLR(o, 1.0, 0.1, total_iters=5), "step"),
        (lambda o: torch.optim.lr_scheduler.StepLR(o, 1, 0.5), "epoch"),
    ],
)
def test_schedulers_are_followed(scheduler: Any, interval: str) -> None:
    ends = [
        trained(each, classes(torch.float64), members(OPTIMIZERS["momentum"], lr_scheduler=scheduler,
                                                      lr_scheduler_interval=interval), precision="64-true")
        for each in ("sequential", "batched")
    ]  # fmt: skip
    assert furthest(ends[1], ends[0]) < 1e-10


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.Sigmoid, nn.GELU, nn.SiLU, nn.LeakyReLU, nn.Identity])
def test_every_activation_of_a_chain(activation: type[nn.Module]) -> None:
    def make() -> nn.ModuleDict:
        torch.manual_seed(2)
        backbone = nn.Sequential(nn.Flatten(), nn.Linear(6, 5), activation(), activation())
        return nn.ModuleDict({"backbone": backbone, "head": nn.Linear(5, 3)})

    ends = [trained(each, classes(torch.float64), members(OPTIMIZERS["adam"], make), precision="64-true")
            for each in ("sequential", "batched")]  # fmt: skip
    assert furthest(ends[1], ends[0]) < 1e-10


@pytest.mark.parametrize(
    ("backbone", "head", "engine"),
    [
        (lambda: MLPBackbone(6, (5, 4), 4), lambda: MLPHead(4, 3, (5,)), "batched"),
        (lambda: nn.Linear(6, 4), lambda: CosineHead(4, 3), "vmap"),
        (
            lambda: nn.Sequential(nn.Unflatten(1, (1, 2, 3)), nn.Conv2d(1, 3, 2), nn.Flatten()),
            lambda: nn.Linear(6, 3),
            "vmap",
        ),
    ],
)
def test_architectures_of_the_package(backbone: Any, head: Any, engine: str) -> None:
    def make() -> nn.ModuleDict:
        torch.manual_seed(3)
        return nn.ModuleDict({"backbone": backbone(), "head": head()})

    ends = [trained(each, classes(torch.float64), members(OPTIMIZERS["sgd"], make), precision="64-true")
            for each in ("sequential", engine)]  # fmt: skip
    assert furthest(ends[1], ends[0]) < 1e-10


@pytest.mark.parametrize("family", [ConvBackbone, TransformerBackbone])
def test_convolutions_and_attention_by_vmap(family: Any) -> None:
    torch.manual_seed(4)
    first = family(out_features=4)
    shape = first.example_input_shape
    data = FederatedDataModule(
        {
            name: Examples(torch.randn(6 + index, *shape), torch.arange(6 + index) % 3)
            for index, name in enumerate("ab")
        },
        batch_size=4,
    )
    ends = []
    for engine in ("sequential", "vmap"):
        torch.manual_seed(5)
        participants = {
            name: Participant(copy.deepcopy(first), nn.Linear(4, 3), optimizer=OPTIMIZERS["sgd"](0.1)) for name in "ab"
        }
        ends.append(trained(engine, data, participants, rounds=1))
    assert furthest(ends[1], ends[0]) < 1e-5


TASKS: dict[str, tuple[Any, Callable[[Tensor], Tensor], int]] = {
    "multiclass": ("multiclass", lambda x: x[:, :3].argmax(1), 3),
    "binary": ("binary", lambda x: (x[:, :1] > 0).long(), 1),
    "multilabel": ("multilabel", lambda x: (x[:, :3] > 0).long(), 3),
    "regression": ("regression", lambda x: x[:, :2], 2),
    "regression of one value": ("regression", lambda x: x[:, 0], 1),
}


@pytest.mark.parametrize("kind", TASKS)
def test_every_task(kind: str) -> None:
    task, target, width = TASKS[kind]
    generator = torch.Generator().manual_seed(0)
    inputs = {name: torch.randn(count, 6, generator=generator, dtype=torch.float64) for name, count in COUNTS.items()}
    data = FederatedDataModule({name: Examples(x, target(x)) for name, x in inputs.items()}, batch_size=5)

    def make() -> nn.ModuleDict:
        torch.manual_seed(2)
        return nn.ModuleDict({"backbone": nn.Sequential(nn.Linear(6, 5), nn.ReLU()), "head": nn.Linear(5, width)})

    alone, *together = [trained(engine, data, members(OPTIMIZERS["sgd"], make, task=task), precision="64-true")
                        for engine in ("sequential", "vmap", "batched")]  # fmt: skip
    assert all(furthest(end, alone) < 1e-10 for end in together)


def test_class_weights_and_smoothing() -> None:
    def task() -> MulticlassTask:
        return MulticlassTask(class_weights=[0.2, 1.0, 3.0], label_smoothing=0.1)

    ends = []
    for engine in ("sequential", "vmap", "batched"):
        participants = members(OPTIMIZERS["sgd"], task={name: task() for name in NAMES})
        ends.append(trained(engine, classes(torch.float64), participants, precision="64-true"))
    assert all(furthest(end, ends[0]) < 1e-10 for end in ends[1:])


def test_losses_are_logged_alike() -> None:
    figures = []
    for engine in ("sequential", "batched"):
        federation = Federation(members(OPTIMIZERS["sgd"]), engine=engine)
        run = fit(federation, classes(torch.float32), 2, BackboneAveraging())
        figures.append({key: float(value) for key, value in run.callback_metrics.items()})
    assert figures[0].keys() == figures[1].keys() >= {f"train_loss/{name}" for name in NAMES}
    assert figures[1] == pytest.approx(figures[0], rel=1e-4)


def test_auto_says_what_it_chose_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    federation = Federation(members(OPTIMIZERS["sgd"]))
    with caplog.at_level(logging.INFO, "hetfed_lightning"):
        fit(federation, classes(torch.float32), 3, BackboneAveraging())
    lines = [record.message for record in caplog.records if record.message.startswith("Fleets:")]
    assert len(lines) == 1
    assert "4 participants (b, d, a, c; Sequential + Linear)" in lines[0]
    assert "times as fast as sequential" in lines[0] or ": sequential" in lines[0]
