"""The same seed gives the same weights in every bit; a participant's own do not depend on who else is there."""

import random
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import LambdaCallback
from torch import Tensor, nn

from hetfed_lightning import (
    BackboneAveraging,
    EnsembleDistillation,
    FederatedCallback,
    FederatedDataModule,
    Federation,
    Participant,
)
from tests.federations import Listed, equal, examples, fit, sgd, state_of, tiny_data


def dropping(seed: int) -> Participant:
    torch.manual_seed(seed)
    backbone = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Dropout(0.5))
    return Participant(backbone, nn.Linear(6, 3), optimizer=sgd(momentum=0.9), local_epochs=2)


def federation(names: str = "abc", *, seed: int = 0, **settings: Any) -> Federation:
    return Federation({name: dropping(ord(name)) for name in names}, seed=seed, **settings)


def trained(seed: int, mode: Any = "phase") -> dict[str, Tensor]:
    made = federation(seed=seed, student=dropping(0))
    fit(made, tiny_data(), 2, EnsembleDistillation(mode=mode, students="both"), BackboneAveraging())
    return state_of(made)


@pytest.mark.parametrize("mode", ["phase", "mixed"])
def test_same_seed_same_bits_and_another_seed_others(mode: Any) -> None:
    first = trained(1, mode)
    torch.manual_seed(1234)  # what else draws numbers in this process is of no account
    assert equal(first, trained(1, mode))
    assert not equal(first, trained(2, mode))


def test_evaluation_leaves_no_trace() -> None:
    ends = []
    for evaluated in (False, True):
        made = federation()
        fit(made, tiny_data(evaluated=evaluated), 2, BackboneAveraging())
        ends.append(state_of(made))
    assert equal(*ends)


@pytest.mark.parametrize("listed", [False, True], ids=["in memory", "sample by sample"])
def test_who_shares_nothing_is_alone_in_any_company(listed: bool) -> None:
    def noisy(inputs: Tensor) -> Tensor:
        return inputs + torch.randn_like(inputs) * random.random() * np.random.rand()  # noqa: S311, NPY002

    def train_set(name: str) -> Any:
        made = examples(10 + ord(name) % 7, seed=ord(name))
        return Listed(made) if listed else made

    ends = []
    for names in ("b", "abc", "cab"):
        made = federation(names)
        transforms = dict.fromkeys(names, noisy) if listed else None
        data = FederatedDataModule({name: train_set(name) for name in names}, batch_size=4, transforms=transforms)
        fit(made, data, 2)
        ends.append(state_of(made["b"]))
    assert equal(ends[0], ends[1])
    assert equal(ends[0], ends[2])


class Drawing(FederatedCallback):
    """Keeps what its events draw."""

    def __init__(self) -> None:
        self.drawn: list[float] = []

    def draw(self, *_: Any) -> None:
        self.drawn += [float(torch.rand(())), random.random(), float(np.random.rand())]  # noqa: S311, NPY002

    prepare = on_round_start = on_round_end = draw  # type: ignore[assignment]


def test_events_draw_what_round_and_class_name_whatever_was_drawn_before() -> None:
    def disturb(*_: Any) -> None:
        torch.rand(3), random.random(), np.random.rand()  # noqa: S311, NPY002

    seen = []
    for company in ([], [LambdaCallback(on_train_batch_end=disturb, on_fit_start=disturb, on_train_start=disturb)]):
        callback, made = Drawing(), federation()
        fit(made, tiny_data(), 2, callback, *company)
        seen.append((callback.drawn, state_of(made)))
    (first, state), (second, other) = seen
    assert first == second
    assert len(set(first)) == 3 * 5  # Before training, and as each of two rounds begins and ends.
    assert equal(state, other)


def test_what_is_prepared_leaves_the_streams_of_others_alone() -> None:
    drawn = []
    for company in ([], [Drawing()]):
        torch.manual_seed(5)
        watching = LambdaCallback(on_train_start=lambda *_: drawn.append(float(torch.rand(()))))
        fit(federation(), tiny_data(), 1, *company, watching)
    assert drawn[0] == drawn[1]


def test_a_newcomer_changes_nothing_for_the_others_before_it_joins() -> None:
    ends = []
    for joins_at in (2, 5):
        made = federation()
        made["c"].joins_at = joins_at
        fit(made, tiny_data(), 2, BackboneAveraging())
        ends.append(state_of(made))
    assert equal(*ends)
