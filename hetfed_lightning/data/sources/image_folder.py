"""Folders of image files, ``<folder>/<participant>/<class>/*.png``, opened one by one as they are needed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from hetfed_lightning.data.conversion import as_tensor
from hetfed_lightning.data.errors import DataError
from hetfed_lightning.data.labels import require_class_labels
from hetfed_lightning.data.name_checks import checked_classes, did_you_mean, refuse_spellings, refuse_twin_names
from hetfed_lightning.data.optional import import_optional
from hetfed_lightning.data.source_rows import SourceRows
from hetfed_lightning.data.sources.classes import tell_missing_classes
from hetfed_lightning.paths import with_home

__all__ = ["ImageFiles", "read_image_folder"]

_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
_MODES = ("L", "RGB")


class ImageFiles(Dataset[tuple[Tensor, Tensor]]):
    """Image files with their classes, each file opened when its sample is asked for.

    Args:
        paths: The files, N of them.
        targets: The class of each, shape ``(N,)``, positions in ``classes``.
        classes: Names of the classes.
        image_size: Height and width in pixels to resize to, one number for both; None to keep each file's
            own.
        mode: ``"L"`` for one channel, ``"RGB"`` for three.

    Attributes:
        paths: The files.
        targets: Their classes, int64.
        classes: Names of the classes.

    Raises:
        DataError: If there is no file, lengths differ, a class is out of range or a setting is; on access, if
            a file cannot be read as an image.
    """

    def __init__(
        self,
        paths: Sequence[str | os.PathLike[str]],
        targets: Tensor,
        classes: Sequence[str],
        image_size: int | tuple[int, int] | None = None,
        mode: Literal["L", "RGB"] = "RGB",
    ) -> None:
        if not paths or len(paths) != len(targets):
            raise DataError(
                f"expected as many image files as classes, at least one, got {len(paths)} and {len(targets)}"
            )
        if mode not in _MODES:
            raise DataError(f"expected mode 'L' or 'RGB', got {mode!r}")
        self.paths = tuple(os.fspath(path) for path in paths)
        self.targets = require_class_labels(targets)
        self.classes = tuple(classes)
        self.image_size = _height_and_width(image_size)
        self.mode = mode
        if int(self.targets.max()) >= len(self.classes):
            raise DataError(f"expected targets below {len(self.classes)}, one per class, got {int(self.targets.max())}")

    def __len__(self) -> int:
        """Number of files, N."""
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Image, float32 of shape ``(channels, H, W)`` in [0, 1], and its class, shape ``()``, int64.

        Args:
            index: Position of the file.

        Raises:
            DataError: If the file cannot be read as an image.
        """
        path = self.paths[index]
        opened = import_optional("PIL.Image", "hetfed-lightning[images]")
        try:
            with opened.open(path) as image:
                _check_pixels(opened, image)
                pixels = _as_mode(opened, image, self.mode)
                if self.image_size is not None:
                    height, width = self.image_size
                    pixels = pixels.resize((width, height), opened.Resampling.BILINEAR)
                return as_tensor(pixels), self.targets[index]
        except (OSError, SyntaxError, ValueError, opened.DecompressionBombError) as error:
            raise _unreadable(path, error) from error

    @property
    def rows(self) -> SourceRows:
        """Path of each file."""
        return SourceRows("file", np.array([str(path) for path in self.paths], dtype=object))

    def check(self) -> None:
        """Open every file without decoding its pixels, to find the damaged ones before training does.

        Raises:
            DataError: If a file is no image or is damaged; if ``image_size`` is None and sizes differ, since
                such images cannot be put into one batch.
        """
        opened = import_optional("PIL.Image", "hetfed-lightning[images]")
        sizes: dict[tuple[int, int], str] = {}
        for path in self.paths:
            try:
                with opened.open(path) as image:
                    sizes.setdefault(image.size, path)
                    _check_pixels(opened, image)
                    image.verify()
            except (OSError, SyntaxError, ValueError, opened.DecompressionBombError) as error:
                raise _unreadable(path, error) from error
            if self.image_size is None and len(sizes) > 1:
                found = ", ".join(f"{width} x {height} in {where}" for (width, height), where in sizes.items())
                raise DataError(f"images differ in size (width x height), {found}: set image_size to resize them")

    def __repr__(self) -> str:
        """Numbers of files and of classes."""
        return f"{type(self).__name__}({len(self)} files, {len(self.classes)} classes, mode={self.mode!r})"


def read_image_folder(
    folder: str | os.PathLike[str],
    image_size: int | tuple[int, int] | None = None,
    mode: Literal["L", "RGB"] = "RGB",
    check: bool = True,
    classes: Sequence[str] | None = None,
) -> dict[str, ImageFiles]:
    """Image files of each participant, by name.

    Args:
        folder: Holds ``<participant>/<class>/`` folders of images, at any depth below the class. Names that start with
            a dot are passed over, and so are files of other kinds.
        image_size: Height and width in pixels to resize to, one number for both; None to keep each file's own.
        mode: ``"L"`` for one channel, ``"RGB"`` for three.
        check: True to open every file once now, without decoding it, to refuse damaged files and differing sizes before
            training starts.
        classes: Names of all classes, in order; None for those that are there.

    Returns:
        Image files under the name of each participant, in alphabetical order. All number their classes alike: by
        ``classes``, or else the sorted names of all class folders of all participants.

    Raises:
        DataError: If the folder is missing, has no participant, a participant has no image or has images outside of a
            class, a class is not in ``classes``, two names differ in case only, or (with ``check``) a file is damaged.
        ImportError: If Pillow is not installed.
    """
    folder = with_home(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder of images")
    participants = _folders(folder)
    if not participants:
        raise DataError(f"{folder}: expected a folder per participant (<participant>/<class>/*.png), got none")
    by_class = {participant.name: _folders(participant) for participant in participants}
    there = sorted({path.name for paths in by_class.values() for path in paths})
    refuse_twin_names(by_class, "participant", str(folder))
    refuse_spellings({str(one): [path.name for path in by_class[one.name]] for one in participants}, "class")
    classes = there if classes is None else _all_of(classes, by_class, folder)
    found = {}
    for participant in participants:
        stray = [path for path in sorted(participant.iterdir()) if _is_image(path)]
        if stray:
            raise DataError(f"{stray[0]}: lies outside of a class, expected {participant}/<class>/{stray[0].name}")
        labelled = [
            (path, classes.index(label.name))
            for label in by_class[participant.name]
            for path in sorted(label.rglob("*"))
            if _is_image(path) and not any(part.startswith(".") for part in path.relative_to(label).parts)
        ]
        if not labelled:
            raise DataError(
                f"{participant}: participant {participant.name!r} has no image, expected <class>/*.png in it"
            )
        paths, targets = zip(*labelled, strict=True)
        found[participant.name] = ImageFiles(paths, torch.tensor(targets), classes, image_size, mode)
    tell_missing_classes({name: files.targets for name, files in found.items()}, classes)
    if check:
        for files in found.values():
            files.check()
    return found


def _all_of(classes: Sequence[str], by_class: Mapping[str, Sequence[Path]], folder: Path) -> list[str]:
    named = checked_classes(classes)
    for participant, paths in by_class.items():
        for path in paths:
            if path.name not in named:
                raise DataError(
                    f"classes: {folder / participant} has a class {path.name!r} that is not named"
                    f"{did_you_mean(path.name, named)}"
                )
    return named


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in _SUFFIXES and not path.name.startswith(".") and path.is_file()


def _height_and_width(image_size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    if image_size is None:
        return None
    sizes = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    if len(sizes) != 2 or not all(isinstance(size, int) and size >= 1 for size in sizes):
        raise DataError(f"expected image_size to be a height and a width of at least 1 pixel, got {image_size!r}")
    return sizes[0], sizes[1]


def _as_mode(opened: Any, image: Any, mode: str) -> Any:
    if image.mode.startswith("I;16"):  # Pillow's own conversion cuts everything above 255
        image = opened.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in {"I", "F"}:
        raise ValueError(f"expected 8 or 16 bits per channel, got PIL mode {image.mode!r}")
    return image.convert(mode)


def _check_pixels(opened: Any, image: Any) -> None:
    """Refuse an image that unpacks to more pixels than Pillow takes for one; above twice as many it does so itself."""
    most, (width, height) = opened.MAX_IMAGE_PIXELS, image.size
    if most is not None and width * height > most:
        raise ValueError(f"{width} x {height} pixels are more than {most}; PIL.Image.MAX_IMAGE_PIXELS sets the limit")


def _unreadable(path: str, error: Exception) -> DataError:
    return DataError(f"{path}: cannot be read as an image, it is damaged, missing or something else ({error})")
