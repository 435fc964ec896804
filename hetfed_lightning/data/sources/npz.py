"""NumPy archives: those of MedMNIST, and plain ones of two arrays."""

from __future__ import annotations

import math
import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray
from torch import Tensor

from hetfed_lightning.data.conversion import tensor_from_array
from hetfed_lightning.data.errors import DataError
from hetfed_lightning.data.examples import Examples
from hetfed_lightning.data.labels import as_targets
from hetfed_lightning.data.name_checks import did_you_mean
from hetfed_lightning.data.unpacking import check_unpacked
from hetfed_lightning.paths import with_home

__all__ = ["read_npz", "read_npz_splits"]

_SPLITS = ("train", "val", "test")
_FAULTY = (ValueError, OSError, EOFError, RuntimeError, MemoryError, OverflowError, SyntaxError)
_DAMAGED = (*_FAULTY, zipfile.BadZipFile, zlib.error)


def read_npz(
    path: str | os.PathLike[str],
    inputs: str = "x",
    targets: str | None = "y",
    *,
    max_unpacked: int | None = None,
) -> Examples:
    """Examples of an archive of two arrays.

    Args:
        path: The ``.npz`` file.
        inputs: Name of the array of inputs, N along the first dimension. uint8 of three or four dimensions are taken
            for images, scaled as by :func:`read_npz_splits`; all else is kept, float64 as float32.
        targets: Name of the array of targets; None for unlabelled data.
        max_unpacked: Bytes that the arrays may unpack to; None for 256 MiB, or a hundred times the file's size.

    Returns:
        The examples; integer targets of shape ``(N, 1)`` are flattened.

    Raises:
        DataError: If the file is missing, damaged, lacks an array, unpacks to too much, or holds pickled objects (which
            could run code).
    """
    path = with_home(path)
    with _opened(path, max_unpacked) as archive:
        values = _array(path, archive, inputs)
        labels = None if targets is None else _array(path, archive, targets)
    return _examples(f"{path}, {inputs!r}", values, labels)


def read_npz_splits(path: str | os.PathLike[str], *, max_unpacked: int | None = None) -> dict[str, Examples]:
    """Splits of an archive in the layout of MedMNIST, by name.

    Args:
        path: The ``.npz`` file, with ``{split}_images`` and ``{split}_labels`` for ``train``, ``val``, ``test``, or for
            some of them. Images are of shape ``(N, H, W)``, ``(N, H, W, C)`` with C of 1, 3 or 4, or ``(N, D, H, W)``;
            labels of shape ``(N, 1)``, or ``(N, C)`` for several labels per image.
        max_unpacked: As for :func:`read_npz`.

    Returns:
        Examples under the name of each split there is, the channels first: ``(N, C, H, W)`` or ``(N, 1, D, H, W)``, of
        uint8 float32 in [0, 1]; labels int64 of shape ``(N,)`` or ``(N, C)``.

    Raises:
        DataError: If the file is missing, damaged, has no split or half of one, a negative or non-integer label, or
            holds pickled objects (which could run code).
    """
    path = with_home(path)
    found = {}
    with _opened(path, max_unpacked) as archive:
        for split in _SPLITS:
            if f"{split}_images" in archive.files or f"{split}_labels" in archive.files:
                images = _array(path, archive, f"{split}_images")
                labels = _class_labels(path, archive, f"{split}_labels")
                found[split] = _examples(f"{path}, {split!r}", images, labels)
        if not found:
            raise DataError(
                f"{path}: expected train_images, train_labels and their "
                f"kin{did_you_mean('train_images', archive.files)}"
            )
    return found


@contextmanager
def _opened(path: Path, max_unpacked: int | None) -> Iterator[NpzFile]:
    if not path.is_file():
        raise DataError(f"{path}: no such npz file")
    if not zipfile.is_zipfile(path):
        raise DataError(f"{path}: not an npz archive (numpy.savez), or cut off")
    try:
        _check_declared(path, max_unpacked)
        with np.load(path, allow_pickle=False) as archive:
            yield archive
    except DataError:
        raise
    except _DAMAGED as error:
        raise DataError(f"{path}: cannot be read, the archive is damaged or cut off ({error})") from error


def _check_declared(path: Path, max_unpacked: int | None) -> None:
    """Refuse an archive that unpacks to too much, or an array that claims more values than there are bytes of it.

    NumPy asks for all the memory that a header declares before it reads the first value.
    """
    with zipfile.ZipFile(path) as archive:
        check_unpacked(path, sum(one.file_size for one in archive.infolist()), max_unpacked)
        for member in archive.infolist():
            if not member.filename.endswith(".npy"):
                continue
            with archive.open(member) as stream:
                if stream.read(len(np.lib.format.MAGIC_PREFIX)) != np.lib.format.MAGIC_PREFIX:
                    continue  # No array; the reader says so when it is asked for this member.
                stream.seek(0)
                shape, dtype = _declared(stream)
            size = math.prod(shape) * dtype.itemsize
            if size > member.file_size and not dtype.hasobject:
                raise DataError(
                    f"{path}: array {member.filename.removesuffix('.npy')!r} declares shape {shape} and {dtype}, "
                    f"{size} bytes, but holds {member.file_size}: cut off or damaged"
                )


def _declared(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype of the header of an array."""
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    return shape, dtype


def _array(path: Path, archive: NpzFile, name: str) -> NDArray[Any]:
    if name not in archive.files:
        raise DataError(f"{path}: has no array {name!r}{did_you_mean(name, archive.files)}")
    try:
        array: object = archive[name]
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise
        raise DataError(
            f"{path}: array {name!r} holds pickled Python objects, which could run code: save plain numbers"
        ) from error
    if not isinstance(array, np.ndarray):  # a member that is no array comes back as its bytes
        raise DataError(f"{path}: {name!r} is not a NumPy array")
    return array


def _class_labels(path: Path, archive: NpzFile, name: str) -> NDArray[Any]:
    labels = _array(path, archive, name)
    if labels.dtype.kind not in "biu":
        raise DataError(f"{path}: expected integer class labels in {name!r}, got {labels.dtype}")
    if labels.size and int(labels.min()) < 0:
        raise DataError(f"{path}: expected class labels of 0 or more in {name!r}, got {labels.min()}")
    return labels


def _examples(where: str, values: NDArray[Any], labels: NDArray[Any] | None) -> Examples:
    try:
        is_image = values.dtype == np.uint8 and values.ndim in {3, 4}
        inputs = _images(values) if is_image else tensor_from_array(values)
        return Examples(inputs, None if labels is None else _flattened(labels))
    except DataError as error:
        raise DataError(f"{where}: {error}") from error


def _images(pixels: NDArray[np.uint8]) -> Tensor:
    channels_last = pixels.ndim == 4 and pixels.shape[-1] in {1, 3, 4}
    first = pixels.transpose(0, 3, 1, 2) if channels_last else pixels[:, None]
    return tensor_from_array(first).float().div_(255)


def _flattened(labels: NDArray[Any]) -> Tensor:
    flat = labels.dtype.kind in "biu" and labels.shape[1:] == (1,)
    return as_targets(tensor_from_array(labels.reshape(-1) if flat else labels))
