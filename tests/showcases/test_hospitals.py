"""The four hospitals: what is in the file, how it is split, and what a hospital reads of it."""

import math

import pytest
import torch

from hetfed_lightning.data import DataError, Examples
from hetfed_lightning.showcases import HospitalInputs, HospitalsDataModule
from hetfed_lightning.showcases.hospitals.patients import (
    COLUMNS,
    COMMON,
    HOSPITALS,
    UNITS,
    invented_patients,
    read_hospitals,
)


def targets_of(examples: Examples) -> torch.Tensor:
    """Its targets, which are there."""
    assert examples.targets is not None
    return examples.targets


def test_every_patient_is_there_with_the_published_number_of_ill_ones() -> None:
    counts = {name: (len(one), int(targets_of(one).sum())) for name, one in read_hospitals().items()}
    assert counts == {
        "cleveland": (304, 139),
        "hungary": (293, 106),
        "switzerland": (123, 115),
        "va_long_beach": (200, 149),
    }


def test_the_first_patient_reads_as_in_the_file() -> None:
    # Cleveland,63,Male,typical angina,145,233,TRUE,lv hypertrophy,150,FALSE,2.3,downsloping,0,fixed defect,0
    first = read_hospitals()["cleveland"].inputs[0]  # type: ignore[index]
    expected = [63, 1, 1, 0, 0, 0, 145, 150, 0, 2.3, 1, 0, 233, 1, 2, 0, 1, 0]
    torch.testing.assert_close(first, torch.tensor(expected))


def test_gaps_are_where_the_hospitals_left_them() -> None:
    missing = {
        name: dict(zip(COLUMNS, torch.isnan(one.inputs).sum(0).tolist(), strict=True))  # type: ignore[arg-type]
        for name, one in read_hospitals().items()
    }
    assert missing["switzerland"]["cholesterol"] == 123  # a 0 in the file
    assert missing["va_long_beach"]["cholesterol"] == 49 + 7
    assert missing["cleveland"]["vessels"] == 5
    assert missing["hungary"]["st_slope"] == 189
    for name, gaps in missing.items():
        assert all(gaps[column] <= 60 for column in COMMON), name


def test_each_part_has_both_classes_in_the_hospitals_share_and_nobody_twice() -> None:
    data = HospitalsDataModule(seed=3).load(())
    assert list(data.train) == list(HOSPITALS)
    assert not data.val
    for name, whole in read_hospitals().items():
        train, test = data.train[name], data.test[name]
        assert isinstance(train, Examples)
        assert isinstance(test, Examples)
        assert len(train) + len(test) == len(whole)
        rows = torch.cat([train.inputs, test.inputs]).nan_to_num(-1)  # type: ignore[list-item]
        expected = whole.inputs.nan_to_num(-1)  # type: ignore[union-attr]
        assert sorted(map(tuple, rows.tolist())) == sorted(map(tuple, expected.tolist()))
        healthy = int((targets_of(whole) == 0).sum())
        assert abs(int((targets_of(test) == 0).sum()) - 0.3 * healthy) < 1
    everyones = data.global_test
    assert isinstance(everyones, Examples)
    assert len(everyones) == sum(test.num_samples for test in data.test.values() if isinstance(test, Examples)) == 276


def test_the_split_is_the_seeds_and_the_hospitals_alone() -> None:
    def test_rows(seed: int, names: tuple[str, ...]) -> torch.Tensor:
        rows: torch.Tensor = HospitalsDataModule(seed=seed).load(names).test["hungary"].inputs.nan_to_num(-1)  # type: ignore[attr-defined]
        return rows

    alone = test_rows(5, ("hungary",))
    assert torch.equal(alone, test_rows(5, tuple(HOSPITALS)))
    assert not torch.equal(alone, test_rows(6, ("hungary",)))


def test_invented_patients_are_possible_and_have_the_common_columns_alone() -> None:
    rows = invented_patients(500, seed=1)
    known = ~torch.isnan(rows)
    assert known[:, : len(COMMON)].all()
    assert not known[:, len(COMMON) :].any()
    pain = rows[:, [COLUMNS.index(name) for name in COLUMNS[2:6]]]
    assert torch.equal(pain.sum(1), torch.ones(500))
    rate = rows[:, COLUMNS.index("heart_rate")]
    assert 60 <= rate.min() <= rate.max() <= 205
    assert abs(float(rate.mean()) - UNITS["heart_rate"][0]) < 5
    assert torch.equal(rows.nan_to_num(-1), invented_patients(500, seed=1).nan_to_num(-1))
    public = HospitalsDataModule(public_size=20).data.public
    assert isinstance(public, Examples)
    assert len(public) == 20
    assert public.targets is None


def test_what_a_hospital_reads_has_no_gap_and_the_promised_widths() -> None:
    reads = HospitalInputs(private=["cholesterol", "st_slope"], indicators=["st_slope"], private_scale=2.0)
    train = read_hospitals()["va_long_beach"].inputs
    assert isinstance(train, torch.Tensor)
    reads.fit(train)
    found = reads(train)
    assert {name: part.shape[1] for name, part in found.items()} == reads.widths == {"common": 12, "private": 15}
    assert all(bool(torch.isfinite(part).all()) for part in found.values())
    # A heart rate of 115 is one unit of 25 below 140, at every hospital.
    row = torch.full((1, len(COLUMNS)), math.nan)
    row[0, COLUMNS.index("heart_rate")] = 115.0
    assert float(reads(row)["common"][0, COMMON.index("heart_rate")]) == -1.0


def test_no_test_patient_moves_what_the_transform_learns() -> None:
    def fitted(scale: float) -> HospitalInputs:
        module = HospitalsDataModule(seed=2)
        data = module.load(())
        data.test["hungary"].inputs.mul_(scale)  # type: ignore[attr-defined]
        reads = HospitalInputs(private=["cholesterol"])
        reads.fit(data.train["hungary"].inputs)  # type: ignore[attr-defined]
        return reads

    for (key, one), other in zip(fitted(1.0).state_dict().items(), fitted(100.0).state_dict().values(), strict=True):
        assert torch.equal(one, other), key


def test_a_hospital_that_does_not_exist_is_refused_by_name() -> None:
    with pytest.raises(DataError, match="no hospital 'zurich': name the participants as they are, cleveland"):
        HospitalsDataModule().load(("cleveland", "zurich"))
    with pytest.raises(DataError, match="public_size: expected 0 or more, got -1"):
        HospitalsDataModule(public_size=-1)
    with pytest.raises(ValueError, match=r"no training row has a value of 'cholesterol': leave the column out"):
        HospitalInputs(private=["cholesterol"]).fit(read_hospitals()["switzerland"].inputs)  # type: ignore[arg-type]
