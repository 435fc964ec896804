"""Who is sampled for a round, and what becomes of the others."""

from collections import Counter
from typing import Any

import pytest
import torch

from hetfed_lightning import (
    BackboneAveraging,
    EnsembleDistillation,
    FederatedCallback,
    Federation,
    FederationView,
    Transfer,
)
from tests.federations import Snapshots, equal, fit, sgd, state_of, tiny_data, tiny_federation, tiny_participant

TEN = tuple("abcdefghij")


def small(names: tuple[str, ...] = TEN, **settings: Any) -> Federation:
    return Federation({name: tiny_participant() for name in names}, **settings)


@pytest.mark.parametrize(
    ("participation", "count"), [(1.0, 10), (0.5, 5), (0.31, 3), (0.25, 2), (0.35, 4), (0.01, 1), (0.99, 10)]
)
def test_the_sample_is_as_large_as_asked(participation: float, count: int) -> None:
    # round() takes halves to the even number: 2.5 to 2, 3.5 to 4. At least one takes part.
    federation = small(participation=participation)
    for index in range(20):
        names = federation.active_names(index)
        assert len(names) == count
        assert names == [name for name in TEN if name in names]  # in the federation's order, nobody twice


def test_the_sample_is_reproducible_and_follows_the_seed() -> None:
    def samples(seed: int) -> list[list[str]]:
        federation = small(participation=0.5, seed=seed)
        return [federation.active_names(index) for index in range(10)]

    assert samples(3) == samples(3)
    assert samples(3) != samples(4)
    assert len({tuple(names) for names in samples(3)}) > 5


def test_everyone_is_sampled_about_equally_often() -> None:
    federation = small(participation=0.3)
    counts = Counter(name for index in range(1000) for name in federation.active_names(index))
    # 300 expected of each, standard deviation sqrt(1000 * 0.3 * 0.7) = 14.5: five of them either way.
    assert set(counts) == set(TEN)
    assert all(abs(count - 300) < 73 for count in counts.values())


def test_who_has_not_joined_is_not_sampled() -> None:
    federation = small(participation=0.5)
    for name in TEN[:6]:
        federation[name].joins_at = 3
    assert all(set(federation.active_names(index)) <= set(TEN[6:]) for index in range(3))
    assert len(federation.active_names(2)) == 2
    assert len(federation.active_names(3)) == 5


def test_who_is_not_sampled_keeps_head_and_momentum_and_receives_the_backbone() -> None:
    federation = tiny_federation(participation=0.34, participant={"optimizer": sgd(momentum=0.9)})
    snapshots = Snapshots()
    fit(federation, tiny_data(), 1, BackboneAveraging(), snapshots)
    (active,) = federation.active_names(0)
    start, end = snapshots.starts[0], snapshots.ends[0]
    for name in "abc":
        assert not equal(start[name], end[name])  # the shared backbone moved
        assert torch.equal(end[name]["backbone.0.weight"], end[active]["backbone.0.weight"])
        assert torch.equal(start[name]["head.weight"], end[name]["head.weight"]) is (name != active)
        assert bool(federation.local[name].optimizers[0].state) is (name == active)
    # One sender, one receiver; everyone but the first copied the first's backbone at the start.
    assert snapshots.bytes == [(100, 100 + 200)]


def test_optimizer_state_of_an_earlier_round_waits() -> None:
    federation = tiny_federation(participation=0.34, participant={"optimizer": sgd(momentum=0.9)})
    rounds = [federation.active_names(index)[0] for index in range(4)]
    first = rounds[0]
    length = next(index for index, name in enumerate(rounds) if name != first)
    momenta = []
    for count in (length, length + 1):
        federation = tiny_federation(participation=0.34, participant={"optimizer": sgd(momentum=0.9)})
        fit(federation, tiny_data(), count)
        state = federation.local[first].optimizers[0].state
        momenta.append([buffer["momentum_buffer"] for buffer in state.values()])
    assert all(torch.equal(one, other) for one, other in zip(*momenta, strict=True))


def test_schedules_count_rounds_whoever_is_sampled() -> None:
    def halving(optimizer: Any) -> Any:
        return torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)

    federation = tiny_federation(participation=0.34, participant={"lr_scheduler": halving})
    fit(federation, tiny_data(), 2)
    assert {local.optimizers[0].param_groups[0]["lr"] for local in federation.local.values()} == {0.1 / 4}


def test_everyone_who_joined_is_evaluated() -> None:
    trained = fit(tiny_federation(participation=0.34), tiny_data(), 1, BackboneAveraging())
    for name in "abc":
        assert f"val_accuracy/{name}" in trained.callback_metrics
        assert f"val_global_accuracy/{name}" in trained.callback_metrics
    assert trained.callback_metrics["federation/participants"] == 1


@pytest.mark.parametrize("participation", [0.0, -0.5, 1.01, float("nan")])
def test_a_share_out_of_range_is_refused(participation: float) -> None:
    with pytest.raises(ValueError, match=r"participation: expected a fraction in \(0, 1\], got"):
        small(participation=participation)


def test_a_state_is_of_its_own() -> None:
    federation = small(("a", "b"))
    assert state_of(federation).keys() == {
        f"participants.{name}.{key}" for name in "ab" for key in state_of(federation["a"])
    }


def test_a_newcomer_that_is_not_drawn_learns_its_lessons_when_it_is() -> None:
    federation = tiny_federation(participation=0.34, participant={"optimizer": sgd(0.5)})
    federation["c"].joins_at, federation["c"].transfer = 1, Transfer(distillation_epochs=3)
    while [federation.active_names(index) == ["c"] for index in (1, 2, 3)] != [False, False, True]:
        federation.seed += 1
    averaging, steps, shared = BackboneAveraging(), list[int](), list[dict[str, torch.Tensor]]()

    class Watching(FederatedCallback):
        def on_round_start(self, trainer: Any, federation: FederationView, round_index: int) -> None:
            self.look(federation)

        def on_join(self, trainer: Any, federation: FederationView, names: Any, round_index: int) -> None:
            self.look(federation)

        def look(self, federation: FederationView) -> None:
            steps.append(federation.local["c"].progress)
            shared.append(
                {key: one.clone() for key, one in averaging.shared_state(next(iter(averaging.sharing))).items()}
            )

    fit(federation, tiny_data(), 4, averaging, EnsembleDistillation(batch_size=5, students="mutual"), Watching())
    # Rounds 0 and 1, joining, rounds 2 and 3: three passes of two batches before the first local step.
    assert steps == [0, 0, 0, 0, 6]
    assert equal(shared[1], shared[2])  # What it holds on loan is everybody's.
