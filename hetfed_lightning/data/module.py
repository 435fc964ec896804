"""Data of a federation: each participant's own sets, the public set and everyone's sets.

A data module of one's own is a subclass of :class:`FederatedDataModule` with :meth:`FederatedDataModule.load`; or of
``NamedDataModule`` with ``load_participants``, for data of several institutions; or of ``PartitionedDataModule`` with
``load_pool``, for one pool that is dealt out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, TensorDataset

from hetfed_lightning.batches import split_batch
from hetfed_lightning.checkpointing.harmless import LoadsHarmlessly
from hetfed_lightning.data.blocks import RoundBatch
from hetfed_lightning.data.collating import Collate, batch_of, collated
from hetfed_lightning.data.conversion import Converted
from hetfed_lightning.data.device_residency import Resident, home_of
from hetfed_lightning.data.errors import DataError
from hetfed_lightning.data.examples import Examples, is_plain
from hetfed_lightning.data.labels import labels_of, read_labels
from hetfed_lightning.data.loaders import (
    Hosting,
    MeasuredLoader,
    RoundLoader,
    TrainingSchedule,
    TrainingSet,
    evaluation_loader,
)
from hetfed_lightning.data.name_checks import of_member
from hetfed_lightning.data.schema import DataSchema
from hetfed_lightning.data.sources.frames import read_frame

if TYPE_CHECKING:
    from pandas import DataFrame

AnyDataset = Dataset[Any]
if not TYPE_CHECKING:
    AnyDataset = Dataset  # For `Dataset[Any]` jsonargparse makes no class that takes arguments.

GLOBAL = "global"
"""Key of the loader of everyone's data beside those of the participants."""

LARGEST_BATCH = 2**31 - 1
"""Largest number of examples per batch; torch counts no further everywhere."""


@dataclass(frozen=True)
class FederatedData:
    """Data sets of a federation, each a map-style ``Dataset`` of ``(input, target)``.

    Attributes:
        train: The participants' training sets, by name.
        val: Their validation sets; participants may be missing.
        test: Their test sets; participants may be missing.
        public: Public inputs, raw and without targets, on which distillation takes place.
        global_val: Everyone's validation set, on which every participant is measured.
        global_test: Everyone's test set.
    """

    train: Mapping[str, Dataset[Any]]
    val: Mapping[str, Dataset[Any]] = field(default_factory=dict)
    test: Mapping[str, Dataset[Any]] = field(default_factory=dict)
    public: Dataset[Any] | None = None
    global_val: Dataset[Any] | None = None
    global_test: Dataset[Any] | None = None


class FederatedDataModule(LoadsHarmlessly, L.LightningDataModule):  # type: ignore[misc]  # takes no hparams_file
    """Loaders of a federation's data; pass it data, or subclass it and override :meth:`load`.

    Args:
        train: Training set of every participant, by name: :class:`Examples`, or any map-style ``Dataset`` that yields
            (tensor, array or PIL image, label).
        val: Validation sets by name.
        test: Test sets by name.
        public: Public set, for distillation; labels in it are ignored.
        global_val: Everyone's validation set; ``"pooled"`` joins the participants' own, which asks that their inputs be
            of one shape.
        global_test: Everyone's test set; ``"pooled"`` likewise.
        batch_size: Examples per batch; one for all, or by participant, where a group's name stands for its members.
        eval_batch_size: Examples per batch of validation, test and prediction.
        num_workers: Worker processes for data sets that are not in memory, shared by all participants.
        drop_last: True to leave out an incomplete last batch of a pass.
        transforms: By participant: applied to each sample's input where its data set is read sample by sample (whole
            batches on the device are transformed by ``Participant(transform=...)``).
        collate_fn: Makes a batch of samples that are read one by one: ``(inputs, target)``, or any form that a
            participant's own steps take. It gets a list of samples as their data set yields them, arrays and images
            turned into tensors and other values, such as text or lists of tokens, as they are. The public set's samples
            go through it too; of a pair that it makes of them the inputs alone are used.
        pin_memory: As for ``DataLoader``.
        resident: True to keep in-memory training sets and the public set on the accelerator if together they take at
            most a quarter of its free memory. They are copied as training begins. Without effect on a CPU.

    Attributes:
        schemas: Meaning of the columns and classes of each participant's data, by name, where a subclass knows it; set
            by :meth:`load`.
        learned: Schemas of participants that were trained before, by name; :meth:`load` reads their data accordingly.

    Raises:
        DataError: If a size is not positive, or a name has no training set.
    """

    def __init__(
        self,
        train: Mapping[str, AnyDataset] | None = None,
        val: Mapping[str, AnyDataset] | None = None,
        test: Mapping[str, AnyDataset] | None = None,
        *,
        public: AnyDataset | None = None,
        global_val: AnyDataset | str | None = None,
        global_test: AnyDataset | str | None = None,
        batch_size: int | dict[str, int] = 32,
        eval_batch_size: int = 512,
        num_workers: int = 0,
        drop_last: bool = False,
        transforms: Mapping[str, Callable[[Any], Any]] | None = None,
        collate_fn: Collate | None = None,
        pin_memory: bool = False,
        resident: bool = True,
    ) -> None:
        super().__init__()
        sizes = batch_size.values() if isinstance(batch_size, Mapping) else [batch_size]
        for size in [*sizes, eval_batch_size]:
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise DataError(f"batch_size: expected an integer of at least 1, got {size!r}.")
            if size > LARGEST_BATCH:
                raise DataError(f"batch_size: expected at most {LARGEST_BATCH}, got {size}.")
        if num_workers < 0:
            raise DataError(f"num_workers: expected 0 or more, got {num_workers}.")
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.num_workers = num_workers
        self.drop_last = drop_last
        self.transforms = dict(transforms or {})
        self.collate_fn = collate_fn
        self.pin_memory = pin_memory
        self.resident = resident
        self._resident_public: Resident | None = None
        self.schemas: dict[str, DataSchema] = {}
        self.learned: dict[str, DataSchema] = {}
        self._given = (train, val or {}, test or {}, public, global_val, global_test)
        self._data: FederatedData | None = None

    def load(self, participants: tuple[str, ...]) -> FederatedData:
        """Data sets of the federation, read or made; called once, at the first use, in every process.

        A subclass overrides it. An override must return the same data in every process and whenever it is called with
        the same arguments, so that a resumed run goes on with the same examples: seed every draw by the module's own
        settings. It may be called again after :attr:`learned` has changed. A set of ``(input, target)`` pairs may be
        :class:`Examples`, which are fastest, or any map-style ``Dataset``.

        Args:
            participants: Names of the federation's participants, in order; empty without a federation. Data that is
                dealt out follows them; data with names of its own ignores them.

        Raises:
            DataError: If the data cannot be read, or there is none.
        """
        del participants
        train, val, test, public, global_val, global_test = self._given
        if train is None:
            raise DataError(f"{type(self).__name__}: give train={{'name': dataset, ...}}, or override load().")
        return FederatedData(
            train, val, test, public,
            pooled(val) if global_val == "pooled" else _dataset(global_val, "global_val"),
            pooled(test) if global_test == "pooled" else _dataset(global_test, "global_test"),
        )  # fmt: skip

    def setup(self, stage: str | None = None) -> None:
        """Load the data, unless it is loaded.

        Args:
            stage: Ignored; all stages have one data.
        """
        del stage
        if self._data is None:
            names = getattr(self.trainer and self.trainer.lightning_module, "participants", {})
            self._data = self._readable(self.load(tuple(names)))

    @property
    def data(self) -> FederatedData:
        """Data sets of the federation, loaded at the first use."""
        if self._data is None:
            self.setup()
        return cast("FederatedData", self._data)

    def read_as_learned(self, schemas: Mapping[str, DataSchema]) -> None:
        """Load the data anew by the columns, classes and fillings of participants that were trained before.

        Args:
            schemas: Schemas by participant; participants without one are read as new.

        Raises:
            DataError: If the data, or the configuration, does not go with a schema.
        """
        known = {name: schema for name, schema in schemas.items() if name in self.schemas}
        if any(self.schemas[name] != schema for name, schema in known.items()):
            self.learned = dict(known)
            self._data = None
            self.setup()

    def _read_as_the_model_learned(self) -> None:
        """Before loaders are made: what a checkpoint held has been loaded into the participants by then."""
        members = getattr(self.trainer and self.trainer.lightning_module, "participants", {})
        found = {name: getattr(members[name], "schema", None) for name in members}
        self.read_as_learned({name: schema for name, schema in found.items() if schema is not None})

    def replace_data(self, data: FederatedData) -> None:
        """Replace the data sets from now on."""
        self._data = self._readable(data)
        self._resident_public = None

    def read_new(self, path: Path, as_text: Sequence[str] = ()) -> DataFrame:
        """Rows of a new file, for predictions, as this source's own tables are written; by default with commas.

        Args:
            path: CSV or parquet file.
            as_text: Columns to read as text.

        Raises:
            DataError: If the file cannot be read as a table.
            ImportError: If pandas (or pyarrow, for parquet) is not installed.
        """
        return read_frame(path, as_text=as_text)

    # Questions of the federation

    def source(self, name: str) -> TrainingSet:
        """Training set of a participant and its division into batches.

        Raises:
            DataError: If ``batch_size`` has no entry for the participant.
        """
        size = self.batch_size if isinstance(self.batch_size, int) else of_member(self.batch_size, name)
        if size is None:
            raise DataError(f"batch_size: no entry for participant {name!r}; it has {', '.join(self.batch_size)}.")  # type: ignore[arg-type]
        return TrainingSet(self.data.train[name], size, self.drop_last)

    def num_samples(self, name: str) -> int:
        """Number of training examples of a participant."""
        return self.source(name).num_samples

    def train_targets(self, name: str) -> Tensor:
        """Targets of a participant's training set, shape ``(N, ...)``; samples are loaded if there is no quicker way.

        Raises:
            DataError: If its batches are no pairs of inputs and target.
        """
        dataset = self.data.train[name]
        found = labels_of(dataset)
        if found is not None:
            return found
        if self.collate_fn is None:
            return read_labels(dataset)
        parts = []
        for indices in torch.arange(len(dataset)).split(self.eval_batch_size):  # type: ignore[arg-type]
            target = split_batch(batch_of(dataset, indices.tolist(), self.collate_fn, f"participant {name!r}"))[1]
            if not isinstance(target, Tensor):
                raise DataError(f"participant {name!r}: its collate_fn makes no pair of inputs and targets.")
            parts.append(target)
        return torch.cat(parts)

    @property
    def num_public(self) -> int:
        """Number of examples in the public set, P; 0 without one."""
        return 0 if self.data.public is None else len(self.data.public)  # type: ignore[arg-type]

    def public_inputs(self, indices: Tensor) -> Any:
        """Raw inputs of some public examples, as one batch: shape ``(B, ...)``, or several by name.

        Args:
            indices: Positions in the public set, shape ``(B,)``, in 0 to P - 1.

        Raises:
            DataError: If there is no public set, or its samples fit into no batch.
        """
        public = self.data.public if self._resident_public is None else self._resident_public
        if isinstance(public, Examples):
            return public.batch(indices)[0]
        if public is None:
            raise DataError("There is no public set: give FederatedDataModule(public=...).")
        samples = [public[index] for index in indices.tolist()]
        alone = [one[0] if isinstance(one, (tuple, list)) else one for one in samples]
        if self.collate_fn is None:
            return collated(alone, "the public set")
        try:
            return split_batch(collated(samples, "the public set", self.collate_fn))[0]
        except DataError as error:
            try:  # The collate_fn may be made for inputs alone, if the training sets are in memory and need none.
                return collated(alone, "the public set", self.collate_fn)
            except DataError:
                raise error from error.__cause__

    # Loaders

    def train_dataloader(self) -> RoundLoader:
        """Loader of one round of all participants' batches; data moves to the accelerator here, where it may."""
        home, public = self._home(), self.data.public
        self._resident_public = Resident.of([public], home) if home is not None and is_plain(public) else None
        schedule = cast("TrainingSchedule", cast("L.Trainer", self.trainer).lightning_module)
        return RoundLoader(
            {name: self.source(name) for name in self.data.train},
            schedule,
            num_workers=self.num_workers,
            collate_fn=self.collate_fn,
            pin_memory=self.pin_memory,
            hosting=self._hosting,
            home=home,
        )

    def teardown(self, stage: str) -> None:
        """Free the device's memory of data.

        Args:
            stage: Ignored.
        """
        del stage
        self._resident_public = None

    def val_dataloader(self) -> dict[str, Any]:
        """Loaders of each participant's own validation set, by name, and of everyone's under ``"global"``."""
        self._read_as_the_model_learned()
        loaders = self._loaders(self.data.val, self.data.global_val)
        fitting = self.trainer is not None and self.trainer.state.fn == TrainerFn.FITTING
        return {GLOBAL: NothingLoader()} if fitting and not loaders else loaders

    def test_dataloader(self) -> dict[str, Any]:
        """Loaders of each participant's own test set, by name, and of everyone's under ``"global"``."""
        self._read_as_the_model_learned()
        return self._loaders(self.data.test, self.data.global_test)

    def predict_dataloader(self) -> dict[str, Any]:
        """Loaders of test sets: everyone's if there is one and one model predicts, else each participant's own."""
        self._read_as_the_model_learned()
        model = cast("L.Trainer", self.trainer).lightning_module
        single = getattr(model, "predict_with", None) is not None or getattr(model, "student", None) is not None
        if single and self.data.global_test is not None:
            return self._loaders({}, self.data.global_test, divided=False)
        return self._loaders(self.data.test, None, divided=False)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """The batch on the device; unchanged on a CPU, where walking through all tensors would take time.

        Args:
            batch: A batch of any loader of this module.
            device: The device to move to.
            dataloader_idx: Index of the loader.
        """
        if device.type == "cpu":
            return batch
        move = partial(super().transfer_batch_to_device, device=device, dataloader_idx=dataloader_idx)
        return batch.to(device, move) if isinstance(batch, RoundBatch) else move(batch)

    def _home(self) -> torch.device | None:
        """The device on which in-memory data is to live; None for the host."""
        hook = "on_before_batch_transfer"  # An override of it expects batches on the host.
        if not self.resident or getattr(type(self), hook) is not getattr(L.LightningDataModule, hook):
            return None
        device = cast("L.Trainer", self.trainer).strategy.root_device
        return home_of([*self.data.train.values(), self.data.public], device)

    @property
    def _hosting(self) -> Hosting | None:
        """Division of the work over processes; None in one process."""
        trainer = self.trainer
        return getattr(trainer.lightning_module, "ranks", None) if trainer and trainer.world_size > 1 else None

    def _loaders(
        self, own: Mapping[str, Dataset[Any]], everyones: Dataset[Any] | None, *, divided: bool = True
    ) -> dict[str, Any]:
        datasets = dict(own) | ({} if everyones is None else {GLOBAL: everyones})
        loaders = {
            name: evaluation_loader(
                dataset,
                self.eval_batch_size,
                num_workers=self.num_workers,
                collate_fn=self.collate_fn,
                owner="everyone's set" if name == GLOBAL else f"participant {name!r}",
            )
            for name, dataset in datasets.items()
        }
        hosting = self._hosting
        if hosting is None:
            return loaders
        # Everyone's sets and predictions pass through every process.
        return {
            name: MeasuredLoader(loader, name if divided and name != GLOBAL else None, hosting)
            for name, loader in loaders.items()
        }

    def _readable(self, data: FederatedData) -> FederatedData:
        """The data with every set that is read sample by sample yielding tensors."""
        leaves_rest = self.collate_fn is not None

        def by_name(datasets: Mapping[str, Dataset[Any]], what: str) -> dict[str, Dataset[Any]]:
            return {
                name: _converted(dataset, self.transforms.get(name), f"{what} set of {name!r}", leaves_rest=leaves_rest)
                for name, dataset in datasets.items()
            }

        unknown = sorted(set(self.transforms) - set(data.train))
        if unknown:
            raise DataError(f"transforms: no participant {unknown[0]!r}; there are {', '.join(data.train)}.")
        everyones = [
            None if dataset is None else _converted(dataset, None, what, leaves_rest=leaves_rest)
            for what, dataset in (
                ("public set", data.public),
                ("everyone's validation set", data.global_val),
                ("everyone's test set", data.global_test),
            )
        ]
        if isinstance(everyones[0], Examples):
            # The public set is inputs alone; its NaNs were accepted as gaps when it was made.
            everyones[0] = Examples(everyones[0].inputs, missing=True)
        train, val = by_name(data.train, "training"), by_name(data.val, "validation")
        return FederatedData(train, val, by_name(data.test, "test"), *everyones)


class NothingLoader:
    """Empty loader for a run without validation; it has no length, since Lightning warns of a length of 0."""

    def __iter__(self) -> Iterator[Any]:
        return iter(())


def take(dataset: Dataset[Any], indices: Tensor) -> Dataset[Any]:
    """Some examples of a data set: a copy where it is in memory, a view elsewhere.

    Args:
        dataset: The data set.
        indices: Positions, shape ``(n,)``, in the wanted order.
    """
    return (
        dataset.subset(indices) if isinstance(dataset, Examples) else torch.utils.data.Subset(dataset, indices.tolist())
    )


def pooled(datasets: Mapping[str, Dataset[Any]]) -> Dataset[Any]:
    """All examples of several participants' data sets, in order.

    Args:
        datasets: Data sets by name, at least one.

    Raises:
        DataError: If there is none, or in-memory ones differ in shape, by name.
    """
    if not datasets:
        raise DataError("There is nothing to pool: no participant has such a set. Give val={...} or test={...}.")
    if all(isinstance(part, Examples) for part in datasets.values()):
        return Examples.pooled(cast("Mapping[str, Examples]", datasets))
    return ConcatDataset(list(datasets.values()))


def _dataset(value: Dataset[Any] | str | None, what: str) -> Dataset[Any] | None:
    if isinstance(value, str):
        raise DataError(f"{what}: expected a data set or 'pooled', got {value!r}.")
    return value


def _converted(
    dataset: Dataset[Any], transform: Callable[[Any], Any] | None, what: str, *, leaves_rest: bool = False
) -> Dataset[Any]:
    if transform is None and isinstance(dataset, (Converted, Examples)):
        return dataset
    try:
        if transform is None and type(dataset) is TensorDataset and len(dataset.tensors) <= 2 and len(dataset):
            return Examples(*dataset.tensors)  # Checked, and indexed a batch at a time.
        return Converted(dataset, transform, leaves_rest=leaves_rest)
    except DataError as error:
        raise DataError(f"{what}: {error}") from error
