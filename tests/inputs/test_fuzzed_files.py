"""Files with anything in them: read, or refused with the name of the file."""

import random
import warnings
import zipfile
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from hetfed_lightning import Federation, Participant
from hetfed_lightning.checkpointing.form import form_problem
from hetfed_lightning.checkpointing.reading import read_checkpoint
from hetfed_lightning.cli.configs import check_checkpoint
from hetfed_lightning.data.sources import read_npz, read_table, read_tables
from hetfed_lightning.data.sources.idx import read_idx
from hetfed_lightning.data.sources.image_folder import read_image_folder
from hetfed_lightning.federation.membership import without_member
from hetfed_lightning.logs.run_record import Record
from tests.conftest import Tally
from tests.federations import fit, tiny_data, tiny_federation, tiny_participant, trainer
from tests.inputs.bare import is_bare
from tests.security.watch import watched

pytestmark = [pytest.mark.promise("fuzzed"), pytest.mark.filterwarnings("ignore")]

SILENT = list(HealthCheck)


def faults(
    check: Callable[[Any], Any], cases: st.SearchStrategy[Any], count: int, *names: str
) -> tuple[int, list[Any]]:
    """How many cases were tried, and those that ended in a bare error, or ran something."""
    tried: list[int] = [0]
    bad: list[Any] = []

    @settings(max_examples=count, suppress_health_check=SILENT, database=None)
    @given(cases)
    def inject(case: Any) -> None:
        tried[0] += 1
        with watched() as events:
            try:
                check(case)
            except Exception as error:  # noqa: BLE001 - which one is the question
                if is_bare(error, names):
                    bad.append((repr(error)[:400], case))
        if events:
            bad.append((events, case))

    inject()
    return tried[0], bad


def told(tally: Tally, tried: int, bad: list[Any]) -> None:
    tally(tried=tried, held=tried - len(bad))
    assert not bad, "\n".join(f"{len(bad)}: {wrong} {case!r:.600}" for wrong, case in bad[:8])


# Checkpoints

PLAIN: tuple[Any, ...] = (
    *(
        None,
        True,
        0,
        -1,
        7,
        3.5,
        float("nan"),
        "text",
        b"bytes",
        [],
        {},
        [1],
        {"a": 1},
        torch.zeros(()),
        torch.zeros(3),
    ),
    *(torch.zeros(0), torch.full((4, 4), 2**62), torch.zeros(2, 2, dtype=torch.complex64)),
)


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A checkpoint as a run saves it."""
    path = tmp_path / "whole.ckpt"
    fit(tiny_federation("ab"), tiny_data("ab"), 1).save_checkpoint(path)
    return path


def resumed(path: Path) -> None:
    trainer(2).fit(tiny_federation("ab"), datamodule=tiny_data("ab"), ckpt_path=path)


def loaded(path: Path) -> None:
    Federation.load_from_checkpoint(path, participants={name: tiny_participant() for name in "ab"})


def taken_out(path: Path) -> None:
    Participant.load_from_checkpoint(path, "a", backbone=nn.Sequential(nn.Linear(4, 5)), head=nn.Linear(5, 3))


def left(path: Path) -> None:
    check_checkpoint(str(path))
    without_member(read_checkpoint(path), "b")


WAYS = (read_checkpoint, loaded, taken_out, resumed, left)


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """A file with some bytes changed, cut off, doubled or swapped."""
    kind = draw(st.sampled_from(["bytes", "bytes", "cut", "zeros", "twice", "inside"]))
    generator = random.Random(draw(st.integers(0, 2**32)))  # noqa: S311 - of test data
    made = bytearray(content)
    if kind == "bytes":
        for _ in range(draw(st.integers(1, 40))):
            made[generator.randrange(len(made))] = generator.randrange(256)
    elif kind == "cut":
        del made[generator.randrange(len(made)) :]
    elif kind == "zeros":
        start = generator.randrange(len(made))
        made[start : start + 500] = bytes(len(made[start : start + 500]))
    elif kind == "twice":
        made += bytes(made)
    else:
        start = generator.randrange(len(made))
        made[start:start] = bytes(made[: generator.randrange(1, 200)])
    return bytes(made)


def test_damaged_checkpoints(whole: Path, full: bool, tally: Tally) -> None:
    def check(case: tuple[bytes, int]) -> None:
        Path("damaged.ckpt").write_bytes(case[0])
        WAYS[case[1]](Path("damaged.ckpt"))

    cases = st.tuples(damaged(whole.read_bytes()), st.integers(0, len(WAYS) - 1))
    told(tally, *faults(check, cases, 2000 if full else 40, "damaged.ckpt"))


def places(tree: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [path for key, inside in items for path in ((*above, key), *places(inside, (*above, key)))]


def test_checkpoints_of_another_form(whole: Path, full: bool, tally: Tally) -> None:
    right = read_checkpoint(whole)

    def check(case: tuple[tuple[Any, ...], Any, int]) -> None:
        where, value, way = case
        content = deepcopy(right)
        inside = content
        for key in where[:-1]:
            inside = inside[key]
        if value is DROPPED:
            del inside[where[-1]]
        else:
            inside[where[-1]] = value
        torch.save(content, "formed.ckpt")
        WAYS[way](Path("formed.ckpt"))

    cases = st.tuples(
        st.sampled_from(places(right)), st.sampled_from([DROPPED, *PLAIN]), st.sampled_from([1, 2, 3, 3, 3, 4])
    )
    told(tally, *faults(check, cases, 2000 if full else 40, "formed.ckpt", "participant '", "The checkpoint"))


@pytest.mark.parametrize("key", ["optimizers", "schedulers", "steps", "scheduled_rounds", "privacy"])
def test_a_part_of_a_federation_that_is_missing_or_of_another_kind(whole: Path, key: str) -> None:
    content = read_checkpoint(whole)
    if key == "privacy":
        content["federation"][key] = "text"
    else:
        del content["federation"][key]
    assert f"'federation.{key}'" in str(form_problem(content))


DROPPED = object()


@pytest.mark.parametrize(
    "make",
    [
        lambda file: file.writestr("archive/../../outside", b"x"),
        lambda file: file.writestr("/etc/outside", b"x"),
        lambda file: file.writestr("archive/data/99999", b"x" * 1000),
        lambda file: file.writestr("archive/byteorder", b"middle"),
        lambda file: file.writestr("archive/version", b"999999999999"),
        lambda file: file.writestr("other/data.pkl", b"x"),
        lambda file: file.writestr("archive/data/0", b"x" * 50_000_000, zipfile.ZIP_DEFLATED),
    ],
)
def test_entries_that_do_not_belong(whole: Path, make: Callable[[zipfile.ZipFile], None], tally: Tally) -> None:
    with zipfile.ZipFile(whole, "a") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        make(file)
    bad = []
    for way in WAYS:
        with watched() as events:
            try:
                way(whole)
            except Exception as error:  # noqa: BLE001 - which one is the question
                if is_bare(error, ("whole.ckpt",)):
                    bad.append((repr(error), way))
        bad += [(event, way) for event in events]
    told(tally, len(WAYS), bad)


# Tables, arrays, images, records

CELLS = st.one_of(
    st.sampled_from(
        [
            "1",
            "0",
            "-1",
            "2.5",
            "1e300",
            "1e-400",
            "nan",
            "inf",
            "NA",
            "",
            " ",
            "yes",
            "True",
            "0x1",
            "\u0661",
            "1,5",
            '"',
            '""',
            '"a"',
            "'",
            "a\tb",
            "\\",
            "9" * 400,
            "-",
            "1_0",
            "\u202e",
            "\x00",
            "\r",
            "\n",
            "#",
            ";",
        ]
    ),
    st.text(max_size=5),
    st.integers().map(str),
    st.floats().map(str),
)
ROWS = st.lists(st.lists(CELLS, max_size=5).map(",".join), max_size=6)
HEADS = st.one_of(st.just("age,dose,outcome"), st.lists(CELLS, max_size=4).map(",".join))
CODECS = st.sampled_from(["utf-8", "utf-8", "utf-8", "utf-16", "latin-1", "utf-8-sig", "cp1252", "utf-32"])


def test_tables(full: bool, tally: Tally) -> None:
    def check(case: tuple[str, list[str], str, str, Any, Any, str]) -> None:
        head, rows, codec, newline, kind, missing, column = case
        text = newline.join([head, *rows])
        Path("fuzzed.csv").write_bytes(text.encode(codec, errors="replace"))
        if column:
            read_table("fuzzed.csv", "outcome", column, kind=kind, missing=missing)
        else:
            read_tables(["fuzzed.csv"], "outcome", kind=kind, missing=missing)

    cases = st.tuples(
        HEADS, ROWS, CODECS, st.sampled_from(["\n", "\r\n", "\r"]), st.sampled_from(["class", "value"]),
        st.sampled_from([None, "mean", "drop"]), st.sampled_from(["", "age", "dose", "outcome"]),
    )  # fmt: skip
    told(tally, *faults(check, cases, 5000 if full else 150, "fuzzed.csv"))


def test_damaged_arrays_and_images(full: bool, tally: Tally) -> None:
    import_pil = pytest.importorskip("PIL.Image")
    for folder in ("images/a/x", "images/a/y"):
        Path(folder).mkdir(parents=True)
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    import_pil.fromarray(pixels).save("images/a/x/0.png")
    np.savez("right.npz", x=pixels.reshape(4, 16).astype("float32"), y=np.arange(4))
    idx = b"\0\0\x08\2" + (8).to_bytes(4, "big") * 2 + pixels.tobytes()
    Record("run", "1").write(Path())
    sources: dict[str, tuple[bytes, Callable[[Path], Any]]] = {
        "fuzzed.npz": (Path("right.npz").read_bytes(), read_npz),
        "fuzzed.idx": (idx, read_idx),
        "images/a/y/fuzzed.png": (Path("images/a/x/0.png").read_bytes(), lambda _: read_image_folder("images")["a"][1]),
        "fuzzed.json": (Path("record.json").read_bytes(), Record.read),
    }

    def check(case: tuple[str, bytes]) -> None:
        Path(case[0]).write_bytes(case[1])
        sources[case[0]][1](Path(case[0]))

    cases = st.one_of(*(st.tuples(st.just(name), damaged(content)) for name, (content, _) in sources.items()))
    told(tally, *faults(check, cases, 5000 if full else 150, *sources))
