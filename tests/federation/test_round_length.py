"""A round is as long as the longest of those who take part in it, for Lightning and all that asks Lightning."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
from lightning.pytorch.callbacks import ModelCheckpoint

from hetfed_lightning import BackboneAveraging, FederatedCallback, Federation
from hetfed_lightning.callbacks.progress_bar import FederatedProgressBar
from tests.federations import equal, fit, sgd, state_of, tiny_data, tiny_federation

BATCHES = {"a": 3, "b": 4, "c": 5}  # Of 12, 16 and 20 examples, four in a batch.


class Lengths(L.Callback):
    """What a callback sees of every round."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.took: list[int] = []
        self.bars: list[int] = []
        self.validated_after: list[list[int]] = []

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.told.append(trainer.num_training_batches)
        self.took.append(0)
        self.validated_after.append([])

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.took[-1] += 1
        bar = trainer.progress_bar_callback
        if isinstance(bar, FederatedProgressBar):
            self.bars.append(int(bar.train_progress_bar.total))
        assert trainer.is_last_batch == (self.took[-1] == self.told[-1])

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.validated_after[-1].append(self.took[-1])


def longest(federation: Federation, round_index: int, limit: float = 1.0) -> int:
    counts = [
        min(BATCHES[name], limit) if isinstance(limit, int) else max(1, int(BATCHES[name] * limit))
        for name in federation.active_names(round_index)
    ]
    return max(counts, default=1)


@pytest.mark.parametrize(
    ("times", "settings", "limit"),
    [
        ({"c": (2, None)}, {}, 1.0),
        ({"c": (0, 1), "b": (1, 3)}, {}, 1.0),
        ({}, {"participation": 0.34}, 1.0),
        ({"c": (1, 2)}, {}, 0.6),
        ({"b": (1, 2), "c": (1, 2)}, {}, 4),
        ({"a": (1, None), "b": (1, None), "c": (2, None)}, {}, 1.0),  # Nobody in the first round.
    ],
    ids=["joins", "joins and leaves", "sampled", "a share of the batches", "so many batches", "nobody yet"],
)
def test_every_round_is_as_long_as_its_longest_participant(
    times: dict[str, tuple[int, int | None]], settings: dict[str, Any], limit: float
) -> None:
    federation, seen = tiny_federation(participant={"optimizer": sgd(momentum=0.9)}, **settings), Lengths()
    for name, (joins_at, leaves_at) in times.items():
        federation[name].joins_at, federation[name].leaves_at = joins_at, leaves_at
    made = fit(
        federation, tiny_data(), 4, seen, BackboneAveraging(), limit_train_batches=limit, enable_progress_bar=True
    )
    expected = [longest(federation, index, limit) for index in range(4)]
    assert len(set(expected)) > 1
    assert seen.told == seen.took == expected
    assert seen.bars == [length for length in expected for _ in range(length)]
    assert seen.validated_after == [[length] for length in expected]
    assert made.global_step == sum(expected)
    for name, local in federation.local.items():
        rounds = [index for index in range(4) if name in federation.active_names(index)]
        assert local.progress == len(rounds) * (min(BATCHES[name], limit) if limit == 4 else int(BATCHES[name] * limit))


@pytest.mark.parametrize(
    ("interval", "expected"),
    [(0.5, [[1, 2, 3], [2, 4], [2, 4]]), (1.0, [[3], [5], [5]]), (2, [[2], [2, 4], [2, 4]]), (3, [[3], [3], [3]])],
)
def test_validation_comes_where_the_round_s_own_length_puts_it(interval: Any, expected: list[list[int]]) -> None:
    federation, seen = tiny_federation(), Lengths()
    federation["b"].joins_at, federation["c"].joins_at = 3, 1
    fit(federation, tiny_data(), 3, seen, val_check_interval=interval)
    assert seen.took == [3, 5, 5]
    assert seen.validated_after == expected


def test_an_interval_of_batches_longer_than_a_round_validates_at_its_end() -> None:
    federation, seen = tiny_federation(), Lengths()
    federation["c"].joins_at = 1
    fit(federation, tiny_data(), 2, seen, val_check_interval=5)
    assert seen.validated_after == [[4], [5]]


class Changing(FederatedCallback):
    """Sets a participant's work at some moment of the second round."""

    def __init__(self, moment: str, name: str, value: int) -> None:
        self.name, self.value = name, value
        setattr(self, moment, self.change)

    def change(self, trainer: L.Trainer, federation: Federation, *_: Any) -> None:
        if trainer.current_epoch == 1:
            setattr(federation["b"], self.name, self.value)


@pytest.mark.parametrize("moment", ["on_train_epoch_start", "on_round_start", "on_train_batch_start", "on_round_end"])
@pytest.mark.parametrize("name", ["local_epochs", "step_budget", "min_steps"])
def test_work_is_not_changed_inside_a_run(moment: str, name: str) -> None:
    federation = tiny_federation()
    with pytest.raises(
        RuntimeError, match=rf"participant 'b': {name} cannot be changed inside a run \(round 1\).*Set it"
    ):
        fit(federation, tiny_data(), 3, Changing(moment, name, 2))
    setattr(federation["b"], name, 3)  # The fit is over, be it by an error.
    assert getattr(federation["b"], name) == 3


def test_work_is_changed_before_and_between_fits() -> None:
    federation, seen = tiny_federation(("b",)), Lengths()
    data = tiny_data(("b",))  # 12 examples: 3 batches.
    prepares = L.pytorch.callbacks.LambdaCallback(setup=lambda *_, **__: setattr(federation["b"], "local_epochs", 2))
    made = fit(federation, data, 1, seen, prepares)
    federation["b"].local_epochs, federation["b"].step_budget = 3, 7
    made.callbacks.remove(prepares)  # type: ignore[attr-defined]
    made.fit_loop.max_epochs = 2
    made.fit(federation, datamodule=data)
    assert seen.took == [6, 7]
    with pytest.raises(ValueError, match="local_epochs: expected an integer of at least 1, got 0"):
        federation["b"].local_epochs = 0


def keep(folder: Path) -> ModelCheckpoint:
    return ModelCheckpoint(folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)


def short_and_long() -> Federation:
    federation = tiny_federation(participant={"optimizer": sgd(momentum=0.9)})
    federation["c"].joins_at, federation["b"].leaves_at = 1, 2
    return federation


def test_a_run_of_rounds_of_different_length_resumes_from_every_batch(tmp_path: Path) -> None:
    straight = short_and_long()
    ended = fit(straight, tiny_data(), 3, BackboneAveraging(), keep(tmp_path), enable_checkpointing=True)
    assert ended.global_step == 4 + 5 + 5
    paths = sorted(tmp_path.glob("*.ckpt"), key=lambda path: int(path.stem.partition("=")[2]))
    assert len(paths) == 14
    for path in paths[2:10]:  # From inside the first round, over both ends, to the beginning of the third.
        resumed = short_and_long()
        made = fit(
            resumed, tiny_data(), 3, BackboneAveraging(), keep(tmp_path / f"again-{path.stem}"),
            enable_checkpointing=True, ckpt_path=path,
        )  # fmt: skip
        assert (made.global_step, made.current_epoch) == (14, 3)
        assert equal(state_of(resumed), state_of(straight))


@pytest.mark.parametrize("done", [2, 4, 5])
def test_a_checkpoint_of_a_round_that_was_longer_once_goes_on(done: int, tmp_path: Path) -> None:
    # As those of versions whose rounds were as long as that of the longest of all, absent or not.
    fit(tiny_federation(), tiny_data(), 1, BackboneAveraging(), keep(tmp_path), enable_checkpointing=True)
    federation = tiny_federation()
    federation["c"].joins_at = 7
    made = fit(
        federation, tiny_data(), 2, BackboneAveraging(), keep(tmp_path / "again"),
        enable_checkpointing=True, ckpt_path=tmp_path / f"step={done}.ckpt",
    )  # fmt: skip
    assert made.current_epoch == 2
    first = {2: 4, 4: 5, 5: 5}[done]  # What was done is done; a round that was not at its end has a batch for that.
    assert made.global_step == first + 4
