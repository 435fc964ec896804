import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from hetfed_lightning.data import Examples
from hetfed_lightning.data.loaders import EvaluationLoader, LocalWork, RoundLoader, TrainingSet, evaluation_loader
from tests.federations import Listed, examples

SIZES = {"a": 5, "b": 9}


@dataclass
class Schedule:
    """A federation as a loader sees it."""

    seed: int = 0
    current_round: int = 0
    batches_done: int = 0
    work: Mapping[str, LocalWork] = field(default_factory=dict)
    limit: int | None = None
    active: tuple[str, ...] = tuple(SIZES)

    def active_names(self, round_index: int) -> list[str]:
        return list(self.active)

    def work_of(self, name: str, round_index: int) -> LocalWork:
        return self.work.get(name, LocalWork())

    def rounds_ahead(self) -> list[int]:
        return [self.current_round]

    def limit_batches(self, batches: int) -> int:
        return batches if self.limit is None else min(batches, self.limit)

    def expect_batches(self, batches: int) -> int:
        return batches


class Random(Dataset[Any]):
    """Samples disturbed by all three generators that a transform may draw from."""

    def __init__(self, inside: Examples) -> None:
        self.inside = inside

    def __len__(self) -> int:
        return len(self.inside)

    def __getitem__(self, index: int) -> Any:
        inputs, target = self.inside[index]
        assert isinstance(inputs, Tensor)
        return inputs + torch.rand(1) + random.random() + float(np.random.rand()), target  # noqa: S311, NPY002


def loader(
    kind: Any = None, *, schedule: Schedule | None = None, drop_last: bool = False, **settings: Any
) -> RoundLoader:
    sets = {name: examples(size, seed=size) for name, size in SIZES.items()}
    sources = {name: TrainingSet(data if kind is None else kind(data), 2, drop_last) for name, data in sets.items()}
    return RoundLoader(sources, schedule or Schedule(), **settings)


def same(one: list[Any], other: list[Any]) -> bool:
    """Whether two rounds agree in participants, order, inputs and targets."""
    if [list(batch) for batch in one] != [list(batch) for batch in other]:
        return False
    pairs = [(first[name], second[name]) for first, second in zip(one, other, strict=True) for name in first]
    return all(torch.equal(x[0], y[0]) and torch.equal(x[1], y[1]) for x, y in pairs)


def test_a_round_by_hand() -> None:
    batches = list(loader())
    assert [{name: len(inputs) for name, (inputs, _) in batch.items()} for batch in batches] == [
        {"a": 2, "b": 2}, {"a": 2, "b": 2}, {"a": 1, "b": 2}, {"b": 2}, {"b": 1},
    ]  # fmt: skip
    for name, size in SIZES.items():
        found = torch.cat([batch[name][0] for batch in batches if name in batch])
        own = examples(size, seed=size).inputs
        assert isinstance(own, Tensor)
        assert sorted(found[:, 0].tolist()) == sorted(own[:, 0].tolist())


def test_targets_belong_to_their_inputs() -> None:
    for batch in loader():
        for inputs, targets in batch.values():
            assert torch.equal(inputs[:, :3].argmax(dim=1), targets)


def test_sample_by_sample_is_the_same_round() -> None:
    assert same(list(loader()), list(loader(Listed)))


def test_a_mixture_of_both_kinds_is_the_same_round() -> None:
    mixed = loader()
    mixed.sources["a"] = TrainingSet(Listed(examples(5, seed=5)), 2)
    assert same(list(loader()), list(mixed))


@pytest.mark.parametrize("rounds", [1, 2])
def test_workers_change_nothing(rounds: int) -> None:
    here, there = Schedule(), Schedule()
    alone, helped = loader(Random, schedule=here), loader(Random, schedule=there, num_workers=2)
    for index in range(rounds):
        here.current_round = there.current_round = index
        assert same(list(alone), list(helped))


def test_every_sample_is_disturbed_anew_in_every_round_and_pass() -> None:
    schedule = Schedule(work={"a": LocalWork(local_epochs=2)})
    rounds = loader(Random, schedule=schedule)
    seen: list[float] = []
    for index in range(2):
        schedule.current_round = index
        for batch in rounds:
            seen += [float(value) for inputs, _ in batch.values() for value in inputs[:, 0]]
    assert len(set(seen)) == len(seen) == 2 * (2 * 5 + 9)


@pytest.mark.parametrize("kind", [None, Listed, Random])
def test_a_round_is_set_by_seed_and_round(kind: Any) -> None:
    first = list(loader(kind))
    torch.manual_seed(99)
    random.seed(99)
    assert same(first, list(loader(kind)))
    assert not same(first, list(loader(kind, schedule=Schedule(seed=1))))
    assert not same(first, list(loader(kind, schedule=Schedule(current_round=1))))


def test_a_participants_batches_do_not_depend_on_the_others() -> None:
    both = [batch["b"] for batch in loader(Random)]
    alone = [batch["b"] for batch in loader(Random, schedule=Schedule(active=("b",))) if batch]
    assert all(torch.equal(one[0], other[0]) for one, other in zip(both, alone, strict=True))


def test_the_tail_of_a_round_is_the_tail() -> None:
    for kind in (None, Random):
        whole = list(loader(kind))
        assert same(whole[3:], list(loader(kind, schedule=Schedule(batches_done=3))))
        assert list(loader(kind, schedule=Schedule(batches_done=5))) == []


def test_round_and_start_are_read_at_the_first_batch() -> None:
    # Lightning makes the iterator before it advances the round.
    schedule = Schedule()
    early = iter(loader(schedule=schedule))
    schedule.current_round = 4
    assert same(list(early), list(loader(schedule=Schedule(current_round=4))))


def test_a_round_is_as_long_as_the_longest_of_who_takes_part_in_it() -> None:
    rounds = loader(schedule=Schedule(active=("a",)))
    assert [list(batch) for batch in rounds] == [["a"], ["a"], ["a"]]
    assert len(rounds) == 5  # Of the longest round that may come.
    assert [list(batch) for batch in loader(schedule=Schedule(active=()))] == [[]]


@pytest.mark.parametrize(
    ("work", "limit", "lengths", "steps"),
    [
        ({}, None, 5, {"a": 3, "b": 5}),
        ({"a": LocalWork(local_epochs=3)}, None, 9, {"a": 9, "b": 5}),
        ({"a": LocalWork(local_epochs=3, step_budget=4)}, None, 5, {"a": 4, "b": 5}),
        ({"b": LocalWork(step_budget=1)}, None, 3, {"a": 3, "b": 1}),
        ({"a": LocalWork(min_steps=4)}, None, 6, {"a": 6, "b": 5}),  # 3 batches a pass.
        ({"a": LocalWork(min_steps=4, step_budget=5)}, None, 5, {"a": 5, "b": 5}),
        ({"b": LocalWork(min_steps=5)}, None, 5, {"a": 3, "b": 5}),
        ({"a": LocalWork(min_steps=4, local_epochs=3)}, None, 9, {"a": 9, "b": 5}),
        ({"a": LocalWork(local_epochs=3)}, 2, 9, {"a": 2, "b": 2}),
    ],
)
def test_work(work: Any, limit: int | None, lengths: int, steps: dict[str, int]) -> None:
    rounds = loader(schedule=Schedule(work=work, limit=limit))
    assert len(rounds) == lengths
    batches = list(rounds)
    assert {name: sum(name in batch for batch in batches) for name in SIZES} == steps
    assert {name: rounds.steps_of(name, 0) for name in SIZES} == steps


def test_drop_last() -> None:
    batches = list(loader(drop_last=True))
    assert [len(batch["b"][0]) for batch in batches] == [2, 2, 2, 2]
    assert TrainingSet(examples(1), 2, drop_last=True).batches_per_epoch == 0
    assert TrainingSet(examples(4), 2, drop_last=True).batches_per_epoch == 2


def test_own_collation() -> None:
    def padded(samples: list[Any]) -> Any:
        return torch.stack([sample[0] for sample in samples]) * 0, torch.stack([sample[1] for sample in samples])

    assert all(
        float(inputs.abs().max()) == 0 for batch in loader(Listed, collate_fn=padded) for inputs, _ in batch.values()
    )


def test_named_inputs() -> None:
    inputs = {"image": torch.arange(4.0), "age": torch.arange(4.0) + 10}
    made = Examples(inputs, torch.arange(4))
    for data in (made, Listed(made)):
        rounds = RoundLoader({"a": TrainingSet(data, 4)}, Schedule(active=("a",)))
        ((batch,),) = [list(batch.values()) for batch in rounds]
        assert torch.equal(batch[0]["age"], batch[0]["image"] + 10)
        assert torch.equal(batch[0]["image"].long(), batch[1])


def test_where_it_stands_is_declared() -> None:
    rounds = loader(schedule=Schedule(current_round=3, batches_done=2))
    assert rounds.state_dict() == {"round": 3, "batches_done": 2}
    rounds.load_state_dict(rounds.state_dict())


# Evaluation


@pytest.mark.parametrize("kind", [None, Listed])
def test_evaluation_is_in_order_and_complete(kind: Any) -> None:
    made = examples(7)
    loaded = evaluation_loader(made if kind is None else kind(made), 3)
    assert len(loaded) == 3
    batches = list(loaded)
    assert [len(targets) for _, targets in batches] == [3, 3, 1]
    assert isinstance(made.inputs, Tensor)
    assert torch.equal(torch.cat([inputs for inputs, _ in batches]), made.inputs)
    assert isinstance(loaded, EvaluationLoader) is (kind is None)
