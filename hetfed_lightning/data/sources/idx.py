"""IDX files, the format of MNIST and Fashion-MNIST, plain or gzipped.

The format: two zero bytes, a code of the dtype, the number of dimensions, each dimension as a big-endian
uint32, then the values, big-endian, the last dimension fastest.

Reference:
    LeCun, Cortes, Burges, The MNIST Database of Handwritten Digits, section "File formats".
"""

from __future__ import annotations

import gzip
import math
import os
import struct
import zlib
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from hetfed_lightning.data.errors import DataError
from hetfed_lightning.data.examples import Examples
from hetfed_lightning.data.unpacking import most_bytes, read_up_to
from hetfed_lightning.paths import with_home

__all__ = ["read_idx", "read_idx_folder", "read_idx_images"]

_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_SPLITS = {"train": "train", "test": "t10k"}
MOST_DIMENSIONS = 8
"""Most dimensions of an array; MNIST's have three at most."""


def read_idx(path: str | os.PathLike[str], *, max_unpacked: int | None = None) -> NDArray[Any]:
    """Array of an IDX file.

    Args:
        path: The file, gzipped or not (told by its content, not its name).
        max_unpacked: Bytes that it may have unpacked, if it is gzipped; None for 256 MiB, or a hundred times its size.

    Returns:
        The values in the shape and dtype that the file declares, in native byte order.

    Raises:
        DataError: If the file is missing, is no IDX file, or holds fewer or more values than it declares.
    """
    path = with_home(path)
    if not path.is_file():
        raise DataError(f"{path}: no such IDX file")
    try:
        with path.open("rb") as plain:
            gzipped = plain.read(2) == b"\x1f\x8b"
            plain.seek(0)
            stream = cast("IO[bytes]", gzip.GzipFile(fileobj=plain)) if gzipped else plain
            return _parse(path, stream, most_bytes(path, max_unpacked) if gzipped else None)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read, the file is damaged or cut off ({error})") from error


def read_idx_images(
    images: str | os.PathLike[str], labels: str | os.PathLike[str], *, max_unpacked: int | None = None
) -> Examples:
    """Greyscale images with their class labels.

    Args:
        images: IDX file of bytes, of shape ``(N, H, W)``.
        labels: IDX file of bytes, of shape ``(N,)``.
        max_unpacked: As for :func:`read_idx`.

    Returns:
        Inputs of shape ``(N, 1, H, W)``, float32 in [0, 1]; targets of shape ``(N,)``, int64.

    Raises:
        DataError: If a file cannot be read, has another shape or dtype, or the two differ in their number.
    """
    pixels, classes = (read_idx(one, max_unpacked=max_unpacked) for one in (images, labels))
    for path, array, dimensions, shape in ((images, pixels, 3, "(N, H, W)"), (labels, classes, 1, "(N,)")):
        if array.ndim != dimensions or array.dtype != np.uint8:
            raise DataError(f"{path}: expected bytes of shape {shape}, got {array.dtype} of shape {array.shape}")
    if len(pixels) != len(classes):
        raise DataError(f"{images} has {len(pixels)} images but {labels} has {len(classes)} labels: they are no pair")
    if pixels.size == 0:
        raise DataError(f"{images}: has no image, its shape is {pixels.shape}")
    inputs = torch.from_numpy(pixels).unsqueeze(1).to(torch.float32).div_(255)
    return Examples(inputs, torch.from_numpy(classes))


def read_idx_folder(folder: str | os.PathLike[str], *, max_unpacked: int | None = None) -> dict[str, Examples]:
    """Training and test images of a folder laid out as MNIST's, by ``"train"`` and ``"test"``.

    Args:
        folder: Holds ``train-images-idx3-ubyte`` and ``train-labels-idx1-ubyte``, the same with ``t10k`` for the test
            images, or both, each plain or with ``.gz``.
        max_unpacked: As for :func:`read_idx`, for each file.

    Returns:
        Examples as by :func:`read_idx_images`, under ``"train"``, ``"test"`` or both.

    Raises:
        DataError: If the folder is missing, holds neither pair, or half of one, or a file cannot be read.
    """
    folder = with_home(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder of IDX files")
    found = {}
    for split, prefix in _SPLITS.items():
        images, labels = f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte"
        paths = [_present(folder, name) for name in (images, labels)]
        if all(paths):
            images_path, labels_path = cast("list[Path]", paths)
            found[split] = read_idx_images(images_path, labels_path, max_unpacked=max_unpacked)
        elif any(paths):
            raise DataError(f"{folder}: has {images if paths[0] else labels} but not {labels if paths[0] else images}")
    if not found:
        raise DataError(f"{folder}: expected train-images-idx3-ubyte[.gz] and its kin, got none of them")
    return found


def _present(folder: Path, name: str) -> Path | None:
    return next((path for suffix in ("", ".gz") if (path := folder / f"{name}{suffix}").is_file()), None)


def _parse(path: Path, stream: IO[bytes], most: int | None) -> NDArray[Any]:
    magic = stream.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _DTYPES or not magic[3]:
        raise DataError(
            f"{path}: not an IDX file, it starts with {magic.hex(' ') or 'nothing'}, expected 00 00 <dtype> "
            "<dimensions>"
        )
    dtype, dimensions = np.dtype(_DTYPES[magic[2]]), magic[3]
    if dimensions > MOST_DIMENSIONS:
        raise DataError(f"{path}: declares {dimensions} dimensions, expected at most {MOST_DIMENSIONS}: it is damaged")
    header = stream.read(4 * dimensions)
    if len(header) < 4 * dimensions:
        raise DataError(f"{path}: cut off within its header of {dimensions} dimensions")
    shape = struct.unpack(f">{dimensions}I", header)
    expected = math.prod(shape) * dtype.itemsize
    there = path.stat().st_size if most is None else most
    if expected > there:
        raise DataError(
            f"{path}: declares shape {shape}, {expected} bytes, but holds fewer: cut off or damaged"
            if most is None
            else f"{path}: declares shape {shape}, {expected} bytes, and a file of {path.stat().st_size} may unpack to "
            f"{most}: if it is what it should be, set max_unpacked to the number of bytes it may have"
        )
    values = read_up_to(stream, expected + 1)
    if len(values) != expected:
        size = "fewer" if len(values) < expected else "more"
        raise DataError(f"{path}: declares shape {shape}, {expected} bytes, but holds {size}: cut off or damaged")
    return np.frombuffer(values, dtype=dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)
