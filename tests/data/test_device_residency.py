"""Data on the accelerator: the `meta` device stands in for one, and the CPU for one whose numbers can be compared."""

from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import Any, Self

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from hetfed_lightning import BackboneAveraging, EnsembleDistillation, FederatedDataModule, Federation
from hetfed_lightning.data import Examples, blocks, device_residency
from hetfed_lightning.data import module as data_module
from hetfed_lightning.data.blocks import RoundBatch
from hetfed_lightning.data.device_residency import Resident, fits, free_bytes, home_of
from hetfed_lightning.data.loaders import LocalWork, RoundLoader, TrainingSet
from hetfed_lightning.showcases import DigitsDataModule
from tests.federations import Listed, equal, examples, fit, sgd, state_of, tiny_data, tiny_participant

META, CPU = torch.device("meta"), torch.device("cpu")


class Schedule:
    """A federation as a loader sees it: two passes for "a"."""

    seed, current_round, batches_done = 3, 0, 0

    def __init__(self, names: Iterable[str]) -> None:
        self._names = list(names)

    def active_names(self, round_index: int) -> list[str]:
        return self._names

    def work_of(self, name: str, round_index: int) -> LocalWork:
        return LocalWork(local_epochs=2 if name == "a" else 1)

    def rounds_ahead(self) -> list[int]:
        return [self.current_round]

    def limit_batches(self, batches: int) -> int:
        return batches

    def expect_batches(self, batches: int) -> int:
        return batches


def loader(sets: dict[str, Any], home: torch.device | None, **settings: Any) -> RoundLoader:
    return RoundLoader(
        {name: TrainingSet(data, 4) for name, data in sets.items()}, Schedule(sets), home=home, **settings
    )


def named(count: int) -> Examples:
    values = torch.arange(float(count))
    return Examples({"image": values.view(count, 1, 1).expand(count, 2, 3).contiguous(), "age": values}, values.long())


SETS: dict[str, dict[str, Any]] = {
    "equal sizes": {"a": examples(8), "b": examples(8, seed=1)},
    "ragged": {"a": examples(7), "b": examples(9, seed=1), "c": examples(2, seed=2)},
    "alone": {"a": examples(7)},
    "two kinds": {"a": examples(7), "b": examples(9, features=5), "c": examples(6, seed=2)},
    "named inputs": {"a": named(7), "b": named(9)},
    "one set for two": dict.fromkeys("ab", examples(6)) | {"c": examples(6, seed=1)},
    "targets of a row": {name: Examples(torch.randn(n, 3) + 5, torch.randn(n, 2)) for name, n in (("a", 5), ("b", 3))},
    "read one by one": {"a": examples(7), "b": Listed(examples(9, seed=1))},
}
every_kind = pytest.mark.parametrize("sets", SETS.values(), ids=SETS)


def flat(batch: Any) -> dict[str, Tensor]:
    """A participant's batch, or a block, as tensors by name."""
    inputs, targets = batch
    return (dict(inputs) if isinstance(inputs, dict) else {"": inputs}) | {"targets": targets}


# The policy


def test_a_quarter_of_what_is_free_may_be_taken() -> None:
    assert fits(25, 100)
    assert not fits(26, 100)
    assert not fits(1, 0)


def test_what_the_cache_holds_unused_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = SimpleNamespace(
        mem_get_info=lambda _: (70, 100), memory_reserved=lambda _: 30, memory_allocated=lambda _: 10
    )
    monkeypatch.setattr(torch, "get_device_module", lambda _: memory)
    assert free_bytes(torch.device("cuda", 0)) == 70 + 30 - 10


@pytest.mark.parametrize("device", ["cpu", "meta", "mps"])
def test_where_nobody_can_be_asked_nothing_is_free(device: str) -> None:
    assert free_bytes(torch.device(device)) == 0


def test_all_lives_there_or_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = examples(10), examples(6, seed=1)  # 4 floats and an int64: 24 bytes each
    assert one.num_bytes == 240
    assert named(10).num_bytes == 10 * (6 * 4 + 4 + 8)
    asked: list[torch.device] = []

    def free(device: torch.device) -> int:
        asked.append(device)
        return 4 * 384

    monkeypatch.setattr(device_residency, "free_bytes", free)
    assert home_of([one, other, None], META) == META  # 384 bytes, a quarter.
    assert home_of([one, one, other], META) == META  # Several may share one.
    assert home_of([one, other, Examples(torch.zeros(1))], META) is None
    assert home_of([Listed(one), None], META) is None
    assert asked == [META] * 3
    assert home_of([one], CPU) is None
    assert asked == [META] * 3


# Batches


@every_kind
def test_batches_are_the_hosts_in_every_bit(sets: dict[str, Any]) -> None:
    here, there = list(loader(sets, None)), list(loader(sets, CPU))
    assert [list(batch) for batch in here] == [list(batch) for batch in there]
    for one, other in zip(here, there, strict=True):
        assert all(equal(flat(one[name]), flat(other[name])) for name in one)


@every_kind
def test_batches_come_out_where_the_data_lives(sets: dict[str, Any]) -> None:
    for batch in loader(sets, META):
        for name, own in batch.items():
            expected = "cpu" if isinstance(sets[name], Listed) else "meta"
            assert {tensor.device.type for tensor in flat(own).values()} == {expected}
        for block in batch.blocks.values():
            assert block.mask is None or block.mask.device == META


class FromHost(TorchDispatchMode):
    """Counts the bytes that go from the host to the `meta` device."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        copies = {torch.ops.aten._to_copy.default: 0, torch.ops.aten.copy_.default: 1}
        if func in copies and out.device == META and args[copies[func]].device == CPU:
            self.bytes += args[copies[func]].nbytes
        return out


def test_positions_are_all_that_travels() -> None:
    sets = {"a": examples(8, features=100), "b": examples(16, features=100, seed=1)}
    rounds = loader(sets, META)
    with FromHost() as moving:
        list(rounds)
    assert moving.bytes == sum(data.num_bytes for data in sets.values()) + 8 * (2 * 8 + 16)  # The data, once.
    with FromHost() as moving:
        list(rounds)
    assert moving.bytes == 8 * (2 * 8 + 16)


def test_workers_read_what_stays_on_the_host() -> None:
    sets = {"a": examples(5), "b": Listed(examples(6, seed=1))}
    rounds = loader(sets, META, num_workers=2)
    alone = [batch["b"] for batch in loader(sets, None) if "b" in batch]
    helped = [batch["b"] for batch in rounds if "b" in batch]
    assert all(equal(flat(one), flat(other)) for one, other in zip(alone, helped, strict=True))
    rounds.close()


class Doubled(Examples):
    """Examples of a user who makes batches in a way of their own."""

    def batch(self, indices: Tensor) -> Any:
        inputs, targets = super().batch(indices)
        assert isinstance(inputs, Tensor)
        return 2 * inputs, targets


@pytest.mark.parametrize("home", [None, META])
def test_own_ways_to_make_a_batch_are_kept(home: torch.device | None) -> None:
    plain = {name: examples(8, seed=seed) for seed, name in enumerate("ab")}
    own = {name: Doubled(data.inputs, data.targets) for name, data in plain.items()}
    for batch, doubled in zip(loader(plain, None), loader(own, home), strict=True):
        assert all(torch.equal(2 * batch[name][0], doubled[name][0]) for name in batch)


def test_a_closed_loader_lets_go_and_begins_again() -> None:
    rounds = loader(SETS["ragged"], CPU)
    before = list(rounds)
    assert rounds._sources
    rounds.close()
    assert rounds._sources is None
    assert all(equal(flat(one["b"]), flat(other["b"])) for one, other in zip(before, rounds, strict=True) if "b" in one)


def test_what_is_there_is_not_moved() -> None:
    batch = next(iter(loader(SETS["ragged"], META)))
    assert batch.to(META, lambda _: pytest.fail("moved")) is batch


def test_moving_keeps_blocks_where_some_are_read_one_by_one() -> None:
    sets = {"a": Listed(examples(4)), "b": examples(4, seed=1), "c": examples(4, seed=2)}
    for home in (None, META):
        moved = next(iter(loader(sets, home))).to(META, lambda own: tuple(tensor.to(META) for tensor in own))
        assert isinstance(moved, RoundBatch)
        assert list(moved) == ["a", "b", "c"]
        assert moved.block_of(["b", "c"]) is not None
        assert {tensor.device for own in moved.values() for tensor in flat(own).values()} == {META}


# The data module


def at(device: torch.device, data: FederatedDataModule) -> FederatedDataModule:
    """Data whose trainer trains on a device."""
    federation = Schedule(data.data.train)
    data.trainer = SimpleNamespace(  # type: ignore[assignment]
        strategy=SimpleNamespace(root_device=device), lightning_module=federation, world_size=1
    )
    return data


def test_a_run_on_a_device_with_room_has_its_data_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_residency, "free_bytes", lambda device: 10**6)
    data = at(META, tiny_data())
    assert data.train_dataloader().home == META
    assert data.public_inputs(torch.arange(3)).device == META
    assert data.public_inputs(torch.arange(3)).shape == (3, 4)
    data.teardown("fit")
    assert data.public_inputs(torch.arange(3)).device == CPU


class Hooked(FederatedDataModule):
    """Data whose user looks at batches before they go to the device."""

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return batch


@pytest.mark.parametrize(
    ("device", "free", "make"),
    [
        (META, 100, tiny_data),  # too little room
        (CPU, 10**6, tiny_data),
        (META, 10**6, lambda: tiny_data(resident=False)),
        (META, 10**6, lambda: FederatedDataModule({"a": Listed(examples(3))}, num_workers=2)),
        (META, 10**6, lambda: Hooked({"a": examples(3)}, public=examples(3))),
        (META, 10**9, lambda: DigitsDataModule(participants=2, public_size=9, resident=False)),
    ],
)
def test_it_stays_on_the_host(device: torch.device, free: int, make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_residency, "free_bytes", lambda _: free)
    data = at(device, make())
    assert data.train_dataloader().home is None
    assert data.num_public == 0 or data.public_inputs(torch.arange(2)).device == CPU


def test_other_data_comes_from_the_host_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_residency, "free_bytes", lambda device: 10**6)
    data = at(META, tiny_data())
    data.train_dataloader()
    data.replace_data(tiny_data(public=examples(4, seed=9)).data)
    assert torch.equal(data.public_inputs(torch.arange(4)), examples(4, seed=9).inputs)  # type: ignore[arg-type]


@pytest.mark.parametrize("engine", ["sequential", "vmap"])
def test_a_run_learns_the_same_from_either_place(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def trained() -> dict[str, Tensor]:
        members = {name: tiny_participant(seed=seed, optimizer=sgd()) for seed, name in enumerate("abc")}
        members["b"].local_epochs = 2
        federation = Federation(members, engine=engine)
        fit(federation, tiny_data(), 2, EnsembleDistillation(batch_size=4), BackboneAveraging())
        return state_of(federation)

    here = trained()
    joined: list[int] = []

    class Counted(Resident):
        @classmethod
        def of(cls, parts: Sequence[Examples], device: torch.device) -> Self:
            joined.append(len(parts))
            return super().of(parts, device)

    monkeypatch.setattr(data_module, "home_of", lambda datasets, device: device)
    monkeypatch.setattr(data_module, "Resident", Counted)
    monkeypatch.setattr(blocks, "Resident", Counted)
    assert equal(here, trained())
    assert joined == [1, 3]  # The public set, and everyone's.
