import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, Dataset

from hetfed_lightning import BackboneAveraging, Federation, Participant
from hetfed_lightning.data import (
    IID,
    Converted,
    DataError,
    Dirichlet,
    Examples,
    FederatedData,
    FederatedDataModule,
    IDXDataModule,
    ImageFolderDataModule,
    NPZDataModule,
    TableDataModule,
)
from hetfed_lightning.data.module import pooled, take
from hetfed_lightning.showcases import DigitsDataModule
from tests.federations import Listed, equal, examples, fit, sgd, state_of, tiny_data, tiny_federation


def inputs_of(data: Any) -> Tensor:
    assert isinstance(data, Examples)
    assert isinstance(data.inputs, Tensor)
    return data.inputs


# What the federation asks


def test_sources_by_participant() -> None:
    data = tiny_data(batch_size={"a": 3, "b": 4, "c": 20}, drop_last=True)
    assert [data.source(name).batches_per_epoch for name in "abc"] == [4, 4, 1]
    assert [data.num_samples(name) for name in "abc"] == [12, 16, 20]


@pytest.mark.parametrize("listed", [False, True])
def test_targets_in_either_form(listed: bool) -> None:
    made = examples(9)
    data = FederatedDataModule({"a": Listed(made) if listed else made})
    assert made.targets is not None
    assert torch.equal(data.train_targets("a"), made.targets)


@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("listed", [False, True])
def test_public_inputs_come_raw_and_without_labels(listed: bool, labelled: bool) -> None:
    made = examples(9)
    shown = made if labelled else Examples(made.inputs)
    data = FederatedDataModule({"a": made}, public=Listed(shown) if listed else shown, transforms={"a": lambda x: -x})
    assert data.num_public == 9
    found = data.public_inputs(torch.tensor([4, 0, 4]))
    assert torch.equal(found, inputs_of(made)[[4, 0, 4]])
    assert isinstance(data.data.public, Examples) is not listed
    if not listed:
        assert data.data.public.targets is None  # type: ignore[union-attr]


def test_no_public_set() -> None:
    data = FederatedDataModule({"a": examples(3)})
    assert data.num_public == 0
    with pytest.raises(DataError, match=r"no public set: give FederatedDataModule\(public"):
        data.public_inputs(torch.arange(1))


def test_everyones_set_is_the_participants_joined() -> None:
    data = tiny_data("ab")
    both = torch.cat([inputs_of(data.data.val[name]) for name in "ab"])
    assert torch.equal(inputs_of(data.data.global_val), both)
    listed = pooled({"a": Listed(examples(3)), "b": Listed(examples(4))})
    assert isinstance(listed, ConcatDataset)
    assert len(listed) == 7
    with pytest.raises(DataError, match="nothing to pool"):
        pooled({})
    with pytest.raises(DataError, match=r"cannot pool: inputs of one example has shape.*\(4,\).* in a, shape \(5,\)"):
        pooled({"a": examples(3), "b": examples(3, features=5)})


def test_loaders_by_name() -> None:
    data = tiny_data()
    assert list(data.val_dataloader()) == list(data.test_dataloader()) == ["a", "b", "c", "global"]
    assert list(tiny_data(global_test=None).test_dataloader()) == ["a", "b", "c"]
    assert len(tiny_data(eval_batch_size=4).val_dataloader()["global"]) == 5


@pytest.mark.parametrize(
    "wrap", [lambda made: made, Listed, lambda made: Converted(Listed(made))], ids=["in memory", "listed", "converted"]
)
def test_transforms_by_participant_reach_every_kind_of_data_set(wrap: Any) -> None:
    made = examples(5)
    data = FederatedDataModule(
        {"a": wrap(made), "b": wrap(made)}, {"a": wrap(made)}, transforms={"a": lambda inputs: inputs * 10}
    )
    for dataset in (data.data.train["a"], data.data.val["a"]):
        assert torch.equal(dataset[2][0], inputs_of(made)[2] * 10)
        assert torch.equal(dataset[2][1], made.batch(torch.tensor([2]))[1][0])  # type: ignore[index]
    assert torch.equal(data.data.train["b"][2][0], inputs_of(made)[2])


def test_arrays_and_images_come_as_tensors() -> None:
    class Arrays(Dataset[Any]):
        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> Any:
            return np.full((2, 3), 51 * index, dtype=np.uint8), index

    data = FederatedDataModule({"a": Arrays()}, batch_size=4)
    image, label = data.data.train["a"][1]
    torch.testing.assert_close(image, torch.full((1, 2, 3), 0.2))
    assert torch.equal(label, torch.tensor(1))


def test_data_is_loaded_once() -> None:
    calls: list[tuple[str, ...]] = []

    class Own(FederatedDataModule):
        def load(self, participants: tuple[str, ...]) -> FederatedData:
            calls.append(participants)
            return FederatedData({name: examples(8) for name in participants})

    data = Own(batch_size=4)
    fit(tiny_federation(), data, 2)
    fit(tiny_federation(), data, 1)
    assert calls == [("a", "b", "c")]


def test_data_may_be_replaced() -> None:
    data = tiny_data()
    data.replace_data(FederatedData({"a": examples(3)}))
    assert data.num_samples("a") == 3
    assert data.num_public == 0


def test_take() -> None:
    made = examples(6)
    for dataset in (made, Listed(made)):
        some = take(dataset, torch.tensor([5, 1]))
        assert len(some) == 2  # type: ignore[arg-type]
        assert torch.equal(some[0][0], inputs_of(made)[5])


def test_workers_do_not_change_what_is_learned() -> None:
    ends = []
    for workers in (0, 2):
        federation = tiny_federation("ab")
        sets = {name: Listed(examples(8, seed=ord(name))) for name in "ab"}
        noise = {name: lambda inputs: inputs + torch.randn_like(inputs) for name in "ab"}
        fit(
            federation,
            FederatedDataModule(sets, batch_size=4, num_workers=workers, transforms=noise),
            2,
            BackboneAveraging(),
        )
        ends.append(state_of(federation))
    assert equal(*ends)


# Refusals


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"batch_size": 0}, "batch_size: expected an integer of at least 1, got 0"),
        ({"batch_size": {"a": 0}}, "batch_size: .*got 0"),
        ({"batch_size": True}, "batch_size: .*got True"),
        ({"batch_size": 2.5}, "batch_size: .*got 2.5"),
        ({"eval_batch_size": 0}, "expected an integer of at least 1, got 0"),
        ({"num_workers": -1}, "num_workers: expected 0 or more, got -1"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        FederatedDataModule({"a": examples(3)}, **settings)


def test_what_is_missing_is_named() -> None:
    with pytest.raises(DataError, match=r"FederatedDataModule: give train=\{'name': dataset, ...\}"):
        FederatedDataModule().setup()
    with pytest.raises(DataError, match="global_val: expected a data set or 'pooled', got 'pool'"):
        FederatedDataModule({"a": examples(3)}, global_val="pool").setup()
    with pytest.raises(DataError, match="transforms: no participant 'x'; there are a"):
        FederatedDataModule({"a": examples(3)}, transforms={"x": lambda inputs: inputs}).setup()


# Pools that are dealt out


def check(data: FederatedDataModule, names: str, *, everyone: bool = True) -> FederatedData:
    """Set up, check that each participant has examples of its own, and train a linear model on them."""
    data.setup()
    made = data.data
    assert list(made.train) == list(names)
    (inputs, _) = made.train[names[0]][0]
    width = int(max(int(data.train_targets(name).max()) for name in names)) + 1
    federation = Federation(
        {
            name: Participant(
                nn.Sequential(nn.Flatten(), nn.Linear(inputs.numel(), max(width, 2))), optimizer=sgd(0.01)
            )
            for name in names
        }
    )
    trained = fit(federation, data, 1, BackboneAveraging())
    assert all(f"val_accuracy/{name}" in trained.callback_metrics for name in made.val)
    assert ("val_global_accuracy/" + names[0] in trained.callback_metrics) is (everyone and made.global_val is not None)
    return made


def total(made: FederatedData) -> int:
    sets = [*made.train.values(), *made.val.values(), *made.test.values()]
    shown = 0 if made.public is None else len(made.public)  # type: ignore[arg-type]
    return sum(len(part) for part in sets) + shown  # type: ignore[arg-type, misc]


def test_digits() -> None:
    data = DigitsDataModule(IID(), participants=["a", "b"], image_size=8, public_size=100, seed=3)
    made = check(data, "ab")
    assert data.num_public == 100
    # 1797 digits: a fifth (359) is everyone's test set, the rest are dealt out.
    assert made.global_test is not None
    assert len(made.global_test) == 359  # type: ignore[arg-type]
    assert total(made) == 1797 - 359


def test_the_split_follows_the_seed() -> None:
    def first(seed: int) -> Tensor:
        data = DigitsDataModule(Dirichlet(1.0), participants=2, image_size=8, seed=seed)
        assert list(data.data.train) == ["p0", "p1"]
        return inputs_of(data.data.train["p0"])

    assert torch.equal(first(1), first(1))
    assert first(1).shape != first(2).shape or not torch.equal(first(1), first(2))


def test_dealt_out_examples_are_nobody_elses(tmp_path: Path) -> None:
    path = tmp_path / "pool.npz"
    np.savez(path, x=np.arange(100, dtype=np.float32).reshape(100, 1), y=np.arange(100) % 3)
    data = NPZDataModule(str(path), IID(), participants=["a", "b", "c"], inputs="x", public_size=10, batch_size=8)
    made = check(data, "abc")
    sets = [made.public, made.global_test, *made.train.values(), *made.val.values(), *made.test.values()]
    everything = torch.cat([inputs_of(part).flatten() for part in sets])
    assert sorted(everything.tolist()) == list(range(100))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"public_size": 1797}, "leave nothing of 1797 examples"),
        ({"public_size": -1}, "public_size: expected 0 or more, got -1"),
        ({"test_fraction": 1.0}, r"test_fraction: expected a share in \[0, 1\), got 1.0"),
        ({"participants": None}, "DigitsDataModule: no participants"),
    ],
)
def test_pools_that_cannot_be_dealt_out(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        DigitsDataModule(**({"participants": 2, "image_size": 8} | settings)).setup()


def test_medmnist_layout(tmp_path: Path) -> None:
    path = tmp_path / "mnist.npz"
    generator = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for split, count in (("train", 40), ("val", 4), ("test", 10)):
        arrays[f"{split}_images"] = generator.integers(0, 255, (count, 4, 4), dtype=np.uint8)
        arrays[f"{split}_labels"] = np.arange(count).reshape(-1, 1) % 2
    np.savez(path, **arrays)
    made = check(NPZDataModule(str(path), IID(), participants=["a", "b"], batch_size=8), "ab")
    assert len(made.global_test) == 10  # type: ignore[arg-type]  # the archive's own
    assert total(made) == 40


def idx(array: Any) -> bytes:
    sizes = b"".join(int(size).to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + bytes(array.tobytes())


def test_idx_folder(tmp_path: Path) -> None:
    for prefix, count in (("train", 40), ("t10k", 10)):
        images = np.random.default_rng(0).integers(0, 255, (count, 4, 4), dtype=np.uint8)
        (tmp_path / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
        (tmp_path / f"{prefix}-labels-idx1-ubyte").write_bytes(idx(np.arange(count, dtype=np.uint8) % 2))
    made = check(IDXDataModule(str(tmp_path), IID(), participants=["a", "b"], max_samples=30, batch_size=8), "ab")
    assert total(made) == 30
    assert len(made.global_test) == 10  # type: ignore[arg-type]
    with pytest.raises(DataError, match="max_samples: expected at least 1 or None, got 0"):
        IDXDataModule(str(tmp_path), max_samples=0)


# Data with names of its own


def rows(count: int, seed: int) -> list[str]:
    drawn = np.random.default_rng(seed).normal(size=(count, 2)).round(3)
    return [f"{first},{second},{'ill' if first > second else 'well'}" for first, second in drawn]


def test_one_table_with_a_column_of_participants(tmp_path: Path) -> None:
    path = tmp_path / "all.csv"
    lines = [f"{name},{row}" for name, seed in (("a", 0), ("b", 1)) for row in rows(20, seed)]
    path.write_text("\n".join(["hospital,x,y,outcome", *lines]))
    data = TableDataModule(str(path), "outcome", participant_column="hospital", global_sets=True, batch_size=8)
    made = check(data, "ab")
    # 20 rows each: 14 for training, 2 for validation, 4 for the test.
    assert [len(part) for part in (made.train["a"], made.val["a"], made.test["a"])] == [14, 2, 4]  # type: ignore[arg-type]
    assert len(made.global_test) == 8  # type: ignore[arg-type]


def test_a_file_for_each_participant(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 1)):
        (tmp_path / f"{name}.csv").write_text("\n".join(["x,y,outcome", *rows(20, seed)]))
    files = {name: str(tmp_path / f"{name}.csv") for name in "ab"}
    folder = check(TableDataModule(str(tmp_path), "outcome", public_size=4, batch_size=8), "ab")
    listed = check(TableDataModule(list(files.values()), "outcome", public_size=4, batch_size=8), "ab")
    named = check(TableDataModule(files, "outcome", public_size=4, batch_size=8), "ab")
    for made in (folder, listed, named):
        assert len(made.public) == 4  # type: ignore[arg-type]
        assert len(made.train["a"]) == 12  # type: ignore[arg-type]
        assert total(made) == 40
        assert torch.equal(inputs_of(made.train["b"]), inputs_of(folder.train["b"]))
    with pytest.raises(DataError, match="participant_column goes with one table"):
        TableDataModule(files, "outcome", participant_column="hospital")


def test_time_is_kept_where_nothing_is_shuffled(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("\n".join(["day,y", *(f"{day},{day * 0.5}" for day in range(10))]))
    data = TableDataModule([str(path)], "y", kind="value", shuffle=False, own_fractions=(0.5, 0.2, 0.3))
    made = data.data
    found = [inputs_of(part["a"]).flatten().tolist() for part in (made.train, made.val, made.test)]
    assert found == [[0, 1, 2, 3, 4], [5, 6], [7, 8, 9]]


def test_a_folder_of_images(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    for name in "ab":
        for label, level in (("dark", 20), ("light", 220)):
            (tmp_path / name / label).mkdir(parents=True)
            for index in range(5):
                image.new("L", (6, 6), level + index).save(tmp_path / name / label / f"{index}.png")
    settings: dict[str, Any] = {"image_size": 4, "mode": "L", "stratify": True, "batch_size": 4}
    made = check(ImageFolderDataModule(str(tmp_path), own_fractions=(0.6, 0.2, 0.2), **settings), "ab")
    assert made.train["a"][0][0].shape == (1, 4, 4)
    assert total(made) == 20
    # Stratified: as many dark ones as light ones in each.
    labels = [[int(part[index][1]) for index in range(len(part))] for part in (made.train["a"], made.val["a"])]  # type: ignore[arg-type]
    assert [sorted(found) for found in labels] == [[0, 0, 0, 1, 1, 1], [0, 1]]
    brighter = ImageFolderDataModule(str(tmp_path), transforms={"a": lambda inputs: inputs * 0 + 1}, **settings)
    assert bool((brighter.data.train["a"][0][0] == 1).all())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"public_size": -1}, "public_size: expected 0 or more, got -1"),
        ({"stratify": True, "shuffle": False}, "stratify=True draws at random"),
    ],
)
def test_named_settings_out_of_range(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        TableDataModule("x.csv", "y", **settings)


def test_a_public_set_larger_than_someones_data_is_refused_by_name(tmp_path: Path) -> None:
    for name, count in (("a", 40), ("b", 10)):
        (tmp_path / f"{name}.csv").write_text("\n".join(["x,y,outcome", *rows(count, 0)]))
    with pytest.raises(DataError, match="public_size=20 takes 10 of the 7 training examples of 'b' and leaves none"):
        TableDataModule(str(tmp_path), "outcome", public_size=20).setup()
