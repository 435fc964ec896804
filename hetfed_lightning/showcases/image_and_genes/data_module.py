"""Data module of simulated hospitals whose patients have an image, a panel of genes, or both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hetfed_lightning.data.errors import DataError
from hetfed_lightning.data.examples import Examples
from hetfed_lightning.data.module import FederatedData, FederatedDataModule
from hetfed_lightning.data.name_checks import did_you_mean
from hetfed_lightning.seeding import stream_generator
from hetfed_lightning.showcases.image_and_genes.simulated_disease import BayesAccuracy, SimulatedDisease

IMAGE = "image"
GENES = "genes"


@dataclass(frozen=True)
class Hospital:
    """Number and inputs of a simulated hospital's patients.

    Attributes:
        patients: Training patients, at least 1.
        image: True if they have an image.
        genes: Genes in its own panel, drawn from all by the disease's seed; 0 for none.
    """

    patients: int
    image: bool = True
    genes: int = 0


class ImageAndGenesDataModule(FederatedDataModule):
    """Simulated patients of one disease at hospitals of different size, inputs and gene panels.

    A batch has its inputs by name: ``image``, shape ``(B, 1, 28, 28)``, and ``genes``, shape ``(B, P)``, the panel of
    that hospital, each in a unit of its own; or one of the two. The public set and everyone's test set are images
    alone; participants with genes alone take no part in either.

    Args:
        hospitals: Number and inputs of the patients by participant: ``{patients: 50, genes: 12}``.
        seed: Seed of the patients.
        disease_seed: Seed of the disease and the panels: the best possible accuracies depend on it and not on ``seed``.
        val_patients: Number in each hospital's validation set.
        test_patients: Number in each hospital's test set, and in everyone's; simulated, so that there may be many.
        public_size: Public images; no public set if 0.
        disease: Settings of :meth:`SimulatedDisease.make <hetfed_lightning.showcases.SimulatedDisease.make>`.
        settings: As for :class:`FederatedDataModule <hetfed_lightning.data.FederatedDataModule>`: ``batch_size``, ...

    Raises:
        DataError: If a hospital has neither image nor genes, or more genes than there are; when loaded, if a
            participant has no hospital, by name.
    """

    def __init__(
        self,
        hospitals: dict[str, Hospital],
        *,
        seed: int = 0,
        disease_seed: int = 0,
        val_patients: int = 100,
        test_patients: int = 1000,
        public_size: int = 0,
        disease: dict[str, Any] | None = None,
        batch_size: int | dict[str, int] = 32,
        eval_batch_size: int = 512,
        resident: bool = True,
    ) -> None:
        super().__init__(batch_size=batch_size, eval_batch_size=eval_batch_size, resident=resident)
        sizes = {"val_patients": val_patients, "test_patients": test_patients, "public_size": public_size}
        for name, count in sizes.items():
            if count < 0:
                raise DataError(f"{name}: expected 0 or more, got {count}.")
        self.hospitals = dict(hospitals)
        self.seed = seed
        self.disease_seed = disease_seed
        self.val_patients = val_patients
        self.test_patients = test_patients
        self.public_size = public_size
        self.disease = SimulatedDisease.make(disease_seed, **(disease or {}))
        self._panels = {name: self._drawn_panel(name, hospital) for name, hospital in self.hospitals.items()}

    def panel(self, name: str) -> tuple[str, ...]:
        """Names of a hospital's genes, in the order of its data; empty if it has images only."""
        return self._panels[name]

    def bayes_accuracy(self, name: str, *, count: int = 20_000) -> BayesAccuracy:
        """Best possible accuracy on a hospital's patients by its inputs.

        Args:
            name: Name of the hospital.
            count: Number of simulated patients that it is estimated on.
        """
        return self.disease.bayes_accuracy(image=self.hospitals[name].image, panel=self.panel(name), count=count)

    def load(self, participants: tuple[str, ...]) -> FederatedData:
        """Data sets of all hospitals, drawn from the disease.

        Raises:
            DataError: If a participant has no hospital, by name.
        """
        for name in participants:
            if name not in self.hospitals:
                raise DataError(f"hospitals: none for participant {name!r}{did_you_mean(name, self.hospitals)}.")
        return FederatedData(
            {name: self._set(name, "train", hospital.patients) for name, hospital in self.hospitals.items()},
            self._evaluated("val", self.val_patients),
            self._evaluated("test", self.test_patients),
            public=Examples(self._images("public", self.public_size)[0]) if self.public_size else None,
            global_test=Examples(*self._images("test", self.test_patients)) if self.test_patients else None,
        )

    def _evaluated(self, what: str, count: int) -> dict[str, Examples]:
        return {name: self._set(name, what, count) for name in self.hospitals} if count else {}

    def _drawn_panel(self, name: str, hospital: Hospital) -> tuple[str, ...]:
        known = self.disease.genes
        if not 0 <= hospital.genes <= len(known):
            raise DataError(f"hospital {name!r}: expected 0 to {len(known)} genes, got {hospital.genes}.")
        if not hospital.image and hospital.genes == 0:
            raise DataError(f"hospital {name!r}: expected image: true, or genes: 1 or more, got neither.")
        if hospital.patients < 1:
            raise DataError(f"hospital {name!r}: expected at least one patient, got {hospital.patients}.")
        order = torch.randperm(len(known), generator=stream_generator(self.disease_seed, "panel", name))
        return tuple(known[index] for index in sorted(order[: hospital.genes].tolist()))

    def _set(self, name: str, what: str, count: int) -> Examples:
        patients, hospital = self.disease.patients(count, self.seed, name, what), self.hospitals[name]
        inputs = {IMAGE: patients.images} if hospital.image else {}
        if hospital.genes:
            inputs[GENES] = patients.expression[:, self.disease.positions(self.panel(name))]
        return Examples(inputs, patients.states)

    def _images(self, what: str, count: int) -> tuple[dict[str, Tensor], Tensor]:
        patients = self.disease.patients(count, self.seed, "everyone", what)
        return {IMAGE: patients.images}, patients.states
