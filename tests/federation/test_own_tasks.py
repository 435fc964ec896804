"""A task of a kind of its own: it is averaged, monitored and distilled if it brings what that needs, or is refused."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanAbsoluteError, Metric

from hetfed_lightning import (
    BackboneAveraging,
    EnsembleDistillation,
    FederatedDataModule,
    Federation,
    Participant,
    RegressionTask,
    Task,
)
from hetfed_lightning.data import Examples
from hetfed_lightning.distillation import ClassPriorWeighted, Ensemble, Teachers
from hetfed_lightning.methods.inheritance import Inheritance
from hetfed_lightning.participants.transfer import Transfer
from tests.federations import equal, fit, sgd, state_of
from tests.flower.federating import Deployed


class OrdinalTask(Task):
    """Grades 0 to C, told by C logits, of which each says whether the grade is above a threshold."""

    kind = "ordinal"
    headline = "mae"
    higher_is_better = False

    def above(self, outputs: Tensor, target: Tensor) -> Tensor:
        return (target.reshape(-1, 1) > torch.arange(outputs.shape[1], device=outputs.device)).to(outputs.dtype)

    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(outputs, self.above(outputs, target))

    def predictions(self, outputs: Tensor) -> Tensor:
        return outputs.sigmoid().sum(1)

    def metric_target(self, target: Tensor) -> Tensor:
        return target.float()

    def default_metrics(self, width: int) -> dict[str, Metric]:
        del width
        return {"mae": MeanAbsoluteError(sync_on_compute=False)}

    def target_problem(self, target: Tensor, width: int) -> str | None:
        return f"expected grades from 0 to {width}" if bool((target < 0).any() or (target > width).any()) else None


class Distilling(OrdinalTask):
    """Learns from an ensemble's probabilities of being above each threshold."""

    def distillation_loss(self, outputs: Tensor, targets: Tensor, temperature: float) -> Tensor:
        return F.binary_cross_entropy_with_logits(outputs / temperature, targets) * temperature**2


class MeanOrdinal(Ensemble):
    kinds = ("ordinal",)

    def __call__(self, teachers: Teachers, temperature: float) -> Tensor:
        return (teachers.logits / temperature).sigmoid().mean(0)


def grades(count: int, seed: int) -> Examples:
    inputs = torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))
    return Examples(inputs, (inputs[:, 0] > -0.5).long() + (inputs[:, 0] > 0.5).long())


def data(names: Any = "ab", **settings: Any) -> FederatedDataModule:
    return FederatedDataModule(
        {name: grades(16, index) for index, name in enumerate(names)},
        {name: grades(8, 20 + index) for index, name in enumerate(names)},
        {name: grades(8, 30 + index) for index, name in enumerate(names)},
        public=Examples(grades(10, 99).inputs),
        batch_size=4,
        **settings,
    )


def graded(task: Task, seed: int = 0, **settings: Any) -> Participant:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Participant(nn.Linear(4, 5), nn.Linear(5, 2), task=task, optimizer=sgd(0.5), **settings)


def federation(kind: type[Task], **settings: Any) -> Federation:
    return Federation({name: graded(kind(), index) for index, name in enumerate("ab")}, **settings)


def test_it_is_averaged_and_monitored() -> None:
    trained = federation(OrdinalTask)
    made = fit(trained, data(), 5, BackboneAveraging())
    assert torch.equal(trained["a"].backbone.weight, trained["b"].backbone.weight)  # type: ignore[arg-type]
    # Chance is off by 2/3 of a grade.
    assert float(made.callback_metrics["federation/val_mae_mean"]) < 0.5


@pytest.mark.parametrize("mode", ["phase", "mixed"])
@pytest.mark.parametrize("engine", ["sequential", "vmap"])
def test_it_distils_with_an_ensemble_and_a_loss_of_its_kind(mode: Any, engine: Any) -> None:
    trained = federation(Distilling, engine=engine)
    made = fit(trained, data(), 2, EnsembleDistillation(MeanOrdinal(), mode=mode), BackboneAveraging())
    assert {"val_mae/a", "val_mae/b"} <= made.callback_metrics.keys()
    alone = federation(Distilling, engine=engine)
    fit(alone, data(), 2, BackboneAveraging())
    assert not equal(state_of(trained), state_of(alone))


def test_a_student_of_it_learns() -> None:
    trained = federation(Distilling, student=graded(Distilling(), 7))
    before = state_of(trained["student"])
    fit(trained, data(), 1, EnsembleDistillation(MeanOrdinal()))
    assert not equal(before, state_of(trained["student"]))


@pytest.mark.parametrize(
    ("kind", "ensemble", "words"),
    [
        (OrdinalTask, None, (r"participant 'a': MeanProbabilities combines .*, and its OrdinalTask is of kind "
         r"'ordinal'\. Set the task's kind to .*'multilabel' .*ordinal scale.* an Ensemble whose kinds has 'ordinal'")),
        (OrdinalTask, MeanOrdinal(), r"participant 'a': OrdinalTask is of kind 'ordinal' and has no distillation_loss"),
    ],
)  # fmt: skip
def test_distillation_that_it_cannot_take_part_in_is_refused(
    kind: type[Task], ensemble: Ensemble | None, words: str
) -> None:
    with pytest.raises(ValueError, match=words) as found:
        fit(federation(kind), data(), 1, EnsembleDistillation(ensemble))
    assert "such as MeanProbabilities" not in str(found.value)


def test_the_remedy_that_is_recommended_works() -> None:
    class AsLabels(OrdinalTask):
        kind = "multilabel"

    trained = federation(AsLabels)
    fit(trained, data(), 1, EnsembleDistillation(), BackboneAveraging())


def test_a_known_kind_is_told_of_an_ensemble_that_combines_it() -> None:
    members = {
        name: Participant(nn.Linear(4, 5), nn.Linear(5, 1), task=RegressionTask(), optimizer=sgd(0.01)) for name in "ab"
    }
    words = (
        r"ClassPriorWeighted combines .*, but those of its RegressionTask are regression: .* such as MeanProbabilities"
    )
    with pytest.raises(ValueError, match=words):
        fit(Federation(members), data(), 1, EnsembleDistillation(ClassPriorWeighted()))


def test_without_predictions_of_its_own_it_is_refused_before_training() -> None:
    class Renamed(RegressionTask):
        kind = "ordinal"

    members = {name: Participant(nn.Linear(4, 5), nn.Linear(5, 1), task=Renamed()) for name in "ab"}
    with pytest.raises(ValueError, match=r"participant 'a': Renamed makes no .*: Renamed is of kind 'ordinal'"):
        fit(Federation(members), data(), 1, BackboneAveraging())


@pytest.mark.parametrize("missing", ["kind", "headline"])
def test_a_task_without_a_kind_or_a_headline_is_refused_by_name(missing: str) -> None:
    class Bare(OrdinalTask):
        pass

    setattr(Bare, missing, None)
    with pytest.raises(ValueError, match=f"participant 'a': Bare has no {missing}; set it in its class"):
        fit(federation(Bare), data(), 1)


def test_a_newcomer_learns_from_a_trained_federation_or_is_refused() -> None:
    source = federation(Distilling)
    fit(source, data(), 1, BackboneAveraging())

    def join(distillation: EnsembleDistillation | None) -> None:
        late = Federation({"late": graded(Distilling(), 5, transfer=Transfer(distillation_epochs=1))})
        fit(late, data(["late"]), 1, Inheritance(source, distillation))

    join(EnsembleDistillation(MeanOrdinal()))
    with pytest.raises(ValueError, match=r"participant 'late': MeanProbabilities combines .* is of kind 'ordinal'"):
        join(None)


def test_between_institutions_it_does_what_it_does_in_one_process(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Graded(Deployed):
        def everyone(self, **settings: Any) -> Federation:
            members = {name: graded(Distilling(), index) for index, name in enumerate(self.names)}
            return Federation(members, engine="sequential", **settings)

    def callbacks() -> list[Any]:
        return [EnsembleDistillation(MeanOrdinal()), BackboneAveraging()]

    deployed = Graded("ab", callbacks, tmp_path, rounds=2, data=data)
    states, _ = deployed.in_one_fit()
    with caplog.at_level(logging.WARNING, "hetfed_lightning"):
        leader = deployed.lead()
    assert "left out" not in caplog.text
    found = deployed.states(leader.run_id)
    assert all(equal(found[name], states[name]) for name in "ab")
