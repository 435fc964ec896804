"""What several participants were given is copied for each or refused by name; one may be in several federations."""

import functools
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchmetrics import MeanAbsoluteError

from hetfed_lightning import BackboneAveraging, FederatedDataModule, Federation, Participant, ParticipantGroup
from hetfed_lightning.layers import Standardise
from hetfed_lightning.tasks import MulticlassTask, RegressionTask
from tests.federations import (
    equal,
    examples,
    fit,
    sgd,
    state_of,
    tiny_data,
    tiny_federation,
    tiny_participant,
    trainer,
    values,
)


def spread(factor: float) -> Any:
    data = examples(12, seed=1)
    assert isinstance(data.inputs, Tensor)
    return type(data)(data.inputs * factor, data.targets)


# What is copied


def test_a_transform_given_to_two_learns_each_ones_own_scale(caplog: pytest.LogCaptureFixture) -> None:
    scale = Standardise(4)
    with caplog.at_level(logging.INFO, "hetfed_lightning"):
        federation = Federation({name: tiny_participant(transform=scale) for name in "abc"})
    assert "transform (Standardise) was given to several participants; 2 of them train with a copy" in caplog.text
    factors = {"a": 1.0, "b": 10.0, "c": 100.0}
    fit(federation, FederatedDataModule({name: spread(one) for name, one in factors.items()}, batch_size=4), 1)
    found = {name: one.transform(spread(factors[name]).inputs).std(0) for name, one in federation.members().items()}  # type: ignore[misc]
    for std in found.values():
        torch.testing.assert_close(std, torch.ones(4), rtol=0.1, atol=0)
    assert federation["a"].transform is scale


class Counting:
    """A transform that is no module and remembers."""

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, inputs: Tensor) -> Tensor:
        self.seen += 1
        return inputs


def test_objects_with_state_are_copied_and_functions_are_not() -> None:
    def plain(inputs: Tensor) -> Tensor:
        return inputs

    counting, scale = Counting(), Standardise(1)
    task = RegressionTask({"mae": MeanAbsoluteError()})
    named = {"x": nn.Flatten()}
    settings: list[dict[str, Any]] = [
        {"transform": counting, "target_transform": scale, "task": task},
        {"transform": counting.__call__, "task": task},
        {"transform": functools.partial(counting), "target_transform": scale},
        {"transform": plain},
        {"transform": plain},
        {"transform": torch.relu},
        {"transform": torch.relu},
        {"transform": named},
        {"transform": named},
    ]
    made = [tiny_participant(seed=index, **one) for index, one in enumerate(settings)]
    Federation({f"p{index}": one for index, one in enumerate(made)})
    assert made[0].transform is counting
    assert made[1].transform.__self__ is not counting  # type: ignore[union-attr]
    assert made[0].task is task
    assert made[1].task is not task
    assert made[2].target_transform is not scale
    assert made[3].transform is made[4].transform is plain
    assert made[5].transform is made[6].transform is torch.relu
    flat = [[part for part in one.transform.modules() if isinstance(part, nn.Flatten)] for one in made[7:]]  # type: ignore[union-attr]
    assert flat[0][0] is named["x"] is not flat[1][0]


def test_modules_without_weights_are_copied() -> None:
    # One Dropout in two networks: what one is told about training, the other would hear.
    drop, metric = nn.Dropout(0.5), MeanAbsoluteError()

    def make(seed: int) -> Participant:
        made = tiny_participant(seed=seed)
        one = Participant(nn.Sequential(made.backbone, drop), made.head, optimizer=sgd())
        one.add_module("error", metric)
        return one

    federation = Federation({name: make(index) for index, name in enumerate("ab")}, student=make(2))
    federation["a"].eval()
    assert federation["b"].backbone[1].training  # type: ignore[index]
    federation["a"].train()
    kinds = [one for one in federation.modules() if isinstance(one, (nn.Dropout, MeanAbsoluteError))]
    assert len({id(one) for one in kinds}) == 6
    fit(federation, tiny_data("ab"), 1, BackboneAveraging())


def test_initial_weights_of_one_array_part() -> None:
    start = torch.randn(5, 4)

    def make() -> Participant:
        layer = nn.Linear(4, 5)
        layer.weight = nn.Parameter(start)
        return Participant(layer, nn.Linear(5, 3), optimizer=sgd())

    federation = Federation({name: make() for name in "ab"}, engine="sequential")
    found = federation["b"].backbone.weight.detach().clone()  # type: ignore[operator]
    assert torch.equal(found, start)
    with torch.no_grad():
        federation["a"].backbone.weight.add_(1.0)  # type: ignore[operator]
    assert torch.equal(federation["b"].backbone.weight, found)  # type: ignore[arg-type]


def test_buffers_of_one_tensor_part() -> None:
    table = torch.arange(4.0)

    def make(seed: int) -> Participant:
        made = tiny_participant(seed=seed)
        made.backbone.register_buffer("table", table)
        made.head.register_buffer("kept_out", table, persistent=False)
        return made

    federation = Federation({name: make(index) for index, name in enumerate("ab")})
    federation["a"].backbone.get_buffer("table").zero_()
    assert torch.equal(federation["b"].backbone.get_buffer("table"), torch.arange(4.0))
    assert torch.equal(federation["b"].head.get_buffer("kept_out"), torch.arange(4.0))


def test_what_a_group_borrows_stays_one() -> None:
    federation = Federation({"clinic": ParticipantGroup(3, tiny_participant())})
    places = {one.backbone[0].weight.data_ptr() for one in federation.members().values()}  # type: ignore[index]
    assert len(places) == 1


# What is refused


class Locked(Counting):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda norm: Federation({n: Participant(nn.Sequential(nn.Linear(4, 5), norm), nn.Linear(5, 3)) for n in "ab"}),
         r"'a' and 'b' hold the same backbone\.1 \(BatchNorm1d\)"),
        (lambda norm: Federation({n: tiny_participant(transform=Locked.shared) for n in "ab"}),  # type: ignore[attr-defined]
         r"transform of 'b' \(Locked\) was given to another participant too and cannot be copied \(cannot pickle"),
    ],
)  # fmt: skip
def test_state_that_cannot_be_copied_is_refused(make: Callable[[Any], Any], words: str) -> None:
    Locked.shared = Locked()  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=words):
        make(nn.BatchNorm1d(5, affine=False))


def test_one_optimizer_of_two_is_refused() -> None:
    made: list[torch.optim.Optimizer] = []

    def once(parameters: Any) -> torch.optim.Optimizer:
        made.append(torch.optim.SGD(parameters, lr=0.1))
        return made[0]

    with pytest.raises(ValueError, match="participants 'a' and 'b' have one SGD: their factory gives everyone"):
        fit(tiny_federation("ab", participant={"optimizer": once}), tiny_data("ab"), 1)


def test_an_optimizer_of_anothers_weights_is_refused() -> None:
    first = tiny_participant()
    members = {"a": first, "b": tiny_participant(optimizer=lambda _: torch.optim.SGD(first.parameters(), lr=0.1))}
    with pytest.raises(ValueError, match="participant 'b': its SGD steps those of 'a'"):
        fit(Federation(members), tiny_data("ab"), 1)


def test_a_groups_optimizer_of_the_originals_weights_is_refused() -> None:
    original = tiny_participant()
    original.optimizer_factory = lambda _: torch.optim.SGD(original.parameters(), lr=0.1)
    federation = Federation({"clinic": ParticipantGroup(2, original)})
    with pytest.raises(ValueError, match="participant 'clinic_0': its SGD steps none of its own"):
        fit(federation, tiny_data(list(federation.members())), 1)


def test_a_scheduler_of_anothers_optimizer_is_refused() -> None:
    other = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)
    settings = {"lr_scheduler": lambda _: torch.optim.lr_scheduler.StepLR(other, 1)}
    with pytest.raises(ValueError, match="participant 'a': its StepLR follows an optimizer that is not its own"):
        fit(tiny_federation("a", participant=settings), tiny_data("a"), 1)


# Several federations


def test_a_participant_of_two_federations_is_measured_in_each() -> None:
    shared = tiny_participant()
    first = Federation({"a": shared, "c": tiny_participant(seed=1)})
    second = Federation({"b": shared})
    for _ in range(2):
        made = fit(first, tiny_data("ac"), 1, BackboneAveraging())
        assert {"val_loss/a", "train_loss/a", "val_loss/c"} <= made.callback_metrics.keys()
        assert shared.name == "a"
        made = fit(second, tiny_data("b"), 1)
        assert {"val_loss/b", "train_loss/b"} <= made.callback_metrics.keys()
        assert shared.name == "b"
    assert first["a"] is second["b"]


def test_it_goes_on_from_where_the_other_one_left_it() -> None:
    def run(*, twice: bool) -> dict[str, Tensor]:
        made = tiny_participant()
        one = Federation({"a": made})
        fit(one, tiny_data("a"), 1)
        again = Federation({"a": made}) if twice else one
        fit(again, tiny_data("a"), 1)
        return state_of(made)

    assert equal(run(twice=True), run(twice=False))


def test_a_second_federation_does_not_write_to_what_the_first_has_lent() -> None:
    first = tiny_federation("abcd", participation=0.5)
    data = tiny_data("abcd")
    made = fit(first, data, 2, BackboneAveraging())
    waiting = next(name for name, one in first.members().items() if one.loans)
    others = {name: state_of(one) for name, one in first.members().items() if name != waiting}
    moved = state_of(first[waiting])
    fit(Federation({"alone": first[waiting]}), tiny_data(["alone"]), 1)
    assert not equal(moved, state_of(first[waiting]))
    assert all(equal(state, state_of(first[name])) for name, state in others.items())
    made.fit_loop.max_epochs = 4
    made.fit(first, datamodule=data)
    keys = first["a"].shared_keys()
    assert all(equal(first["a"].state_of(keys), one.state_of(keys)) for one in first.members().values())


def test_alone_in_a_trainer_after_a_federation_and_back() -> None:
    federation = tiny_federation("ab")
    fit(federation, tiny_data("ab"), 1)
    alone = trainer(1)
    own = torch.utils.data.DataLoader(examples(12), batch_size=4)
    alone.fit(federation["a"], own, own)
    assert set(alone.callback_metrics) == {"train_loss", "val_loss", "val_accuracy"}
    made = fit(federation, tiny_data("ab"), 1)
    assert {"train_loss/a", "train_loss/b"} <= made.callback_metrics.keys()


def test_a_task_given_to_two_weighs_classes_by_each_ones_own() -> None:
    task = MulticlassTask(class_weights="balanced")
    federation = Federation({name: tiny_participant(task=task) for name in "ab"})
    fit(federation, tiny_data("ab"), 1)
    apart = Federation({name: tiny_participant(task=MulticlassTask(class_weights="balanced")) for name in "ab"})
    fit(apart, tiny_data("ab"), 1)
    assert equal(state_of(federation), state_of(apart))


def test_values_are_untouched() -> None:
    # Copies and moves change no number: a federation of separate objects trains to the bit as one of common ones.
    def run(*, common: bool) -> dict[str, Tensor]:
        task, flatten = RegressionTask(), nn.Flatten()
        members = {
            name: Participant(
                nn.Sequential(flatten if common else nn.Flatten(), nn.Linear(3, 1).double()),
                task=task if common else RegressionTask(),
                optimizer=sgd(0.01),
            )
            for name in "ab"
        }
        for index, one in enumerate(members.values()):
            with torch.no_grad():
                for parameter in one.parameters():
                    parameter.fill_(0.1 * (index + 1))
        federation = Federation(members, engine="sequential")
        fit(federation, FederatedDataModule({n: values(8, seed=i) for i, n in enumerate("ab")}), 2, BackboneAveraging())
        return state_of(federation)

    assert equal(run(common=True), run(common=False))
