from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from hetfed_lightning.data import (
    DataError,
    Examples,
    FederatedData,
    FederatedDataModule,
    PublicDataModule,
    SiteDataModule,
)
from hetfed_lightning.data.named_participants import NamedDataModule
from hetfed_lightning.data.sources import public_bytes, read_public
from hetfed_lightning.showcases import DigitsDataModule, HospitalsDataModule

THREE = ("a", "b", "c")


def numbered(start: int, count: int = 4) -> Examples:
    """Examples whose input is their number, so that each can be told from any other."""
    numbers = torch.arange(start, start + count)
    return Examples(numbers.float().unsqueeze(1), numbers % 2)


def numbers_of(dataset: Dataset[Any] | None) -> list[int]:
    assert isinstance(dataset, Examples)
    assert isinstance(dataset.inputs, Tensor)
    return dataset.inputs.flatten().int().tolist()


def everyone(**settings: Any) -> FederatedDataModule:
    train = {name: numbered(10 * place) for place, name in enumerate(THREE, 1)}
    val = {name: numbered(100 * place, 2) for place, name in enumerate(THREE, 1) if name != "c"}
    return FederatedDataModule(
        train, val, {"b": numbered(900, 1)}, public=numbered(0, 3), global_test=numbered(77, 2), **settings
    )


def test_it_keeps_what_is_its_own_and_what_is_everyones() -> None:
    data = SiteDataModule(everyone(), "b", THREE).data
    assert list(data.train) == list(data.val) == list(data.test) == ["b"]
    assert numbers_of(data.train["b"]) == [20, 21, 22, 23]
    assert numbers_of(data.val["b"]) == [200, 201]
    assert numbers_of(data.test["b"]) == [900]
    assert numbers_of(data.public) == [0, 1, 2]
    assert numbers_of(data.global_test) == [77, 78]
    assert data.global_val is None


def test_sets_that_it_has_not_are_left_out() -> None:
    data = SiteDataModule(everyone(), "c", THREE).data
    assert (list(data.train), dict(data.val), dict(data.test)) == (["c"], {}, {})


def test_settings_are_those_of_the_module_inside() -> None:
    inner = everyone(batch_size={"b": 3, "c": 1}, eval_batch_size=7, drop_last=True, num_workers=0, resident=False)
    site = SiteDataModule(inner, "b", THREE)
    assert (site.source("b").batch_size, site.source("b").drop_last) == (3, True)
    assert (site.eval_batch_size, site.resident) == (7, False)


def test_a_transform_by_name_is_applied() -> None:
    inner = everyone(transforms={"b": lambda inputs: inputs + 0.5})
    sample, _ = SiteDataModule(inner, "b", THREE).data.train["b"][0]
    assert sample.item() == 20.5


def test_everybody_elses_data_is_let_go_of() -> None:
    inner = everyone()
    SiteDataModule(inner, "b", THREE).setup()
    assert inner._data is None


def test_shares_of_a_pool_follow_the_order_of_everyone() -> None:
    names = ("z", "x", "y")
    whole = DigitsDataModule(public_size=30, seed=3).load(names)
    for name in names:
        found = SiteDataModule(DigitsDataModule(public_size=30, seed=3), name, names).data
        expected = whole.train[name]
        assert isinstance(expected, Examples)
        assert isinstance(own := found.train[name], Examples)
        assert torch.equal(torch.as_tensor(own.inputs), torch.as_tensor(expected.inputs))


def test_a_name_that_is_not_among_everyone_is_refused() -> None:
    with pytest.raises(DataError, match=r"everyone: 'd' is not among a, b, c\."):
        SiteDataModule(everyone(), "d", THREE)


def test_a_participant_without_data_is_told_by_name() -> None:
    with pytest.raises(DataError, match=r"no training set for 'bb'; did you mean 'b'\?"):
        SiteDataModule(everyone(), "bb").setup()


def test_a_federation_of_somebody_else_is_refused() -> None:
    with pytest.raises(DataError, match=r"its data is that of 'b', but the federation has a, c"):
        SiteDataModule(everyone(), "b", THREE).load(("a", "c"))


class Moving(FederatedDataModule):
    """Changes batches on their way to the device."""

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return batch


def test_a_module_that_changes_batches_is_refused() -> None:
    with pytest.raises(DataError, match=r"Moving has a on_before_batch_transfer of its own"):
        SiteDataModule(Moving({"a": numbered(0)}), "a")


# The public set


def test_alone_a_public_set_is_what_a_file_says(tmp_path: Path) -> None:
    # One participant's own module cannot make what is everyone's.
    (tmp_path / "public.safetensors").write_bytes(public_bytes(torch.tensor([[5.0], [6.0]])))
    assert SiteDataModule(everyone(), "b").data.public is None
    found = SiteDataModule(everyone(), "b", public=str(tmp_path / "public.safetensors"))
    assert numbers_of(found.data.public) == [5, 6]
    assert found.num_public == 2
    assert found.public_inputs(torch.tensor([1])).tolist() == [[6.0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8, torch.int64], ids=str)
def test_a_file_gives_back_one_tensor_as_it_was(tmp_path: Path, dtype: torch.dtype) -> None:
    inputs = torch.arange(12).view(3, 2, 2).to(dtype)
    path = tmp_path / "public"
    path.write_bytes(public_bytes(inputs))
    found = read_public(path)
    assert isinstance(found.inputs, Tensor)
    assert (found.inputs.dtype, found.targets) == (dtype, None)
    assert torch.equal(found.inputs, inputs)


def test_a_file_gives_back_inputs_by_name_and_missing_values(tmp_path: Path) -> None:
    whole = torch.tensor([[1.0, float("nan")], [2.0, 3.0]])
    inputs = {"genes": whole[:, :1], "image": whole}  # They share memory.
    (tmp_path / "public").write_bytes(public_bytes(inputs))
    found = read_public(tmp_path / "public").inputs
    assert isinstance(found, dict)
    assert sorted(found) == ["genes", "image"]
    assert torch.allclose(found["image"], whole, equal_nan=True)
    assert found["genes"].tolist() == [[1.0], [2.0]]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"no", "expected a public set in safetensors' format"),
        (public_bytes({"a": torch.ones(1)}).replace(b"inputs.a", b"weight.a"), "'inputs', or inputs by name"),
    ],
    ids=["damaged", "another file"],
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "public").write_bytes(content)
    with pytest.raises(DataError, match=words):
        read_public(tmp_path / "public")


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone: no such file; it holds the public set"):
        PublicDataModule(str(tmp_path / "gone")).setup()


def test_a_public_set_may_stand_alone(tmp_path: Path) -> None:
    (tmp_path / "public").write_bytes(public_bytes(torch.ones(3, 2)))
    data = PublicDataModule(str(tmp_path / "public"), eval_batch_size=2)
    assert (data.num_public, data.eval_batch_size, dict(data.data.train)) == (3, 2, {})


# Modules whose participants have names


class Named(NamedDataModule):
    """Ten examples of each of three participants."""

    def load_participants(self) -> Mapping[str, Dataset[Any]]:
        return {name: numbered(100 * place, 10) for place, name in enumerate(THREE, 1)}


def test_one_of_the_named_has_what_it_has_among_all() -> None:
    # 9 public examples are 3 of each: alone, it gives away 3 as well.
    whole = Named(public_size=9, seed=1).load(())
    alone = Named(public_size=3, seed=1, participants=["b"]).load(())
    assert list(alone.train) == ["b"]
    for sets, own in ((whole.train, alone.train), (whole.val, alone.val), (whole.test, alone.test)):
        assert numbers_of(sets["b"]) == numbers_of(own["b"])


def test_the_named_come_in_the_order_that_is_asked_for() -> None:
    assert list(Named(participants=["c", "a"]).load(()).train) == ["c", "a"]
    with pytest.raises(DataError, match=r"participants: there is no data of 'B'; did you mean 'b'\?"):
        Named(participants=["B"]).load(())


def test_a_hospital_alone_has_its_own_patients() -> None:
    names = ("cleveland", "hungary")
    whole: FederatedData = HospitalsDataModule(public_size=8).load(names)
    site = SiteDataModule(HospitalsDataModule(public_size=8), "hungary", names).data
    expected, own = whole.train["hungary"], site.train["hungary"]
    assert isinstance(expected, Examples)
    assert isinstance(own, Examples)
    assert torch.equal(
        torch.nan_to_num(torch.as_tensor(own.inputs)), torch.nan_to_num(torch.as_tensor(expected.inputs))
    )
    assert isinstance(site.global_test, Examples)
    assert isinstance(whole.global_test, Examples)
    assert len(site.global_test) == len(whole.global_test) > len(site.test["hungary"])  # type: ignore[arg-type]
