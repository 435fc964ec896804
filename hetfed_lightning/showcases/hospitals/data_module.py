"""Data module of the four hospitals of UCI Heart Disease, each a participant with its own patients."""

from __future__ import annotations

from hetfed_lightning.data.errors import DataError
from hetfed_lightning.data.examples import Examples
from hetfed_lightning.data.module import FederatedData, FederatedDataModule, pooled
from hetfed_lightning.data.splits import split_train_val_test
from hetfed_lightning.seeding import stream_seed
from hetfed_lightning.showcases.hospitals.patients import HOSPITALS, invented_patients, read_hospitals


class HospitalsDataModule(FederatedDataModule):
    """Patients of Cleveland (304), Hungary (293), Switzerland (123) and VA Long Beach (200), 920 in all.

    Each hospital's patients are split by themselves, both classes in the same shares in every part; the split depends
    on ``seed`` and the hospital's name alone. Inputs are rows of 18 columns with NaN where a value is missing: give
    every participant a :class:`~hetfed_lightning.showcases.hospitals.patients.HospitalInputs` as its transform. The
    global test set is everyone's.

    Args:
        hospitals: Names of the hospitals that take part; None for those that the federation's participants name, and
            all without a federation.
        fractions: Shares of training, validation and test patients; they sum to one.
        public_size: Number of invented patients in the public set; they have the common columns alone.
        seed: Seed of the splits and of the public set.
        batch_size: As for :class:`FederatedDataModule`; so few patients fit in one batch.
        eval_batch_size: As for :class:`FederatedDataModule`.

    Raises:
        DataError: If there is no such hospital, or ``public_size`` is negative.
    """

    def __init__(
        self,
        hospitals: list[str] | None = None,
        *,
        fractions: tuple[float, float, float] = (0.7, 0.0, 0.3),
        public_size: int = 0,
        seed: int = 0,
        batch_size: int | dict[str, int] = 512,
        eval_batch_size: int = 512,
    ) -> None:
        super().__init__(batch_size=batch_size, eval_batch_size=eval_batch_size)
        if public_size < 0:
            raise DataError(f"public_size: expected 0 or more, got {public_size}.")
        self.hospitals = hospitals
        self.fractions = fractions
        self.public_size = public_size
        self.seed = seed

    def load(self, participants: tuple[str, ...]) -> FederatedData:
        """Data sets of the hospitals, each split by itself.

        Raises:
            DataError: If a participant has no hospital's name.
        """
        names = list(self.hospitals or participants or HOSPITALS)
        if unknown := [name for name in names if name not in HOSPITALS]:
            raise DataError(f"no hospital {unknown[0]!r}: name the participants as they are, {', '.join(HOSPITALS)}.")
        patients = read_hospitals()
        parts: list[dict[str, Examples]] = [{}, {}, {}]
        for name in names:
            targets = patients[name].targets
            assert targets is not None  # noqa: S101 - narrows the type; the file has a target in each row
            own = split_train_val_test(
                targets, self.fractions, stream_seed(self.seed, "hospitals", name), stratify=True
            )
            for part, rows in zip(parts, own, strict=True):
                if len(rows):
                    part[name] = patients[name].subset(rows)
        train, val, test = parts
        public = invented_patients(self.public_size, self.seed) if self.public_size else None
        return FederatedData(
            train, val, test,
            public=None if public is None else Examples(public, missing=True),
            global_val=pooled(val) if val else None,
            global_test=pooled(test) if test else None,
        )  # fmt: skip
