"""Every bad input that `hetfed fit` can be given: exit code 2 before training, by participant, file or key.

One row is one fault: what is changed in a configuration that is right, and the words that tell a reader who, what was
found and what was expected.
"""

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from hetfed_lightning.cli.run import run as command
from hetfed_lightning.federation.training_watch import watch_training
from tests.cli.commands import hetfed, member, participant, put, tiny, written
from tests.cli.conftest import _process_before_a_command  # noqa: F401 - takes back what a command leaves

Change = Callable[[dict[str, Any]], Any]
A = "model.participants.hospital_a.init_args"
DISTILLATION = "hetfed_lightning.EnsembleDistillation"
NAN, INF = float("nan"), float("inf")
HEADER = "age,dose,outcome\n"


def setting(key: str, value: Any) -> Change:
    """A key set to a value that it cannot have."""
    return lambda config: put(config, key, value)


def pool(**arrays: Any) -> Change:
    """Other data in the pool that is dealt out; its arrays are ``x`` and ``y``."""

    def change(config: dict[str, Any]) -> None:
        del config
        with np.load("pool.npz") as before:
            whole = {name: before[name] for name in before.files}
        np.savez("pool.npz", **{name: make(whole[name]) for name, make in arrays.items()} | {
            name: values for name, values in whole.items() if name not in arrays
        })  # fmt: skip

    return change


def at(place: int | tuple[int, ...], value: Any) -> Callable[[Any], Any]:
    """A copy of an array with one other value."""

    def changed(values: Any) -> Any:
        values = values.copy()
        values[place] = value
        return values

    return changed


def distilled(**init_args: Any) -> Change:
    """Distillation, with a public set as it is."""
    return setting("trainer.callbacks.0", {"class_path": DISTILLATION, "init_args": init_args})


def both(*changes: Change) -> Change:
    """One change after another."""
    return lambda config: [change(config) for change in changes]


def table(content: str | bytes | None, **init_args: Any) -> Change:
    """One CSV file for each participant; the first one's is ``content``, or missing if that is None."""

    def change(config: dict[str, Any]) -> None:
        right = HEADER + "".join(f"{row},{row % 5},{row % 3}\n" for row in range(12))
        Path("b.csv").write_text(right, encoding="utf-8")
        if content is not None:
            Path("a.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
        settings = {"path": {"hospital_a": "a.csv", "hospital_b": "b.csv"}, "target": "outcome", "batch_size": 4}
        config["data"] = {"class_path": "hetfed_lightning.data.TableDataModule", "init_args": settings | init_args}
        for name in ("hospital_a", "hospital_b"):
            member(config, name)["backbone"]["init_args"]["in_features"] = 2

    return change


ROWS = "".join(f"{row},{row % 5},{row % 3}\n" for row in range(12))
NORMALISED = {
    "backbone": {"class_path": "torch.nn.BatchNorm1d", "init_args": {"num_features": 4}},
    "head": {"class_path": "torch.nn.Linear", "init_args": {"in_features": 4, "out_features": 3}},
}
IMAGES = {"class_path": "hetfed_lightning.backbones.ConvBackbone", "init_args": {"width": 4, "out_features": 5}}

DATA: list[tuple[str, Change, list[str]]] = [
    ("image size", both(pool(x=lambda x: np.zeros((90, 1, 8, 8), "float32")), setting(f"{A}.backbone", IMAGES)),
     ["participant 'hospital_a' cannot take its training data", "(1, 1, 8, 8)", "image_size=8"]),
    ("feature width", setting(f"{A}.backbone.init_args.in_features", 7),
     ["participant 'hospital_a' cannot take its training data", "(1, 4)", "set in_features=4"]),
    ("head on another backbone", setting(f"{A}.head.init_args.in_features", 6), ["participant 'hospital_a'", "(1, 4)"]),
    ("label out of range", pool(y=at(5, 7)), ["participant 'hospital_b': expected labels from 0 to 2, got 7 to 7"]),
    ("negative label", pool(y=at(5, -1)), ["participant 'hospital_b': expected labels from 0 to 2, got -1 to -1"]),
    ("float label", pool(y=lambda y: y + 0.5),
     ["participant 'hospital_a'", "expected integer class labels, got float32"]),
    ("text as labels", pool(y=lambda y: y.astype(str)), ["pool.npz", "expected an array of numbers, got dtype <U"]),
    ("no samples", pool(x=lambda x: x[:0], y=lambda y: y[:0]), ["pool.npz, 'x'", "expected at least one example"]),
    ("one sample for two", pool(x=lambda x: x[:1], y=lambda y: y[:1]),
     ["leave nothing of 1 examples for the participants"]),
    ("more labels than samples", pool(y=lambda y: y[:80]), ["pool.npz, 'x'", "inputs has 90, targets has 80"]),
    ("less than a batch", both(setting("data.init_args.batch_size", 64), setting("data.init_args.drop_last", True)),
     ["participant 'hospital_a'", "make no batch of 64 with drop_last=True"]),
    ("NaN features", pool(x=at((3, 2), NAN)), ["pool.npz, 'x'", "1 value(s) that are not finite", "index (3, 2)"]),
    ("infinite features", pool(x=at((3, 2), INF)), ["pool.npz, 'x'", "1 value(s) that are not finite", "(inf)"]),
    ("a batch of one",
     both(setting(A, participant(**NORMALISED)["init_args"]), setting("data.init_args.batch_size", 1)),
     ["participant 'hospital_a'", "leave a batch of one, which its BatchNorm cannot normalise"]),
]  # fmt: skip

SETTINGS: list[tuple[str, Change, list[str]]] = [
    ("unknown key of a participant", setting(f"{A}.local_epoch", 2), ["'hospital_a'", "did you mean 'local_epochs'?"]),
    ("unknown key of the Trainer", setting("trainer.max_epoch", 2), ["did you mean 'max_epochs'?"]),
    ("unknown key of the data", setting("data.init_args.batch_siz", 2), ["did you mean 'batch_size'?"]),
    ("unknown key at the top", setting("modle", {"seed": 1}), ["modle"]),
    ("wrong type", setting(f"{A}.local_epochs", "two"), ["participant 'hospital_a'", "local_epochs", "two"]),
    ("wrong type of a list", setting(f"{A}.backbone.init_args.hidden", "wide"), ["'hospital_a'", "hidden", "wide"]),
    ("a date", setting("model.seed", "2020-01-01"), ["model.seed"]),
    ("temperature 0", distilled(temperature=0), ["expected a finite temperature above 0, got 0.0"]),
    ("temperature below 0", distilled(temperature=-2.0), ["expected a finite temperature above 0, got -2.0"]),
    ("infinite temperature", distilled(temperature=INF), ["\"temperature\"", "Given value: Infinity"]),
    ("no temperature", distilled(temperature=NAN), ["\"temperature\"", "Given value: NaN"]),
    ("no public set", both(distilled(), setting("data.init_args.public_size", 0)), ["needs a public set"]),
    ("different label spaces", both(distilled(), setting(f"{A}.head.init_args.out_features", 4)),
     ["participant 'hospital_b' has 3 multiclass output(s), participant 'hospital_a' has 4"]),
    ("nothing in common", both(*(setting(f"{A}.{key}", value) for key, value in (
        ("backbone.init_args.hidden", [7]), ("backbone.init_args.out_features", 7),
        ("head.init_args.in_features", 7)))),
     ["no two participants share a key of one shape"]),
    ("a newcomer's head", both(distilled(), setting("model.participants.newcomer", participant(joins_at=1, head={
        "class_path": "torch.nn.Linear", "init_args": {"in_features": 5, "out_features": 4}}))),
     ["participant 'newcomer' has 4 multiclass output(s), participant 'hospital_a' has 3"]),
    ("shared matches nothing", setting(f"{A}.shared", ["bakbone"]),
     ["'hospital_a'", "shared='bakbone' matches no key"]),
    ("batch_size 0", setting("data.init_args.batch_size", 0), ["batch_size: expected an integer of at least 1, got 0"]),
    ("batch_size beyond counting", setting("data.init_args.batch_size", 10**30), ["batch_size: expected at most"]),
    ("a width below 0", setting(f"{A}.head.init_args.out_features", -3), ["participant 'hospital_a'", "-3"]),
    ("a width beyond memory", setting(f"{A}.backbone.init_args.hidden", [10**13]),
     ["participant 'hospital_a'", "memory"]),
    ("a seed below 0", setting("seed_everything", -1), ["seed_everything: expected an integer from 0 to 4294967295"]),
    ("a name that is no key", setting("model.participants", {"a b": participant()}),
     ["'a b'", "expected a name of letters"]),
]  # fmt: skip

FILES: list[tuple[str, Change, list[str]]] = [
    ("missing table", table(None), ["a.csv: no such table file"]),
    ("folder as a table", both(table(None), lambda _: Path("a.csv").mkdir()), ["a.csv: is a folder"]),
    ("empty table", table(""), ["a.csv: the file is empty, expected a header and rows"]),
    ("header alone", table(HEADER), ["a.csv: the table has a header but no rows"]),
    ("Latin-1", table(HEADER.replace("age", "\xe4ge").encode("latin-1") + ROWS.encode()), ["a.csv: not UTF-8", "0xe4"]),
    ("UTF-16", table((HEADER + ROWS).encode("utf-16")), ["a.csv: not UTF-8"]),
    ("zero bytes", table((HEADER + ROWS).encode() + b"\0\0\0"), ["a.csv"]),
    ("longer rows", table(HEADER + ROWS + "1,2,0,9\n"), ["a.csv: cannot be read as a table"]),
    ("open quotes", table(HEADER + '"1,2,0\n' + ROWS), ["a.csv"]),
    ("text among numbers", table(HEADER + "old,2,0\n" + ROWS), ["a.csv", "'age'", "'old' in row 1"]),
    ("a gap", table(HEADER + ",2,0\n" + ROWS), ["a.csv", "missing values", "'age' (1)"]),
    ("beyond float32", table(HEADER + "1e300,2,0\n" + ROWS), ["a.csv", "too large for float32", "'age' (1)"]),
    ("fractional class", table(HEADER + "1,2,0.5\n" + ROWS), ["a.csv", "0.5"]),
    ("a column twice", table("age,age,outcome\n" + ROWS), ["a.csv: column 'age' occurs twice in the header"]),
    ("unknown target", table(HEADER + ROWS, target="outcom"),
     ["a.csv: has no column 'outcom'; did you mean 'outcome'?"]),
    ("missing archive", setting("data.init_args.path", "none.npz"), ["none.npz: no such npz file"]),
    ("truncated archive", lambda _: Path("pool.npz").write_bytes(Path("pool.npz").read_bytes()[:600]), ["pool.npz"]),
    ("pickled objects", pool(x=lambda x: np.array([{}] * len(x), dtype=object)), ["'x' holds pickled Python objects"]),
]  # fmt: skip


BY_DEFAULT = frozenset(
    {
        *("image size", "label out of range", "a batch of one", "a width below 0", "a seed below 0"),
        *("batch_size beyond counting", "missing table", "Latin-1", "zero bytes", "pickled objects"),
    }
)
"""What is tried by every run of the tests. The others are refused in Python by tests that every run has."""


def rows() -> Iterator[Any]:
    of_data, of_settings = pytest.mark.promise("bad data"), pytest.mark.promise("bad settings")
    for of_kind, cases in ((of_data, DATA), (of_settings, SETTINGS), (pytest.mark.promise("bad files"), FILES)):
        for name, change, words in cases:
            marks = [of_kind] if name in BY_DEFAULT else [of_kind, pytest.mark.slow]
            yield pytest.param(change, words, id=name, marks=marks)


@pytest.mark.parametrize(("change", "words"), list(rows()))
def test_it_is_refused_before_training(capsys: pytest.CaptureFixture[str], change: Change, words: list[str]) -> None:
    config = tiny()
    change(config)
    with watch_training() as watch:
        ended = hetfed(capsys, "fit", "-c", written(config))
    assert ended.code == 2, ended
    assert ended.err.count("hetfed: error: ") == 1
    for word in words:
        assert word in ended.err
    assert "Traceback" not in ended.err
    assert "site-packages" not in ended.err
    assert not watch.begun


@pytest.mark.slow
@pytest.mark.promise("bad data")
def test_one_class_alone_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    config = tiny()
    pool(y=lambda y: y * 0 + 1)(config)
    ended = hetfed(capsys, "fit", "-c", written(config))
    assert ended.code == 0
    assert "participant 'hospital_a': its 22 training examples are all of class 1" in ended.out


CONFIGS: list[tuple[str, bytes | None, list[str]]] = [
    ("missing", None, ["config.yaml: no such configuration file"]),
    ("empty", b"", ["config.yaml: expected keys such as trainer, model and data"]),
    ("Latin-1", "model: {a: \xe4}".encode("latin-1"), ["config.yaml: expected UTF-8 text, found byte 0xe4 at 11"]),
    ("no YAML", b"model: [", ["config.yaml: not valid YAML"]),
    ("a key twice", b"model: {}\ndata: {}\nmodel: {}",
     ["config.yaml: the key 'model' stands in line 1 and again in line 3"]),
    ("a participant twice", b"model:\n  participants:\n    a: {}\n    a: {}",
     ["the key 'a' stands in line 3 and again in line 4"]),
    ("a date", b"model: {seed: 2020-01-01}", ["config.yaml, model.seed", "found a date"]),
    ("a set", b"model: !!set {a, b}", ["config.yaml, model", "found a set"]),
    ("a list as a key", b"{[a]: 1}", ["config.yaml, line 1: expected text as a key"]),
    ("no date", b"model: 2020-99-99", ["config.yaml, line 1: '2020-99-99' cannot be read"]),
    ("a number without end", b"model: " + b"9" * 5000, ["config.yaml, line 1"]),
    ("depth without end", b"[" * 1100, ["config.yaml: expected at most 50 levels"]),
    ("an anchor in itself", b"model: &a [*a]", ["config.yaml: not valid YAML: found unconstructable recursive node"]),
    ("a Python object", b"model: !!python/object/apply:os.system [x]", ["config.yaml: not valid YAML", "os.system"]),
    ("repeated repetitions", b"a0: &a0 [0, 0]\n" + b"".join(
        b"a%d: &a%d [%s]\n" % (i, i, b", ".join([b"*a%d" % (i - 1)] * 9)) for i in range(1, 9)),
     ["config.yaml: expected at most 100000 values"]),
    ("merged merges", b"a0: &a0 {k: 0}\n" + b"".join(
        b"a%d: &a%d {<<: [%s]}\n" % (i, i, b", ".join([b"*a%d" % (i - 1)] * 9)) for i in range(1, 9)),
     ["config.yaml, line 7: more than 100000 keys are merged here"]),
]  # fmt: skip


@pytest.mark.promise("bad files")
@pytest.mark.parametrize(("content", "words"), [pytest.param(*row[1:], id=row[0]) for row in CONFIGS])
def test_a_configuration_that_is_none(
    capsys: pytest.CaptureFixture[str], content: bytes | None, words: list[str]
) -> None:
    if content is not None:
        Path("config.yaml").write_bytes(content)
    ended = hetfed(capsys, "fit", "-c", "config.yaml")
    assert ended.code == 2
    for word in words:
        assert word in ended.err


def renamed(config: dict[str, Any]) -> None:
    everyone = config["model"]["participants"]
    everyone["clinic"] = everyone.pop("hospital_b")


TWINS = pytest.mark.slow
"""For what tests in Python hold as well."""

CHECKPOINTS: list[tuple[str, Change, list[str]]] = [
    ("added", setting("model.participants.newcomer", participant()), ["Not in it: newcomer"]),
    ("removed", lambda config: config["model"]["participants"].pop("hospital_b"), ["Missing here: hospital_b"]),
    ("renamed", renamed, ["If 'hospital_b' was renamed to 'clinic', rename it back"]),
    ("another architecture", setting(f"{A}.backbone.init_args.hidden", [7]),
     ["participant 'hospital_a' has backbone.hidden.0.weight of shape (7, 4), the checkpoint of shape (6, 4)"]),
    ("truncated", lambda _: Path("run.ckpt").write_bytes(Path("run.ckpt").read_bytes()[:3000]),
     ["run.ckpt cannot be read"]),
    ("empty", lambda _: Path("run.ckpt").write_bytes(b""), ["run.ckpt cannot be read"]),
    ("missing", lambda _: Path("run.ckpt").unlink(), ["no such file: run.ckpt"]),
    ("nobody's", lambda _: torch.save({"state_dict": {}}, "run.ckpt"),
     ["run.ckpt cannot be read", "there is no 'pytorch-lightning_version' in it"]),
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the federation of :func:`tests.cli.commands.tiny`."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.chdir(folder)
        config = tiny() | {"seed_everything": 0}
        saving = {
            "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
            "init_args": {"dirpath": ".", "filename": "run"},
        }
        config["trainer"] |= {"enable_checkpointing": True}
        config["trainer"]["callbacks"].append(saving)
        Path("config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
        assert command(["fit", "-c", "config.yaml"]) == 0
    return folder / "run.ckpt"


@pytest.mark.promise("other checkpoint")
@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param(*row[1:], id=row[0], marks=[] if row[0] in {"renamed", "nobody's"} else TWINS)
        for row in CHECKPOINTS
    ],
)
def test_a_checkpoint_of_another_federation(
    capsys: pytest.CaptureFixture[str], run: Path, change: Change, words: list[str]
) -> None:
    Path("run.ckpt").write_bytes(run.read_bytes())
    config = tiny()
    change(config)
    ended = hetfed(capsys, "fit", "-c", written(config), "--ckpt_path", "run.ckpt", "--trainer.max_epochs", "2")
    assert ended.code == 2, ended
    for word in words:
        assert word in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
@pytest.mark.slow
@pytest.mark.promise("other checkpoint")
def test_an_order_of_ones_own(capsys: pytest.CaptureFixture[str], run: Path) -> None:
    config = tiny(("hospital_b", "hospital_a"))
    ended = hetfed(capsys, "fit", "-c", written(config), "--ckpt_path", run, "--trainer.max_epochs", "2")
    assert ended.code == 0
    assert "each takes its own state by name" in ended.out
