"""Files that unpack to more than they may, or declare more than there is, and paths of any kind."""

import bz2
import gzip
import io
import lzma
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hetfed_lightning.data import DataError, IDXDataModule, NPZDataModule, PublicDataModule, TableDataModule, unpacking
from hetfed_lightning.data.sources import (
    public_bytes,
    read_idx,
    read_image_folder,
    read_npz,
    read_public,
    read_table,
    read_tables,
)
from hetfed_lightning.flower.files.paths import absolute
from hetfed_lightning.paths import arguments_with_home, with_home

TABLE = b"x,ward,sick\n1,a,0\n2,a,1\n"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit in kilobytes rather than in hundreds of megabytes."""
    monkeypatch.setattr(unpacking, "LEAST", 20_000)


def zipped(content: bytes, *names: str) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names or ("t.csv",):
            archive.writestr(name, content)
    return made.getvalue()


PACK: dict[str, Any] = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zip": zipped}


@pytest.mark.parametrize("suffix", PACK)
@pytest.mark.usefixtures("small")
def test_a_table_that_unpacks_to_a_thousandfold_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"t.csv{suffix}"
    path.write_bytes(PACK[suffix](TABLE))
    assert list(read_table(path, "sick", "ward")) == ["a"]
    bomb = PACK[suffix](TABLE + b"1,a,0\n" * 100_000)
    path.write_bytes(bomb)
    with pytest.raises(DataError, match=rf"t.csv{suffix}: {len(bomb)} bytes unpack to \d+ or more, .*set max_unpacked"):
        read_table(path, "sick", "ward")
    settings: dict[str, Any] = {"participant_column": "ward", "max_unpacked": 1_000_000}
    assert len(TableDataModule(str(path), "sick", **settings).load_participants()["a"]) == 100_002
    with pytest.raises(DataError, match="max_unpacked: expected a number of bytes"):
        read_table(path, "sick", "ward", max_unpacked=0)


def test_archives_of_other_kinds_are_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv.zst").write_bytes(b"x")
    with pytest.raises(DataError, match=r"t.csv.zst: .zst files are not unpacked"):
        read_table(tmp_path / "t.csv.zst", "sick", "ward")
    (tmp_path / "t.zip").write_bytes(zipped(TABLE, "a.csv", "b.csv"))
    with pytest.raises(DataError, match="expected one file in the archive, found 2"):
        read_table(tmp_path / "t.zip", "sick", "ward")
    (tmp_path / "t.zip").write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"t.zip: cannot be read as a table"):
        read_table(tmp_path / "t.zip", "sick", "ward")


@pytest.mark.usefixtures("small")
def test_an_archive_of_arrays_that_unpacks_to_a_thousandfold_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pool.npz"
    np.savez_compressed(path, x=np.zeros((5000, 40), "float32"), y=np.zeros(5000, "int64"))
    with pytest.raises(DataError, match=r"pool.npz: \d+ bytes unpack to 840256 or more"):
        read_npz(path)
    with pytest.raises(DataError, match=r"pool.npz: \d+ bytes unpack"):
        NPZDataModule(str(path), participants=2, inputs="x").setup()
    assert len(NPZDataModule(str(path), inputs="x", max_unpacked=10**6).load_pool().examples) == 5000  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", ["(10000000000000,)", "(9223372036854775807, 8)", "(3, 99999)"])
def test_an_array_that_declares_more_than_it_holds_is_refused(tmp_path: Path, shape: str) -> None:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + b"\0" * 16
    path = tmp_path / "pool.npz"
    path.write_bytes(zipped(content, "x.npy", "y.npy"))
    with pytest.raises(DataError, match=r"pool.npz: array 'x' declares shape .* bytes, but holds \d+: cut off"):
        read_npz(path)


def idx(shape: tuple[int, ...], values: bytes) -> bytes:
    return bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + values


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((1,) * 255, "declares 255 dimensions, expected at most 8"),
        ((2**32 - 1,) * 8, "but holds fewer: cut off or damaged"),
        ((7,), "but holds fewer: cut off or damaged"),
    ],
)
def test_an_idx_file_that_declares_what_cannot_be_is_refused(tmp_path: Path, shape: Any, words: str) -> None:
    path = tmp_path / "images"
    path.write_bytes(idx(shape, b"\1"))
    with pytest.raises(DataError, match=rf"images: .*{words}"):
        read_idx(path)


@pytest.mark.usefixtures("small")
def test_an_idx_file_that_unpacks_to_a_thousandfold_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "images.gz"
    path.write_bytes(gzip.compress(idx((100_000,), b"\0" * 100_000)))
    with pytest.raises(DataError, match=r"images.gz: declares shape \(100000,\), .* unpack to 20000: .*max_unpacked"):
        read_idx(path)
    assert len(read_idx(path, max_unpacked=200_000)) == 100_000


def test_a_parquet_file_that_unpacks_to_a_thousandfold_is_refused(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "t.parquet"
    # One value, repeated: the file has a few kilobytes, and pandas would ask for 8 bytes for each.
    column = arrow.DictionaryArray.from_arrays(arrow.array([0] * 3_000_000, arrow.int8()), ["a"])
    parquet.write_table(arrow.table(dict.fromkeys("abcdefghijkl", column)), path)
    with pytest.raises(DataError, match=r"t.parquet: \d+ bytes unpack to 288000000 or more, and at most 268435456"):
        read_table(path, "a", "b")


def test_an_image_of_too_many_pixels_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = pytest.importorskip("PIL.Image")
    (tmp_path / "a" / "dark").mkdir(parents=True)
    image.new("L", (30, 20)).save(tmp_path / "a" / "dark" / "1.png")
    monkeypatch.setattr(image, "MAX_IMAGE_PIXELS", 500)
    with (
        pytest.warns(image.DecompressionBombWarning),
        pytest.raises(DataError, match=r"1.png: .*30 x 20 pixels are"),
    ):
        read_image_folder(tmp_path)


# Paths


@pytest.mark.parametrize(
    "name", ["a b", "it's", 'quo"te', "#1", "50%", "[ab]", "x:y", "Zürich", "*", "a\nb", "$PRICE", "~"]
)
def test_any_character_may_be_in_a_path(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    (folder / "one.csv").write_bytes(TABLE)
    assert list(read_tables(folder, "sick", features=["x"])) == ["one"]
    assert list(read_tables([folder / "one.csv"], "sick", features=["x"])) == ["one"]
    np.savez(folder / "pool.npz", x=np.ones((2, 3), "float32"), y=np.arange(2))
    assert len(read_npz(folder / "pool.npz")) == 2
    (folder / "public").write_bytes(public_bytes(torch.ones(2, 3)))
    assert len(read_public(folder / "public")) == 2


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder with data in it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir("/")
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "a.csv").write_bytes(b"x,sick\n" + b"1,0\n2,1\n3,0\n4,1\n5,1\n" * 2)
    np.savez(tmp_path / "pool.npz", x=np.ones((9, 3), "float32"), y=np.arange(9) % 2)
    (tmp_path / "public").write_bytes(public_bytes(torch.ones(2, 3)))
    for prefix in ("train", "t10k"):
        (tmp_path / f"{prefix}-images-idx3-ubyte").write_bytes(idx((4, 2, 2), bytes(16)))
        (tmp_path / f"{prefix}-labels-idx1-ubyte").write_bytes(idx((4,), bytes(4)))
    return tmp_path


@pytest.mark.parametrize("start", ["~", "$HOME", "${HOME}"])
def test_the_home_folder_is_found_by_every_reader(home: Path, start: str) -> None:
    for path in (f"{start}/tables", [f"{start}/tables/a.csv"], {"a": f"{start}/tables/a.csv"}):
        assert list(TableDataModule(path, "sick").data.train) == ["a"]
    assert len(NPZDataModule(f"{start}/pool.npz", inputs="x").load_pool().examples) == 9  # type: ignore[arg-type]
    assert len(IDXDataModule(start).load_pool().examples) == 4  # type: ignore[arg-type]
    assert len(PublicDataModule(f"{start}/public").data.public) == 2  # type: ignore[arg-type]
    assert absolute(f"{start}/tables", Path("/srv")) == str(home / "tables")
    with pytest.raises(DataError, match="there is no such folder"):
        read_tables(f"{start}/nowhere", "sick")


def test_what_is_there_under_its_very_name_is_taken(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    Path("$HOME").mkdir()
    assert with_home("$HOME") == Path("$HOME")
    assert with_home("~/tables") == home / "tables"
    monkeypatch.setenv("SECRET", "told to nobody")
    assert with_home("$SECRET/x") == Path("$SECRET/x")
    assert with_home("$HOMEWORK/x") == Path("$HOMEWORK/x")
    assert with_home("~nobody-of-this-name/x") == Path("~nobody-of-this-name/x")


def test_the_command_line_knows_the_home_folder(home: Path) -> None:
    typed = ["fit", "-c", "~/c.yaml", "--ckpt_path=$HOME/last.ckpt", "--output", "${HOME}", "--name=a~b", "$HOMES/x"]
    expected = ["fit", "-c", f"{home}/c.yaml", f"--ckpt_path={home}/last.ckpt", "--output", str(home)]
    assert arguments_with_home(typed) == [*expected, "--name=a~b", "$HOMES/x"]
    assert arguments_with_home(["~", "it/~", "-o=~"]) == [str(home), "it/~", f"-o={home}"]
