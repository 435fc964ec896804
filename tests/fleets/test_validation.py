"""Members are validated together, each on its own set and all on everyone's, with the figures they have alone."""

from collections.abc import Iterator, Mapping
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from hetfed_lightning import BackboneAveraging, FederatedCallback, FederatedDataModule, Federation, Participant
from hetfed_lightning.data import Examples
from hetfed_lightning.fleets import fleet as fleet_module
from hetfed_lightning.fleets import validation_lookahead
from hetfed_lightning.fleets.batched import BatchedEngine
from hetfed_lightning.tasks import MulticlassTask
from tests.federations import Listed, fit, sgd, tiny_data, tiny_federation, tiny_participant

NAMES = ("a", "b", "c", "d")
SIZES = {"a": 7, "b": 10, "c": 3, "d": 8}
"""In batches of 4: 2, 3, 1 and 2 batches, the last of them of 3, 2, 3 and 4 examples."""
WIDTHS = {"multiclass": 3, "binary": 1, "multilabel": 3, "regression": 2}


def data(
    task: str = "multiclass", sizes: Mapping[str, int] = SIZES, dtype: torch.dtype = torch.float64, **settings: Any
) -> FederatedDataModule:
    generator = torch.Generator().manual_seed(0)

    def made(count: int) -> Examples:
        inputs = torch.randn(count, 6, generator=generator, dtype=dtype)
        targets = {
            "multiclass": inputs[:, :3].argmax(1),
            "binary": (inputs[:, 0] > 0).long(),
            "multilabel": (inputs[:, :3] > 0).long(),
            "regression": inputs[:, :2] * 2,
        }
        return Examples(inputs, targets[task])

    train = {name: made(12 + 4 * place) for place, name in enumerate(sizes)}
    own = {name: made(count) for name, count in sizes.items()}
    usual: dict[str, Any] = {"val": own, "global_val": made(9), "batch_size": 4, "eval_batch_size": 4}
    return FederatedDataModule(train, **(usual | settings))


def federation(
    engine: Any, task: Any = "multiclass", kind: type[Participant] = Participant, hidden: int = 5, **settings: Any
) -> Federation:
    members = {}
    width = WIDTHS.get(task, 3) if isinstance(task, str) else 3
    for place, name in enumerate(NAMES):
        torch.manual_seed(place)
        backbone = nn.Sequential(nn.Linear(6, hidden), nn.ReLU())
        members[name] = kind(backbone, nn.Linear(hidden, width), task=task, optimizer=sgd(0.1))
    return Federation(members, engine=engine, **settings).double()


class Figures(L.Callback):
    """All that each validation comes to."""

    def __init__(self) -> None:
        self.seen: list[dict[str, float]] = []

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, Federation)
        assert pl_module.fleets.lookahead.bytes_kept == 0  # Nothing was computed that no loader came to.

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.seen.append({key: float(value) for key, value in trainer.callback_metrics.items() if "val" in key})


def figures(
    made: Federation, module: FederatedDataModule, *callbacks: L.Callback, **settings: Any
) -> list[dict[str, float]]:
    seen = Figures()
    fit(made, module, 2, BackboneAveraging(), seen, *callbacks, precision="64-true", **settings)
    assert set(made.fleets.chosen.values()) <= {"batched", "vmap"}
    return seen.seen


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, int, bool]]]:
    """Members, examples of each and whether they were common, of every time that an engine is asked for outputs."""
    found: list[tuple[int, int, bool]] = []
    right = BatchedEngine.outputs

    def outputs(self: BatchedEngine, parameters: Any, inputs: Any, *, common: bool = False) -> Tensor:
        found.append((len(next(iter(parameters.values()))), inputs.shape[0 if common else 1], common))
        return right(self, parameters, inputs, common=common)

    monkeypatch.setattr(BatchedEngine, "outputs", outputs)
    return iter([found])


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Who is evaluated by itself, once for each batch."""
    found: list[str] = []
    right = Participant.validation_step

    def validation_step(self: Participant, batch: Any, batch_idx: int) -> Any:
        found.append(str(self.name))
        return right(self, batch, batch_idx)

    monkeypatch.setattr(Participant, "validation_step", validation_step)
    return found


# The same figures


def test_an_engine_that_cannot_predict_leaves_it_to_each(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = figures(federation("sequential"), data())

    def outputs(self: BatchedEngine, parameters: Any, inputs: Any, *, common: bool = False) -> Tensor:
        raise torch.OutOfMemoryError("too many")

    monkeypatch.setattr(BatchedEngine, "outputs", outputs)
    with caplog.at_level("WARNING", "hetfed_lightning"):
        found = figures(federation("batched"), data())
    assert [one == pytest.approx(other, rel=1e-9) for one, other in zip(found, wanted, strict=True)] == [True, True]
    (told,) = [record.message for record in caplog.records]
    assert told.endswith("they predict one after another, since it failed (OutOfMemoryError: too many).")


@pytest.mark.parametrize("task", list(WIDTHS))
def test_every_task_has_the_figures_that_each_has_alone(task: str, alone: list[str]) -> None:
    wanted = figures(federation("sequential", task), data(task))
    for engine in ("batched", "vmap"):
        alone.clear()
        found = figures(federation(engine, task), data(task))
        assert alone == ["b", "b"]  # Who alone has a third batch.
        assert len(found) == 2
        for one, other in zip(found, wanted, strict=True):
            assert one == pytest.approx(other, rel=1e-9, nan_ok=True)
            assert {f"val_loss/{name}" for name in NAMES} | {f"val_global_loss/{name}" for name in NAMES} <= set(one)


@pytest.mark.parametrize(
    ("ours", "settings"),
    [
        ({}, {"limit_val_batches": 2}),
        ({}, {"limit_val_batches": 0.5}),
        ({}, {"val_check_interval": 2}),
        ({}, {"num_sanity_val_steps": 2}),
        ({"participation": 0.5}, {}),
        ({"participation": 0.8, "seed": 3}, {"check_val_every_n_epoch": 2}),
    ],
)
def test_the_same_batches_are_seen(ours: Any, settings: Any) -> None:
    sizes = {"a": 9, "b": 14, "c": 11, "d": 30}
    ends = [figures(federation(engine, **ours), data(sizes=sizes), **settings) for engine in ("sequential", "batched")]
    assert len(ends[0]) == len(ends[1]) > 0
    for one, other in zip(*ends, strict=True):
        assert one == pytest.approx(other, rel=1e-9)


def test_batches_are_in_the_precision_of_the_run(alone: list[str]) -> None:
    ends = [figures(federation(engine), data(dtype=torch.float32)) for engine in ("sequential", "batched")]
    assert alone[-2:] == ["b", "b"]
    assert ends[1][1] == pytest.approx(ends[0][1], rel=1e-9)


def test_members_need_not_have_equal_metrics_nor_all_of_them_a_set() -> None:
    from torchmetrics.classification import MulticlassAccuracy

    ends = []
    for engine in ("sequential", "batched"):
        made = federation(engine)
        made["b"].task._custom_metrics = {
            "macro": MulticlassAccuracy(3),
            "plain": MulticlassAccuracy(3, average="micro"),
        }
        ends.append(figures(made, data(val={name: data().data.val[name] for name in "abd"})))
    assert {"val_macro/b", "val_plain/b", "val_accuracy/a"} <= set(ends[0][1])
    assert "val_loss/c" not in ends[0][1]
    assert ends[1][1] == pytest.approx(ends[0][1], rel=1e-9)


# Once for all


def test_networks_run_once_for_all_at_each_index(asked: Iterator[Any], alone: list[str]) -> None:
    found = next(asked)
    figures(federation("batched"), data())
    # Batch 0 of everyone, batch 1 of a, b and d, batch 2 of b, who is alone in having one; then everyone's set.
    common = [(4, 4, True), (4, 4, True), (4, 1, True)]
    assert found == [(4, 4, False), (3, 4, False), *common] * 2
    assert alone == ["b", "b"]


@pytest.mark.parametrize(
    ("room", "hidden", "parts"),
    [
        (3 * 4 * 6 * 8, 5, [3]),  # Three batches of four examples of six numbers: one of the four is left over.
        (3 * 4 * 12 * 8, 12, [3]),  # What the widest layer makes of them counts as well.
        (1, 5, [2, 2]),  # Two are no more than one and another one.
    ],
)
def test_what_there_is_no_room_for_is_computed_in_parts(
    room: int, hidden: int, parts: list[int], asked: Iterator[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = figures(federation("sequential", hidden=hidden), data())
    found = next(asked)
    monkeypatch.setattr(fleet_module, "ROOM", {"others": room})
    ends = figures(federation("batched", hidden=hidden), data())
    assert [count for count, size, common in found if common and size == 4] == parts * 2 * 2
    assert max(count for count, _, common in found if not common) == parts[0]
    for one, other in zip(ends, wanted, strict=True):
        assert one == pytest.approx(other, rel=1e-9)


def test_what_waits_is_bounded_and_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    row = 4 * 3 * 8  # Predictions of four examples and three classes in float64.
    held: list[int] = []
    right = validation_lookahead.ValidationLookahead._look_ahead

    def look_ahead(self: validation_lookahead.ValidationLookahead, *args: Any) -> None:
        right(self, *args)
        kept = [one.evaluated.predictions for one in self._kept.values()]
        held.append(sum(one.untyped_storage().nbytes() for one in kept))
        assert self.bytes_kept == sum(one.nbytes for one in kept)

    monkeypatch.setattr(validation_lookahead.ValidationLookahead, "_look_ahead", look_ahead)
    sizes = dict.fromkeys(NAMES, 40)
    wanted = figures(federation("sequential"), data(sizes=sizes))
    figures(federation("batched"), data(sizes=sizes))
    assert max(held) == (3 * 10 + 1) * row  # Three members wait with ten batches, and one is about to be looked at.
    held.clear()
    monkeypatch.setattr(validation_lookahead, "KEPT", 5 * row)
    ends = figures(federation("batched"), data(sizes=sizes))
    assert max(held) <= (5 + 4) * row
    for one, other in zip(ends, wanted, strict=True):
        assert one == pytest.approx(other, rel=1e-9)


# Whoever has a hand in it


class Listening(Participant):
    heard: list[tuple[str, str, int, int]]

    def on_validation_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.heard.append(("start", str(self.name), batch_idx, len(batch[1])))

    def on_validation_batch_end(self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        counted = int(self.metrics_of("val", 3)["accuracy"].update_count)
        self.heard.append(("end", str(self.name), batch_idx, counted))


def test_hooks_are_heard_in_order_and_metrics_are_what_they_were() -> None:
    heard = []
    for engine in ("sequential", "batched"):
        Listening.heard = []
        figures(federation(engine, kind=Listening), data())
        heard.append(Listening.heard)
    assert heard[0] == heard[1]
    assert heard[0][:3] == [("start", "a", 0, 4), ("end", "a", 0, 1), ("start", "a", 1, 3)]


class Noisy(Participant):
    def on_validation_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        if self.name == "b":
            batch[0].add_(batch_idx + 1.0)


class NoisyCallback(L.Callback):
    def on_validation_batch_start(self, trainer: Any, pl_module: Any, batch: Any, *_: Any) -> None:
        batch[0].mul_(3.0)


class NoisyData(FederatedDataModule):
    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return batch if isinstance(batch, dict) else (batch[0] * 3, batch[1])


class NoisyFederation(Federation):
    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return batch if isinstance(batch, dict) else (batch[0] * 3, batch[1])


class Backwards(FederatedDataModule):
    """Sets whose order is known to their loaders alone."""

    def val_dataloader(self) -> dict[str, Any]:
        return {name: DataLoader(Listed(one), 4, shuffle=False) for name, one in self.data.val.items()}  # type: ignore[arg-type]


class Doubled(Examples):
    """A set that gives other inputs than it holds."""

    def batch(self, indices: Tensor) -> Any:
        inputs, targets = super().batch(indices)
        return 2 * inputs, targets  # type: ignore[operator]


class OwnValidation(Participant):
    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        self.log("val_own", float(batch[1].sum()))


class OwnTask(MulticlassTask):
    def predictions(self, outputs: Tensor) -> Tensor:
        return super().predictions(outputs - outputs.mean(0))


@pytest.mark.filterwarnings("ignore:You have overridden `on_before_batch_transfer`")
@pytest.mark.parametrize("kind", [Noisy, NoisyCallback, NoisyData, NoisyFederation, Backwards, OwnValidation, OwnTask])
def test_what_somebody_does_to_a_batch_is_seen(kind: Any) -> None:
    ends = []
    for engine in ("sequential", "batched"):
        made = federation(
            engine,
            OwnTask() if kind is OwnTask else "multiclass",
            kind if issubclass(kind, Participant) else Participant,
        )
        if kind is NoisyFederation:
            made = NoisyFederation(made.members(), engine=engine)
        module = data()
        if issubclass(kind, FederatedDataModule):
            module.__class__ = kind
        ends.append(figures(made, module, *([NoisyCallback()] if kind is NoisyCallback else [])))
    assert ("val_own/a" if kind is OwnValidation else "val_loss/a") in ends[0][1]
    for one, other in zip(*ends, strict=True):
        assert one == pytest.approx(other, rel=1e-9)


def test_a_set_that_makes_its_batches_itself_is_asked_for_them() -> None:
    ends = []
    for engine in ("sequential", "batched"):
        module = data()
        for name in "bc":
            module.data.val[name].__class__ = Doubled
        ends.append(figures(federation(engine), module))
    assert ends[1][1] == pytest.approx(ends[0][1], rel=1e-9)


def test_transforms_are_applied_by_each() -> None:
    ends = []
    for engine in ("sequential", "batched"):
        made = tiny_federation(engine=engine)
        made["b"].transform = lambda x: 2 * x
        ends.append(fit(made, tiny_data(), 2).callback_metrics)
    assert {key: float(value) for key, value in ends[1].items()} == pytest.approx(
        {key: float(value) for key, value in ends[0].items()}, rel=1e-5
    )


class Meddling(FederatedCallback):
    """Validates other weights than those that were trained, as averages over time are, in place or in another place."""

    def __init__(self, when: str, how: str) -> None:
        self.when, self.how = when, how

    def _meddle(self, federation: L.LightningModule) -> None:
        assert isinstance(federation, Federation)
        with torch.no_grad():
            for parameter in federation["c"].parameters():
                if self.how == "in place":
                    parameter.fill_(0.3)
                else:
                    parameter.data = torch.full_like(parameter, 0.3)

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.when == "before":
            self._meddle(pl_module)

    def on_validation_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if (self.when, batch_idx, dataloader_idx) in {("first", 0, 0), ("second", 0, 1)}:
            self._meddle(pl_module)


@pytest.mark.parametrize("when", ["before", "first", "second"])
@pytest.mark.parametrize("how", ["in place", "elsewhere"])
def test_the_weights_that_are_validated_are_those_of_the_moment(when: str, how: str) -> None:
    ends = [figures(federation(engine), data(), Meddling(when, how)) for engine in ("sequential", "batched")]
    for one, other in zip(*ends, strict=True):
        assert one == pytest.approx(other, rel=1e-9)


def test_one_who_joins_later_is_passed_over_until_then() -> None:
    ends = []
    for engine in ("sequential", "batched"):
        members = {name: tiny_participant(seed=place, joins_at=int(name == "c")) for place, name in enumerate("abc")}
        seen = Figures()
        fit(Federation(members, engine=engine), tiny_data(), 2, BackboneAveraging(), seen)
        assert ["val_loss/c" in one for one in seen.seen] == [False, True]
        ends.append(seen.seen)
    for one, other in zip(*ends, strict=True):
        assert one == pytest.approx(other, rel=1e-5)
