"""Participants whose data do not define a metric: left out of the federation's figures, named once, and no more."""

import itertools
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from sklearn.metrics import roc_auc_score
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torchmetrics import MeanSquaredError, Metric
from torchmetrics.classification import BinaryAUROC

from hetfed_lightning import (
    BackboneAveraging,
    BinaryTask,
    FederatedDataModule,
    Federation,
    MulticlassTask,
    Participant,
    RegressionTask,
    RunRecord,
)
from hetfed_lightning.callbacks.headline_metrics import Headline, headline_summaries, loss_summaries, summary_figures
from hetfed_lightning.cli.report.page import page
from hetfed_lightning.cli.report.sources import read_subject
from hetfed_lightning.data import Examples
from hetfed_lightning.logs.metric_store import tag
from hetfed_lightning.logs.run_record import Record
from hetfed_lightning.logs.undefined import UndefinedMonitorError
from hetfed_lightning.metrics import summarise
from tests.federations import fit, sgd, tiny_data, tiny_participant, trainer, values
from tests.flower.federating import Deployed


def auroc() -> BinaryTask:
    return BinaryTask(metrics={"auroc": BinaryAUROC()})


def federation(names: Sequence[str] = "abc", **settings: Any) -> Federation:
    return Federation(
        {name: tiny_participant(classes=1, task=auroc(), seed=ord(name[0]), **settings) for name in names}
    )


def cases(count: int, seed: int, *, only: int | None = None) -> Examples:
    inputs = torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))
    targets = (inputs[:, 0] > 0).long() if only is None else torch.full((count,), only)
    return Examples(inputs, targets)


def data(names: Sequence[str] = "abc", *, without: Sequence[str] = "c") -> FederatedDataModule:
    """Validation and test sets of which those of ``without`` hold one class."""
    evaluated = {name: cases(9, 50 + i, only=0 if name in without else None) for i, name in enumerate(names)}
    train = {name: cases(12, i) for i, name in enumerate(names)}
    return FederatedDataModule(train, evaluated, evaluated, batch_size=4)


def area(made: Federation, sets: FederatedDataModule, name: str) -> float:
    own: Any = sets.data.val[name]
    inputs, targets = own.batch(torch.arange(9))
    return float(roc_auc_score(targets, made[name].predict(inputs)))


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if "undefined" in one.getMessage()]


@pytest.mark.filterwarnings("error:No (positive|negative) samples")
@pytest.mark.parametrize("engine", ["sequential", "vmap"])
def test_it_is_left_out_of_mean_and_worst_and_named_once(
    engine: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made, sets, table = federation(), data(), CSVLogger(tmp_path, name="", version="")
    made.fleets = type(made.fleets)(engine)
    stopping = EarlyStopping("federation/val_auroc_mean", mode="max", patience=9)
    with caplog.at_level(logging.WARNING, "hetfed_lightning"):
        ran = fit(made, sets, 3, BackboneAveraging(), stopping, logger=table)
    assert ran.current_epoch == 3
    areas = [area(made, sets, name) for name in "ab"]
    found = {key: float(value) for key, value in ran.callback_metrics.items()}
    assert found["federation/val_auroc_mean"] == pytest.approx(sum(areas) / 2)
    assert found["federation/val_auroc_worst"] == pytest.approx(min(areas))
    assert math.isnan(found["val_auroc/c"])
    losses = [found[f"val_loss/{name}"] for name in "abc"]
    assert found["federation/val_loss_mean"] == pytest.approx(sum(losses) / 3)
    assert found["federation/val_loss_worst"] == pytest.approx(max(losses))
    [line] = warnings_of(caplog)
    assert line == (
        "val_auroc is undefined on the validation data of 'c' (its 9 examples are all negative, and it needs both "
        "kinds): left out of the federation's mean and worst."
    )
    header = (tmp_path / "metrics.csv").read_text().splitlines()[0].split(",")
    assert "val_auroc/b" in header
    assert "val_auroc/c" not in header


def test_a_test_names_it_too_and_the_record_and_the_report_tell_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made, sets = federation(), data()
    ran = trainer(1, RunRecord(str(tmp_path)))
    ran.fit(made, datamodule=sets)
    caplog.clear()
    with caplog.at_level(logging.WARNING, "hetfed_lightning"):
        ran.test(made, datamodule=sets, verbose=False)
    assert [line.split(" (")[0] for line in warnings_of(caplog)] == ["test_auroc is undefined on the test data of 'c'"]
    assert float(ran.callback_metrics["federation/test_auroc_mean"]) == pytest.approx(
        sum(area(made, sets, name) for name in "ab") / 2
    )
    record = Record.read(tmp_path)
    why = "its 9 examples are all negative, and it needs both kinds"
    assert record.undefined == {"val_auroc/c": why, "test_auroc/c": why}
    assert "test_auroc/c" not in record.test
    assert f"left out of means: test_auroc of c ({why})." in page([read_subject(tmp_path)])


@pytest.mark.parametrize("key", ["federation/val_auroc_mean", "federation/val_auroc_worst", "val_auroc/b"])
@pytest.mark.parametrize("kind", ["EarlyStopping", "ModelCheckpoint"])
def test_following_what_nobody_defines_ends_with_who_and_why(key: str, kind: str, tmp_path: Path) -> None:
    follower: Any = (
        EarlyStopping(key, mode="max") if kind == "EarlyStopping" else ModelCheckpoint(tmp_path, monitor=key)
    )
    with pytest.raises(UndefinedMonitorError, match=rf"{kind} follows '{key}', which is undefined for .*'b' \(its 9"):
        fit(federation(), data(without="abc"), 2, follower, enable_checkpointing=kind == "ModelCheckpoint")


def test_a_sanity_check_of_a_part_of_the_data_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    sets = data(without="")
    first = Examples(cases(9, 3).inputs, torch.tensor([0] * 8 + [1]))
    sets.replace_data(replace(sets.data, val=dict.fromkeys("abc", first)))
    with caplog.at_level(logging.WARNING, "hetfed_lightning"):
        fit(federation(), sets, 1, EarlyStopping("federation/val_auroc_mean", mode="max"), num_sanity_val_steps=1)
    assert not warnings_of(caplog)


def test_a_plateau_that_follows_it_lets_the_rate_be() -> None:
    def plateau(optimizer: Any) -> Any:
        scheduler = ReduceLROnPlateau(optimizer, mode="max", patience=0, factor=0.5, eps=0.0)
        scheduler.monitor = "val_auroc"  # type: ignore[attr-defined]  # as Lightning's own class has it
        return scheduler

    made = federation(lr_scheduler=plateau, optimizer=sgd(lr=1e-9))
    fit(made, data(), 4)
    rates = {name: made.local[name].optimizers[0].param_groups[0]["lr"] for name in "ac"}
    assert rates["a"] < 1e-9
    assert rates["c"] == 1e-9


class Half(Metric):
    """A user's metric that finds no number on the data of some."""

    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        self.add_state("ones", torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, predictions: Any, target: Any) -> None:
        del predictions
        self.ones += target.sum()

    def compute(self) -> Any:
        return torch.tensor(math.nan) if self.ones == 0 else torch.tensor(0.5)


def test_a_users_metric_without_a_number_is_undefined_beside_a_finite_loss() -> None:
    task = BinaryTask(metrics={"half": Half()})
    made = Federation({name: tiny_participant(classes=1, task=task) for name in "abc"})
    found = fit(made, data(), 1).callback_metrics
    assert float(found["federation/val_half_mean"]) == 0.5


class Broken(Participant):
    """Answers no number once it is evaluated."""

    def forward(self, inputs: Any) -> Any:
        outputs = super().forward(inputs)
        return outputs if self.training else outputs * math.nan


def test_a_broken_network_is_not_left_out_and_reaches_no_logger(tmp_path: Path) -> None:
    whole = tiny_participant(classes=1, task=RegressionTask(metrics={"mse": MeanSquaredError()}))
    broken = Broken(
        torch.nn.Linear(4, 5), torch.nn.Linear(5, 1), task=RegressionTask(metrics={"mse": MeanSquaredError()})
    )
    sets = {"a": values(9, features=4, dtype=torch.float32), "b": values(9, features=4, dtype=torch.float32)}
    table = CSVLogger(tmp_path, name="", version="")
    stopping = EarlyStopping("federation/val_mse_mean")
    ran = fit(Federation({"a": whole, "b": broken}), FederatedDataModule(sets, sets), 3, stopping, logger=table)
    assert math.isnan(float(ran.callback_metrics["federation/val_mse_mean"]))
    assert ran.current_epoch == 1  # EarlyStopping's own reaction to what is not finite.
    assert "federation/val_mse_mean" not in (tmp_path / "metrics.csv").read_text()


def test_losses_of_several_kinds_have_no_mean() -> None:
    sets = {"a": cases(9, 1), "b": values(9, features=4, dtype=torch.float32)}
    made = Federation({"a": tiny_participant(classes=2), "b": tiny_participant(classes=1, task="regression")})
    found = fit(made, FederatedDataModule(sets, sets), 1).callback_metrics
    assert not {key for key in found if key.startswith("federation/val_loss")}
    assert "federation/val_r2_mean" in found


def test_between_institutions_the_coordinators_mean_is_that_of_one_fit(tmp_path: Path) -> None:
    deployed = Deployed(
        "abc", lambda: [BackboneAveraging()], tmp_path, rounds=2,
        participants={"classes": 1, "task": auroc()}, data=data,
    )  # fmt: skip
    _, expected = deployed.rounds_in_one_fit()
    deployed.lead()
    told = deployed.notes.metrics[-1]
    assert "val_auroc/c" not in told
    assert "val_loss/c" in told
    headlines = dict.fromkeys("abc", Headline("auroc", True, "binary"))
    summaries = headline_summaries(headlines, "val", told) | loss_summaries(headlines, "val", told)
    means, rest = summary_figures(summaries, "val")
    for key, value in (means | rest).items():
        assert value == pytest.approx(expected[-1][key], abs=1e-6)


# --------------------------------------------------------------------------------------------------- laws


figures = st.one_of(st.none(), st.floats(-1e6, 1e6))


@given(st.lists(figures, min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_means_know_no_order_and_no_names_and_nothing_of_who_has_no_figure(of_all: list[Any], random: Any) -> None:
    def said(names: Sequence[str], of_all: Sequence[Any]) -> tuple[dict[str, float], dict[str, float]]:
        told = {tag("val_score", name): x for name, x in zip(names, of_all, strict=True) if x is not None}
        headlines = dict.fromkeys(names, Headline("score", True, "binary"))
        return summary_figures(headline_summaries(headlines, "val", told), "val")

    names = [f"site_{index}" for index in range(len(of_all))]
    pairs = list(zip([f"x{name}" for name in names], of_all, strict=True))
    random.shuffle(pairs)
    renamed = said([name for name, _ in pairs], [x for _, x in pairs])
    there = [x for x in of_all if x is not None]
    alone = said(names[: len(there)], there)
    for one, other, without in zip(said(names, of_all), renamed, alone, strict=True):
        assert one.keys() == other.keys() == without.keys()
        for key in one:
            assert one[key] == pytest.approx(other[key], rel=0, abs=0, nan_ok=True)
            assert one[key] == pytest.approx(without[key], rel=0, abs=0, nan_ok=True)
    if there:
        assert said(names, of_all)[0]["federation/val_score_mean"] == math.fsum(there) / len(there)


@pytest.mark.parametrize("huge", [[1e308, 1e308, 1e308], [1e200, -1e200], [math.inf, -math.inf], [math.inf, 1.0]])
def test_no_figure_that_a_site_may_send_ends_a_summary(huge: list[float]) -> None:
    for order in itertools.permutations(huge):
        found = summarise({str(index): x for index, x in enumerate(order)})
        assert found.worst == min(huge)


def test_renamed_and_reordered_participants_reach_the_same_figures() -> None:
    def reached(names: Mapping[str, str]) -> dict[str, float]:
        """Figures by the names that they had at first."""
        train = {names[old]: cases(8, index) for index, old in enumerate("abc") if old in names}
        sets = {
            names[old]: cases(9, 50 + index, only=1 if old == "b" else None)
            for index, old in enumerate("abc")
            if old in names
        }
        members = {names[old]: tiny_participant(classes=1, task=auroc()) for old in "abc"}
        order = sorted(members)
        made = Federation({name: members[name] for name in order})
        whole = FederatedDataModule(
            {name: train[name] for name in order}, {name: sets[name] for name in order}, batch_size=8
        )
        back = {new: old for old, new in names.items()}
        found = fit(made, whole, 2, BackboneAveraging()).callback_metrics
        renamed = {}
        for key, value in found.items():
            metric, _, name = key.rpartition("/")
            renamed[f"{metric}/{back.get(name, name)}"] = float(value)
        return renamed

    first = reached({"a": "a", "b": "b", "c": "c"})
    second = reached({"a": "zoe", "b": "amy", "c": "kim"})
    assert first.keys() == second.keys()
    assert second == pytest.approx(first, rel=1e-5, nan_ok=True)


def test_tiny_data_define_what_they_should() -> None:
    """The usual federation of the tests leaves nothing undefined: no warning is waiting there."""
    made = Federation({name: tiny_participant(task=MulticlassTask()) for name in "abc"})
    fit(made, tiny_data(), 1)
    assert made.logbook.undefined.reasons == {}
