"""The page: what is on it, what must never be, and what is refused."""

import csv
import json
import math
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib")

from hetfed_lightning.cli.outcomes import Arm, Outcome, write_comparison
from hetfed_lightning.cli.report import page, read_subject
from hetfed_lightning.cli.run import run
from hetfed_lightning.logs.run_record import FILE, Record, RecordError

HOSTILE = "</pre><script>alert('x')</script><img src=http://evil.example/x onerror=alert(1)> & $x_1$"


def role(name: str, other: str) -> dict[str, Any]:
    return {
        "architecture": "MLPBackbone + Linear", "optimizer": "SGD, lr 0.1", "weights": 43, "shared_bytes": 1500,
        "shared_with": [other], "examples": 1234, "local_epochs": 1, "joins_at": 0, "task": "multiclass",
        "headline": "accuracy", "higher_is_better": True,
    }  # fmt: skip


def record(**changes: Any) -> Record:
    history = [
        {
            "round": number,
            "values": {
                "val_accuracy/a": 0.5 + number / 10, "val_accuracy/b": 0.25, "val_global_accuracy/a": 0.4,
                "val_global_accuracy/b": 0.3, "federation/bytes_up": 3000.0, "federation/bytes_down": 1500.0,
            },
        }
        for number in (1, 2)
    ]  # fmt: skip
    made = Record(
        "trial", "9.9", "seed: 3", seed=3, rounds=2, finished=True, total=2, history=history,
        participants={"a": role("a", "b"), "b": role("b", "a")}, label_counts={"a": [3, 0], "b": [1, 2]},
        test={"test_accuracy/a": 0.875, "test_accuracy/b": 0.125, "test_global_accuracy/a": 0.5, "test_loss/a": 1.0},
        confusions={"a": [[6, 2], [1, 1]]}, residuals={"b": [[1.0, 2.0], [1.5, 2.0]]}, where="own validation set",
        agreement={"names": ["a", "b"], "matrix": [[1.0, 0.25], [0.25, 1.0]]},
    )  # fmt: skip
    return replace(made, **changes)


def brief(**changes: Any) -> Record:
    """With few figures, each of which takes a tenth of a second."""
    return record(label_counts={}, confusions={}, residuals={}, agreement={}, **changes)


def reported(folder: Path, made: Record) -> str:
    made.write(folder)
    return page([read_subject(folder)])


class Read(HTMLParser):
    """Checks that tags are closed in order, and keeps attributes and text."""

    VOID = frozenset({"meta", "br", "img", "link"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.tags: Counter[str] = Counter()
        self.words: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, key, value or "") for key, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, key, value or "") for key, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data.strip())


def test_everything_is_on_the_page(tmp_path: Path) -> None:
    found = Read(reported(tmp_path, record()))
    words = " ".join(found.words)
    for expected in (
        "trial", "2 participants, 2 rounds, seed 3.", "seed: 3", "MLPBackbone + Linear", "1.5 kB with b", "1,234",
        "In all 6.0 kB up, 3.0 kB down.", "worst", "Test sets; own",
    ):  # fmt: skip
        assert expected in words
    # By hand: own .875 and .125, mean .5.
    for cell in ("0.875", "0.125", "0.500"):
        assert cell in found.words
    # Labels, scatter, own and global curves, bytes, agreement, confusion, residuals.
    assert found.tags["figure"] == found.tags["svg"] == 8
    assert found.words.index("worst") > found.words.index("b")
    # Letters stay letters, so that they can be read, searched and scaled.
    assert found.tags["text"] > 50
    assert "hospital" not in words


def test_nothing_comes_from_elsewhere_and_every_figure_is_described(tmp_path: Path) -> None:
    content = reported(tmp_path, record())
    found = Read(content)
    for tag, key, value in found.attributes:
        if key in {"src", "href", "xlink:href", "action", "data", "srcset"}:
            # The cells of a matrix are pixels, which stand in the page as well.
            assert value.startswith(("#", "data:image/png;base64,")), (tag, key, value)
        assert not key.startswith("on")
    assert not {"script", "link", "img", "iframe", "object", "base"} & set(found.tags)
    assert not re.search(r"@import|url\((?!#)", content)
    labels = [value for tag, key, value in found.attributes if (tag, key) == ("svg", "aria-label")]
    assert len(labels) == found.tags["svg"]
    assert all(len(label) > 20 for label in labels)
    ids = [value for _, key, value in found.attributes if key == "id"]
    assert len(ids) == len(set(ids))
    used = [value[1:] for _, key, value in found.attributes if "href" in key and value.startswith("#")]
    assert set(used) | set(re.findall(r"url\(#([^)]+)\)", content)) <= set(ids)


def test_what_files_say_never_becomes_markup(tmp_path: Path) -> None:
    hostile = record(
        name=HOSTILE, config=HOSTILE, version=HOSTILE, where=HOSTILE,
        participants={HOSTILE: role("a", HOSTILE) | {"architecture": HOSTILE, "optimizer": HOSTILE}},
        label_counts={HOSTILE: [1, 2]}, confusions={HOSTILE: [[1, 0], [0, 1]]}, residuals={HOSTILE: [[1.0], [1.0]]},
        agreement={"names": [HOSTILE, "b"], "matrix": [[1.0, 0.5], [0.5, 1.0]]},
        history=[{"round": 1, "values": {f"val_accuracy/{HOSTILE}": 0.5}}], test={},
    )  # fmt: skip
    content = reported(tmp_path, hostile)
    assert "<script" not in content
    assert "<img" not in content
    found = Read(content)
    assert not any(key.startswith("on") for _, key, _ in found.attributes)
    assert HOSTILE in found.words


def test_a_comparison_has_gains_with_intervals(tmp_path: Path) -> None:
    # Own gains of a: +.1 and +.3 (interval -1.071 to 1.471, as in test_outcomes); b lost .1 in both.
    figures: list[tuple[int, Arm, str, float]] = [
        (0, "federation", "a", 0.6), (0, "local_only", "a", 0.5), (0, "federation", "b", 0.4),
        (0, "local_only", "b", 0.5), (1, "federation", "a", 0.8), (1, "local_only", "a", 0.5),
        (1, "federation", "b", 0.4), (1, "local_only", "b", 0.5),
    ]  # fmt: skip
    outcomes = [
        Outcome(arm, seed, name, metric, value, math.nan, True, metric == "accuracy")
        for metric in ("accuracy", "f1")
        for seed, arm, name, value in figures
    ]
    write_comparison(outcomes, tmp_path / "compared")
    for arm in ("federation", "local_only"):
        for seed in (0, 1):
            brief(arm=arm, seed=seed).write(tmp_path / "compared" / "runs" / f"{arm}_seed_{seed}")
    found = Read(page([read_subject(tmp_path / "compared")]))
    assert "+0.200 [-1.071, +1.471]" in found.words
    assert "-0.100 [-0.100, -0.100]" in found.words
    assert any(word.endswith("50% of participants harmed") for word in found.words)
    assert "By f1" in found.words
    assert "local only, mean" in found.words  # a line in the curves


def test_who_was_left_out_is_told(tmp_path: Path) -> None:
    entry = {"round": 7, "participant": "b", "reason": "its weights are not finite"}
    found = Read(reported(tmp_path, brief(left_out=[entry])))
    assert {"Left out", "7", "its weights are not finite"} <= set(found.words)
    assert "Left out" not in Read(reported(tmp_path, brief())).words


def test_runs_stand_side_by_side_under_names_of_their_own(tmp_path: Path) -> None:
    for name in ("one", "two"):
        brief(history=[]).write(tmp_path / name)
    brief(test={}).write(tmp_path / "untested")
    found = Read(page([read_subject(tmp_path / name) for name in ("one", "two", "untested")]))
    assert {"trial (1)", "trial (2)", "trial (3)", "Side by side", "accuracy (validation)"} <= set(found.words)


def test_a_run_that_measured_nothing_has_a_page(tmp_path: Path) -> None:
    bare = Record("bare", "1", rounds=5)
    assert "Nobody has been measured" in reported(tmp_path, bare)
    assert "had not come to its end: 0 rounds" in reported(tmp_path, bare)


def test_a_headline_that_nobody_has_leaves_the_other_metrics(tmp_path: Path) -> None:
    words = " ".join(Read(reported(tmp_path, brief(test={"test_f1/a": 0.375, "test_f1/b": 0.625}))).words)
    assert "Nobody has been measured by accuracy." in words
    for cell in ("By f1", "0.375", "0.500"):
        assert cell in words


def test_the_command(tmp_path: Path) -> None:
    brief(history=[]).write(tmp_path / "run")
    assert run(["report", str(tmp_path / "run"), "-o", str(tmp_path / "new" / "page.html"), "--title", "For you"]) == 0
    assert (tmp_path / "new" / "page.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


@pytest.mark.parametrize("made", ["nothing", "damaged", "no_such_folder", "half_compared"])
def test_what_cannot_be_shown_is_refused(tmp_path: Path, made: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    if made != "no_such_folder":
        folder.mkdir()
    if made == "damaged":
        (folder / FILE).write_text(json.dumps({"format": 1}))
    if made == "half_compared":
        write_comparison([Outcome("federation", 0, "a", "accuracy", 0.5, 0.5)], folder)
    assert run(["report", str(folder), "-o", str(tmp_path / "page.html")]) == 2
    told = capsys.readouterr().err
    assert str(folder) in told
    assert ("damaged" if made == "damaged" else "there is no record of a run") in told
    assert not (tmp_path / "page.html").exists()


def test_a_damaged_table_is_told_by_its_line(tmp_path: Path) -> None:
    with (tmp_path / "outcomes.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["arm", "seed"], ["federation", "first"]])
    with pytest.raises(RecordError, match=r"outcomes\.csv, line 2: the table is damaged"):
        read_subject(tmp_path)


@pytest.mark.parametrize(
    "content", [b"\xff\xfe", b'arm,seed\n"open', b"arm\n" + b"x" * 200_000, b"arm,seed\nfederation,\0"]
)
def test_a_table_that_is_none_is_refused_by_its_file(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "outcomes.csv").write_bytes(content)
    with pytest.raises(RecordError, match=r"outcomes\.csv.*the table is damaged"):
        read_subject(tmp_path)
