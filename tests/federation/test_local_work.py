"""Ragged data: each participant sees its own samples, as often and as many as it asked for."""

from collections import Counter
from itertools import chain
from typing import Any

import pytest
import torch
from lightning.pytorch.cli import ReduceLROnPlateau

from hetfed_lightning import BackboneAveraging, FederatedDataModule, Federation, Participant
from hetfed_lightning.data import Examples
from tests.federations import Listed, Snapshots, equal, fit, sgd, state_of, tiny_data, tiny_federation

SIZES = {"a": 3, "b": 10, "c": 7}


class Noting(Participant):
    """Notes the sample ids, which are the first feature, of every batch it trains on."""

    seen: list[list[int]]

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.seen.append(batch[0][:, 0].int().tolist())
        return super().training_step(batch, batch_idx)


def noting(**settings: Any) -> Noting:
    made = Noting(torch.nn.Linear(2, 2), shared=("*",), optimizer=sgd(1e-6), **settings)
    made.seen = []
    return made


def numbered(size: int, first: int) -> Examples:
    ids = torch.arange(first, first + size, dtype=torch.float32)
    return Examples(torch.stack([ids, ids], dim=1), torch.arange(size) % 2)


def data(listed: bool = False, **settings: Any) -> FederatedDataModule:
    sets: dict[str, Any] = {name: numbered(size, 100 * index) for index, (name, size) in enumerate(SIZES.items())}
    if listed:
        sets = {name: Listed(examples) for name, examples in sets.items()}
    return FederatedDataModule(sets, **({"batch_size": 4} | settings))


def ids(name: str) -> range:
    first = 100 * list(SIZES).index(name)
    return range(first, first + SIZES[name])


@pytest.mark.parametrize("listed", [False, True], ids=["in memory", "sample by sample"])
def test_each_sees_its_own_samples_local_epochs_times(listed: bool) -> None:
    members = {"a": noting(local_epochs=4), "b": noting(), "c": noting(local_epochs=2)}
    fit(Federation(dict(members)), data(listed), 2, BackboneAveraging())
    for name, member in members.items():
        counts = Counter(sample for batch in member.seen for sample in batch)
        assert counts == dict.fromkeys(ids(name), 2 * member.local_epochs)


def test_every_local_epoch_is_a_pass_in_an_order_of_its_own() -> None:
    member = noting(local_epochs=3)
    fit(Federation({"b": member}), FederatedDataModule({"b": numbered(10, 100)}, batch_size=4), 2)
    passes = [list(chain(*member.seen[start : start + 3])) for start in range(0, 18, 3)]
    assert all(sorted(one) == list(range(100, 110)) for one in passes)
    assert len({tuple(one) for one in passes}) == 6
    assert [len(batch) for batch in member.seen] == [4, 4, 2] * 6


def test_drop_last_leaves_the_incomplete_batch_out_of_every_pass() -> None:
    member = noting(local_epochs=2)
    fit(Federation({"b": member}), FederatedDataModule({"b": numbered(10, 0)}, batch_size=4, drop_last=True), 1)
    assert [len(batch) for batch in member.seen] == [4, 4, 4, 4]
    assert all(count == 1 for count in Counter(member.seen[0] + member.seen[1]).values())


def test_step_budget_cuts_a_round() -> None:
    members = {"a": noting(step_budget=5), "b": noting(step_budget=2), "c": noting(local_epochs=3, step_budget=4)}
    fit(Federation(dict(members)), data(), 2)
    # 3, 10 and 7 samples in batches of 4 are 1, 3 and 2 batches; c's 3 passes are 6, cut to 4.
    assert [len(member.seen) for member in members.values()] == [2, 4, 8]
    # A budget draws from another order each round, not the same first batches.
    assert members["b"].seen[:2] != members["b"].seen[2:]


def test_min_steps_repeats_passes() -> None:
    members = {"a": noting(min_steps=3), "b": noting(min_steps=3), "c": noting(min_steps=3)}
    fit(Federation(dict(members)), data(), 2)
    # 3, 10 and 7 samples in batches of 4 are 1, 3 and 2 batches a pass.
    assert [len(member.seen) for member in members.values()] == [6, 6, 8]
    assert set(Counter(one for batch in members["c"].seen[:4] for one in batch).values()) == {2}


def test_batch_sizes_of_their_own() -> None:
    members = {name: noting() for name in SIZES}
    fit(Federation(dict(members)), data(batch_size={"a": 1, "b": 5, "c": 7}), 1)
    assert [[len(batch) for batch in member.seen] for member in members.values()] == [[1, 1, 1], [5, 5], [7]]


def test_a_round_ends_with_the_longest_of_who_is_drawn() -> None:
    # Drawn for the round is "a" alone, which has 1 batch; "b" has 3.
    members = {name: noting() for name in SIZES}
    federation = Federation(dict(members), participation=0.3)
    while federation.active_names(0) != ["a"]:
        federation.seed += 1
    trained = fit(federation, data(), 1, BackboneAveraging())
    assert trained.global_step == 1
    assert [len(member.seen) for member in members.values()] == [1, 0, 0]


@pytest.mark.parametrize(
    ("limit", "steps"), [(1.0, [1, 3, 2]), (0.7, [1, 2, 1]), (0.4, [1, 1, 1]), (2, [1, 2, 2]), (1, [1, 1, 1])]
)
def test_limit_train_batches_is_a_share_of_each_participants_batches(limit: float, steps: list[int]) -> None:
    members = {name: noting() for name in SIZES}
    fit(Federation(dict(members)), data(), 1, limit_train_batches=limit)
    assert [len(member.seen) for member in members.values()] == steps


def test_the_transform_sees_raw_inputs_and_the_network_transformed_ones() -> None:
    raw: list[float] = []

    def halved(inputs: torch.Tensor) -> torch.Tensor:
        raw.append(float(inputs.max()))
        return inputs / 2

    member = noting(transform=halved)
    fit(Federation({"b": member}), FederatedDataModule({"b": numbered(10, 100)}, batch_size=10), 1)
    assert sorted(member.seen[0]) == sorted(int(index / 2) for index in range(100, 110))
    assert max(raw) == 109


def test_removing_a_participant_leaves_its_data_a_fault() -> None:
    with pytest.raises(ValueError, match="data for 'c', but no such participant"):
        fit(Federation({name: noting() for name in "ab"}), data(), 1)


def test_missing_data_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"Participant 'd' has no training set; there is 'a', 'b', 'c'"):
        fit(Federation({name: noting() for name in "abcd"}), data(), 1)


def test_a_missing_batch_size_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="batch_size: no entry for participant 'c'; it has a, b"):
        fit(Federation({name: noting() for name in SIZES}), data(batch_size={"a": 1, "b": 5}), 1)


# Who comes later


def test_a_newcomer_neither_trains_nor_is_measured_before_its_round() -> None:
    federation = tiny_federation()
    federation["c"].joins_at = 2
    before = state_of(federation["c"])
    trained = fit(federation, tiny_data(), 2, BackboneAveraging())
    assert equal(before, state_of(federation["c"]))
    metrics = trained.callback_metrics
    assert not any(tag.endswith("/c") for tag in metrics)
    assert {"train_loss/a", "val_loss/a", "val_global_loss/a"} <= metrics.keys()
    assert metrics["federation/participants"] == 2


def test_a_newcomers_schedule_begins_with_it() -> None:
    def halving(optimizer: Any) -> Any:
        return torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)

    federation = tiny_federation(participant={"lr_scheduler": halving})
    federation["c"].joins_at = 2
    fit(federation, tiny_data(), 3)
    rates = {name: local.optimizers[0].param_groups[0]["lr"] for name, local in federation.local.items()}
    assert rates == {"a": 0.1 / 8, "b": 0.1 / 8, "c": 0.1 / 2}


def test_a_newcomer_that_follows_a_metric_may_wait_for_it() -> None:
    def plateau(optimizer: Any) -> Any:
        return ReduceLROnPlateau(optimizer, monitor="val_loss")

    federation = tiny_federation(participant={"lr_scheduler": plateau})
    federation["c"].joins_at = 1
    fit(federation, tiny_data(), 2)


def test_a_newcomer_receives_the_shared_state_in_its_round() -> None:
    federation, snapshots = tiny_federation(), Snapshots()
    federation["c"].joins_at = 2
    head = state_of(federation["c"])["head.weight"]
    trained = fit(federation, tiny_data(), 3, BackboneAveraging(), snapshots)
    start, previous = snapshots.starts[2], snapshots.ends[1]
    assert not torch.equal(previous["c"]["backbone.0.weight"], previous["a"]["backbone.0.weight"])
    assert torch.equal(start["c"]["backbone.0.weight"], previous["a"]["backbone.0.weight"])
    assert torch.equal(start["c"]["head.weight"], head)
    assert "val_loss/c" in trained.callback_metrics
    # 100 bytes: two up and two down; the start copies the first to the second; then to the newcomer, then all three.
    assert snapshots.bytes == [(200, 300), (200, 200), (300, 400)]


def test_rounds_before_anyone_has_joined_pass_by() -> None:
    federation = tiny_federation()
    for name in "abc":
        federation[name].joins_at = 1
    before = state_of(federation)
    fit(federation, tiny_data(), 1, BackboneAveraging())
    assert equal(before, state_of(federation))
