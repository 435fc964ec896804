"""Configurations with anything in them: exit code 2 with a sentence, or a run; nothing else."""

import io
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hetfed_lightning.cli.run import run
from tests.cli.commands import tiny
from tests.cli.conftest import _process_before_a_command  # noqa: F401 - takes back what a command leaves
from tests.conftest import Tally
from tests.inputs.bare import is_bare
from tests.security.watch import watched

pytestmark = [pytest.mark.promise("fuzzed"), pytest.mark.filterwarnings("ignore")]

SECONDS = 60
VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 2, 7, 3.5, -0.0, 1e-300, 1e300, 10**30, -(10**30), float("nan"), float("inf"),
    "", " ",
    "x", "0", "null", "two words", "\x00", "\u202e", "a.b.c", "1e3", "../../etc/passwd", "http://127.0.0.1:9/x", "{}",
    "[", "torch.nn.Linear", "torch.nn", "hetfed_lightning.Participant", "os.system", [], {}, [[]], [None], [1, "a"],
    {"a": None}, {"class_path": None}, {"class_path": "torch.nn.Linear"}, {"class_path": "torch.nn.Linear",
    "init_args": 3},
    {"class_path": "os.system", "init_args": {"command": "touch executed"}}, {"init_args": {}}, {"count": 3}, {1: 2},
    {"class_path": "hetfed_lightning.Participant", "init_args": {"backbone": []}},
]  # fmt: skip
SNIPPETS = [
    "x: !!python/object/apply:os.system ['touch executed']", "x: !!python/name:os.system", "x: !!binary aGk=",
    "x: !!set {a}",
    "x: 2020-01-01", "x: !!omap [a: 1]", "x: &a [*a]", "<<: {seed_everything: 3}", "<<: 3",
    "seed_everything: 1", "? [1]\n: 2",
    "seed_everything: 1\nseed_everything: 2", "x: *missing", "\tx: 1", "x: 'open", "--- \nx: 1", "%YAML 9.9",
    "x: !!int abc",
    "seed_everything: 0o17", "seed_everything: 0x1F", "seed_everything: 1_0", "seed_everything: 1:30",
    "trainer: &t {<<: *t}",
    "x: !!timestamp x", "x: !!bool x", 'x: !!int ""', '!!bool x: 1', 'x: !!map x', 'x: "\\ud83d\\ude00"',
    'x: "\\ud83d"',
    'x: "\\U00110000"', "x: 010", "no: 1", "001: 1", "x: =", "x: {lr=0.1}", "model: {a: {class_path: X}}",
    "trainer: {callbacks: [{a: 1}]}", "data: [1]",
    "threads: 1e0", "seed_everything: yes", "x: |\n  a\n b", "\ufeffx: 1", "x: \ud7ff", "x: " + "[" * 60 + "]" * 60,
]  # fmt: skip


def paths(tree: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where every value of a configuration stands."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, inside in items:
        yield (*above, key)
        yield from paths(inside, (*above, key))


@st.composite
def changed(draw: st.DrawFn) -> str:
    """A configuration that is right but for some changes, as the text of a file."""
    config = deepcopy(RIGHT)
    for _ in range(draw(st.integers(1, 3))):
        where = draw(st.sampled_from(list(paths(config))))
        inside = config
        for key in where[:-1]:
            inside = inside[key]
        last, kind = (
            where[-1],
            draw(st.sampled_from(["value", "value", "value", "drop", "rename", "list", "deep", "twice"])),
        )
        if kind == "value":
            inside[last] = deepcopy(draw(st.sampled_from(VALUES)))
        elif kind == "drop":
            del inside[last]
        elif kind == "rename" and isinstance(inside, dict):
            inside[draw(st.text("abcdefgh_. ", min_size=1, max_size=6))] = inside.pop(last)
        elif kind == "list":
            inside[last] = [inside[last]]
        elif kind == "deep":
            inside[last] = {"class_path": "torch.nn.Linear", "init_args": {"in_features": deepcopy(inside[last])}}
        elif isinstance(inside, dict):
            inside[f"{last}_again"] = inside[last]
        if not list(paths(config)):
            break
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=draw(st.booleans()))
    return f"{text}{draw(st.sampled_from(SNIPPETS))}\n" if draw(st.integers(0, 4)) == 0 else text


OF_THE_PROGRAM = (
    "site-packages", "shows where", "unhashable", "object has no attribute", "is not iterable", "not subscriptable",
    "Exception raised from", "positional argument", "not JSON serializable", "recursion",
)  # fmt: skip
LAST: list[str] = []
RIGHT: dict[str, Any] = {}


@contextmanager
def in_time() -> Iterator[None]:
    def late(*_: Any) -> None:
        raise TimeoutError(f"more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def answer(text: str) -> str | None:
    """What is wrong with how a configuration was dealt with, or None."""
    Path("config.yaml").write_text(text, encoding="utf-8", errors="replace")
    out = io.StringIO()
    with watched() as events, in_time(), redirect_stdout(out), redirect_stderr(out):
        try:
            code: Any = run(["fit", "-c", "config.yaml", "--trainer.fast_dev_run", "1", "--trainer.logger", "false"])
        except Exception as error:  # noqa: BLE001 - which one is the question
            code = 0 if not is_bare(error, ("hospital_", "config.yaml", "Trainer(")) else repr(error)
    LAST[:] = [out.getvalue()]
    told = re.search(r"hetfed: error: (.*)", out.getvalue(), re.DOTALL)
    if events or Path("executed").exists():
        return f"ran: {events}"
    if code not in {0, 2}:
        return f"bare: {code}"
    if code == 2 and (told is None or len(told[1]) < 10 or any(words in told[1] for words in OF_THE_PROGRAM)):
        return f"says: {told and told[1]}"
    return None


@pytest.mark.parametrize("value", [{"class_path": ["a"]}, {"class_path": {"a": 1}}, {"class_path": None}])
def test_what_was_found_in_a_configuration(value: Any) -> None:
    config = tiny()
    config["model"]["participants"]["hospital_a"]["init_args"]["head"] = value
    assert answer(yaml.safe_dump(config)) is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"in_features": 4, "hidden": None, "out_features": 5}, "null stands under backbone.hidden"),
        (None, "participant 'hospital_a'"),  # no arguments, and so a width that the data have not
    ],
)
def test_nothing_where_something_has_to_stand(arguments: Any, words: str) -> None:
    config = tiny()
    config["model"]["participants"]["hospital_a"]["init_args"]["backbone"]["init_args"] = arguments
    assert answer(yaml.safe_dump(config)) is None
    assert words in LAST[0]


def test_anything_in_a_configuration(full: bool, tally: Tally) -> None:
    RIGHT.update(tiny())
    tried, bad = [0], []

    @settings(max_examples=1500 if full else 8, suppress_health_check=list(HealthCheck), database=None)
    @given(changed())
    def check(text: str) -> None:
        tried[0] += 1
        if (wrong := answer(text)) is not None:
            bad.append((wrong, text))

    check()
    tally(tried=tried[0], held=tried[0] - len(bad))
    assert not bad, "\n\n".join(f"{wrong}\n{text}" for wrong, text in bad[:5])
