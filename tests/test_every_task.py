"""One battery for every task in the package, found by walking it: a new file is tested before it has tests."""

import copy
import importlib
import inspect
import pickle
import pkgutil
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from hetfed_lightning import tasks
from hetfed_lightning.distillation.outputs import KINDS
from hetfed_lightning.fleets.compatibility import gives_example_losses
from hetfed_lightning.tasks import TASKS, Task

Case = tuple[Tensor, Tensor]


def logits(width: int) -> Tensor:
    return torch.randn(6, width, generator=torch.Generator().manual_seed(width))


CASES: dict[str, Case] = {
    "multiclass": (logits(3), torch.tensor([0, 1, 2, 2, 1, 0])),
    "binary": (logits(1), torch.tensor([0, 1, 1, 0, 1, 0])),
    "multilabel": (logits(2), torch.eye(2).long().repeat(3, 1)),
    "regression": (logits(1), torch.linspace(-1, 1, 6)),
}
"""Outputs and targets that belong together, by kind."""


def every_task() -> Iterator[type[Task]]:
    """Every task of the package that can be made without settings."""
    for info in pkgutil.iter_modules(tasks.__path__, f"{tasks.__name__}."):
        module = importlib.import_module(info.name)
        members = [member for member in vars(module).values() if getattr(member, "__module__", "") == info.name]
        yield from (
            one for one in members if inspect.isclass(one) and issubclass(one, Task) and not inspect.isabstract(one)
        )


def cases_of(task: Task) -> list[Case]:
    """The case of the task's kind; for a kind of its own, those whose targets it takes."""
    if task.kind in CASES:
        return [CASES[task.kind]]
    return [case for case in CASES.values() if task.target_problem(case[1], case[0].shape[1]) is None]


EVERY_TASK = {kind.__name__: kind for kind in every_task()}
every = pytest.mark.parametrize("kind", EVERY_TASK.values(), ids=EVERY_TASK)
every_case = pytest.mark.parametrize(
    ("kind", "case"),
    [
        pytest.param(kind, case, id=f"{name}-{index}")
        for name, kind in EVERY_TASK.items()
        for index, case in enumerate(cases_of(kind()))
    ],
)


def test_the_walk_finds_the_tasks_that_have_a_name() -> None:
    assert {kind.__name__ for kind in TASKS.values()} <= EVERY_TASK.keys()
    assert {kind().kind for kind in TASKS.values()} == set(KINDS) == set(CASES)


@every
def test_it_takes_the_targets_of_some_case(kind: type[Task]) -> None:
    cases = cases_of(kind())
    assert cases, f"{kind.__name__} is of kind {kind.kind!r}: give CASES outputs and targets that it takes"
    for outputs, target in cases:
        assert kind().target_problem(target, outputs.shape[1]) is None


@every_case
def test_metrics_take_predictions_and_targets(kind: type[Task], case: Case) -> None:
    outputs, target = case
    task = kind()
    metrics = task.metrics(outputs.shape[1])
    assert task.headline in metrics
    for name, metric in metrics.items():
        metric.update(task.predictions(outputs), task.metric_target(target))
        assert torch.isfinite(metric.compute())
        assert metric.sync_on_compute is False
        assert task.prefers_higher(name) is metric.higher_is_better
    assert task.metrics(outputs.shape[1])[task.headline] is not metrics[task.headline]


@every_case
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_predictions_and_losses_come_in_single_at_least(kind: type[Task], case: Case, dtype: torch.dtype) -> None:
    outputs, target = case[0].to(dtype), case[1]
    predictions, loss = kind().predictions(outputs), kind().loss(outputs, target)
    assert len(predictions) == len(outputs)
    assert {predictions.dtype, loss.dtype} == {torch.float64 if dtype == torch.float64 else torch.float32}
    assert loss.shape == ()
    assert loss.isfinite()
    if kind.kind == "multiclass":
        torch.testing.assert_close(predictions.sum(dim=1), torch.ones(6, dtype=predictions.dtype))


@every_case
def test_the_loss_is_the_weighted_mean_of_those_by_example(kind: type[Task], case: Case) -> None:
    task = kind()
    if not gives_example_losses(task):
        pytest.skip("its participants train one after another")
    losses, weights = task.example_losses(*case)
    assert losses.shape == weights.shape == (6,)
    torch.testing.assert_close(losses.sum() / weights.sum(), task.loss(*case))
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    torch.testing.assert_close(task.example_losses(case[0][order], case[1][order])[0], losses[order])


@every_case
def test_every_output_learns(kind: type[Task], case: Case) -> None:
    outputs = case[0].clone().requires_grad_()
    kind().loss(outputs, case[1]).backward()
    assert outputs.grad is not None
    assert outputs.grad.isfinite().all()
    assert outputs.grad.abs().sum(dim=1).gt(0).all()


@every_case
def test_distillation_towards_oneself_has_no_slope(kind: type[Task], case: Case) -> None:
    task = kind()
    if task.kind not in KINDS:
        pytest.skip("what it distils towards, only its own ensemble knows")
    outputs = case[0].double().requires_grad_()
    target = outputs.detach() if task.kind == "regression" else task.predictions(outputs / 2).detach()
    task.distillation_loss(outputs, target.reshape(outputs.shape), 2.0).backward()
    assert outputs.grad is not None
    assert float(outputs.grad.abs().max()) < 1e-12


@every_case
def test_copies_and_pickles_lose_the_same(kind: type[Task], case: Case) -> None:
    task = kind()
    for other in (copy.deepcopy(task), pickle.loads(pickle.dumps(task))):
        assert torch.equal(other.loss(*case), task.loss(*case))


@every
def test_it_brings_nothing_into_a_state_and_takes_up_what_it_learned(kind: type[Task]) -> None:
    task = kind()
    assert not task.state_dict()
    learned = task.learned()
    if learned is not None:
        kind().take_up(learned)
