"""No value in a configuration, wherever it stands, starts a program, imports what it may not or reaches an address."""

import ast
import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Iterator
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import torchmetrics
import yaml
from jsonargparse import ArgumentParser
from jsonargparse._common import denying_import_path_entry
from lightning.pytorch import callbacks, loggers, plugins, profilers, strategies
from torch import nn

import hetfed_lightning
from hetfed_lightning.cli.allowlist import ALLOWED, DENIED, restrict_imports, restricted_imports
from hetfed_lightning.cli.configs import ConfigError
from hetfed_lightning.cli.export import load_participant
from hetfed_lightning.cli.forbidden_values import FOLDERS
from tests.cli.commands import hetfed, participant, put, tiny, written
from tests.cli.conftest import _process_before_a_command  # noqa: F401 - takes back what a command leaves
from tests.conftest import Tally
from tests.security.watch import watched

pytestmark = pytest.mark.promise("config code")

MODULE = "hostile_package"
SHELL = {"class_path": "os.system", "init_args": {"command": "touch executed"}}
IMPORTED = {"class_path": f"{MODULE}.Net", "init_args": {"in_features": 4}}
BY_NAME = {"class_path": "torch.nn.attention._fa3._fa3_import_module", "init_args": {"module_path": MODULE}}
FETCHED = {"class_path": "torch.hub.load", "init_args": {"repo_or_dir": "somebody/something", "model": "x"}}
PAYLOADS: tuple[Any, ...] = (
    SHELL, IMPORTED, BY_NAME, FETCHED,
    {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", "executed"]}},
    {"class_path": "runpy.run_path", "init_args": {"path_name": f"{MODULE}.py"}},
    {"class_path": "builtins.eval", "init_args": {"source": f"__import__('{MODULE}')"}},
    {"class_path": "hetfed_lightning.data.optional.import_optional", "init_args": {"module": MODULE, "install": ""}},
    {"class_path": "torch.utils.cpp_extension.load", "init_args": {"name": "x", "sources": ["x.cpp"]}},
    f"{MODULE}.Net", "os.system", [SHELL], [f"{MODULE}.Net"], {"a": IMPORTED}, {"a": [SHELL]},
    "http://127.0.0.1:9/x.yaml", "ftp://127.0.0.1:9/x.yaml", "simplecache::http://127.0.0.1:9/x.yaml",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _hostile_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / f"{MODULE}.py").write_text(
        "import pathlib, torch\npathlib.Path('executed').touch()\nclass Net(torch.nn.Linear):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop(MODULE, None)


def harmed(events: list[str]) -> bool:
    return bool(events) or MODULE in sys.modules or Path("executed").exists()


def below(package: Any) -> Iterator[type]:
    """Public classes of a package and of the modules below it that are open."""
    for one in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not any(f"{one.name}.".startswith(f"{closed}.") for closed in DENIED):
            module = importlib.import_module(one.name)
            for name, found in vars(module).items():
                if inspect.isclass(found) and found.__module__ == one.name and not name.startswith("_"):
                    yield found


@cache
def classes() -> list[type]:
    """Every class that a configuration may name."""
    others = (callbacks, loggers, plugins, profilers, strategies, nn, torch.optim, torch.optim.lr_scheduler,
              torchmetrics.classification, torchmetrics.regression)  # fmt: skip
    named = [one for module in others for one in vars(module).values() if inspect.isclass(one)]
    return list(dict.fromkeys([L.Trainer, *below(hetfed_lightning), *named]))


def parameters(one: type) -> list[str]:
    found: dict[str, None] = {}
    for base in inspect.getmro(one):
        if "__init__" in vars(base) and base is not object:
            kinds = inspect.signature(base.__init__).parameters.values()  # type: ignore[misc]
            found |= {p.name: None for p in kinds if p.name != "self" and p.kind != p.VAR_POSITIONAL}
    return list(found)


def tried_at(one: type, parameter: str, payload: Any) -> None:
    """Have a parameter of a class parsed and, if it was taken, the class made."""
    parser = ArgumentParser(exit_on_error=False)
    try:
        parser.add_subclass_arguments(one, "x", required=False)
        settings = {"class_path": f"{one.__module__}.{one.__qualname__}", "init_args": {parameter: payload}}
        parser.instantiate(parser.parse_object({"x": settings}))
    except (Exception, SystemExit):  # noqa: BLE001, S110 - refused: which way is told by other tests
        pass


@pytest.mark.filterwarnings("ignore")
def test_no_parameter_of_any_class_runs_anything(full: bool, tally: Tally) -> None:
    restrict_imports()
    places = [(one, parameter) for one in classes() for parameter in parameters(one)]
    cases = [(*place, payload) for payload in PAYLOADS for place in places]
    if not full:  # Every 397th: other classes with each payload.
        cases = list(islice(cases, 0, None, 397))
    bad = []
    for one, parameter, payload in cases:
        if parameter in FOLDERS and isinstance(payload, str) and "://" in payload:
            continue  # Refused before there is anything to parse; see below.
        with watched() as events:
            tried_at(one, parameter, payload)
        if harmed(events):
            bad.append((one, parameter, payload, events))
            sys.modules.pop(MODULE, None)
            Path("executed").unlink(missing_ok=True)
    tally(tried=len(cases), held=len(cases) - len(bad))
    assert len(places) > 1000
    assert not bad, bad[:5]


KEYS = (
    "trainer", "trainer.callbacks", "trainer.logger", "trainer.strategy", "trainer.plugins", "trainer.profiler",
    "trainer.precision", "model", "model.participants", "model.participants.hospital_a", "model.student",
    "model.engine", "data", "data.init_args", "data.init_args.path", "data.init_args.partition", "config", "ckpt_path",
    "weights_only", "seed_everything", "threads", "print_config", "fit", "subcommand", "allow_import", "optimizer",
)  # fmt: skip


def test_no_key_of_a_configuration_runs_anything(capsys: pytest.CaptureFixture[str], full: bool, tally: Tally) -> None:
    cases = [(key, payload) for payload in PAYLOADS for key in KEYS]
    bad = []
    for key, payload in cases if full else cases[::131]:
        config = tiny()
        put(config, key, payload)
        with watched() as events:
            ended = hetfed(capsys, "fit", "-c", written(config), "--trainer.fast_dev_run", "1")
        if harmed(events) or ended.code != 2 or "Traceback" in ended.err:
            bad.append((key, payload, ended, events))
    tried = len(cases if full else cases[::131])
    tally(tried=tried, held=tried - len(bad))
    assert not bad


def test_results_are_not_sent_to_an_address(capsys: pytest.CaptureFixture[str], tally: Tally) -> None:
    checkpoint = {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": {}}
    logger = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {}}
    places = (("trainer.default_root_dir", None), ("trainer.callbacks.0.init_args.dirpath", checkpoint),
              ("trainer.logger.init_args.save_dir", logger))  # fmt: skip
    held = 0
    for place, owner in places:
        config = tiny()
        if owner is not None:
            put(config, place.partition(".init_args")[0], owner)
        put(config, place, "ftp://127.0.0.1:9/stolen")
        with watched() as events:
            ended = hetfed(capsys, "fit", "-c", written(config))
        held += not events and f"{place}: expected a folder on this machine, got 'ftp://" in ended.err
    tally(tried=len(places), held=held)
    assert held == len(places)


@pytest.mark.parametrize("option", ["trainer", "data", "model"])
def test_no_address_is_read_by_an_option(capsys: pytest.CaptureFixture[str], option: str) -> None:
    with watched() as events:
        ended = hetfed(capsys, "fit", "-c", written(tiny()), f"--{option}", "http://127.0.0.1:9/x.yaml")
    assert ended.code == 2
    assert not events


def test_no_file_is_read_that_a_configuration_names(capsys: pytest.CaptureFixture[str], tally: Tally) -> None:
    Path("other.yaml").write_text("weights_only: false\n", encoding="utf-8")
    Path("trainer.yaml").write_text("max_epochs: 1\n", encoding="utf-8")
    Path("part.yaml").write_text("class_path: hetfed_lightning.data.IID\n", encoding="utf-8")
    places = {"config": "other.yaml", "trainer": "trainer.yaml", "data.init_args.partition": "part.yaml",
              "data": "part.yaml", "trainer.callbacks": "part.yaml", "model": "part.yaml"}  # fmt: skip
    held = 0
    for place, file in places.items():
        config = tiny()
        put(config, place, file)
        held += hetfed(capsys, "fit", "-c", written(config), "--trainer.fast_dev_run", "1").code == 2
    tally(tried=len(places), held=held)
    assert held == len(places)


def test_an_exported_participant_names_what_it_may(tally: Tally) -> None:
    Path("alone").mkdir()
    held = 0
    for payload in PAYLOADS[:9]:
        settings = participant()
        settings["init_args"]["backbone"] = payload
        Path("alone/participant.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
        with watched() as events, pytest.raises(ConfigError, match=r"alone/participant\.yaml: .*'.*' may not be named"):
            load_participant("alone")
        held += not harmed(events)
    tally(tried=9, held=held)
    assert held == 9


def test_what_was_allowed_before_is_allowed_afterwards() -> None:
    before = denying_import_path_entry("os.system"), denying_import_path_entry("json.loads")
    with restricted_imports(["mine"]):
        assert (denying_import_path_entry("json.loads"), denying_import_path_entry("mine.Net")) == ("*", None)
    assert (denying_import_path_entry("os.system"), denying_import_path_entry("json.loads")) == before


def test_what_one_command_allows_the_next_does_not() -> None:
    restrict_imports(["mine"])
    assert denying_import_path_entry("mine.Net") is None
    restrict_imports()
    assert denying_import_path_entry("mine.Net") == "mine"


CALLS = re.compile(
    r"(?<![\w.])(exec|eval|__import__)\s*\(|\b(import_module|import_optional|run_path|Popen|rmtree|unlink|urlopen|"
    r"from_pretrained|urlretrieve|load_state_dict_from_url|system)\s*\(|\bsubprocess\.|\brequests\.(get|post)|"
    r"\bpickle\.load|\btorch\.load\(|\bhub\.load|\bnltk\.download|\bos\.(remove|exec\w*)\(|\bjit\.load\("
)
LOOKED_AT = {
    "hetfed_lightning.privacy.accountant._accounting": "imports dp-accounting",
    "hetfed_lightning.privacy.dpsgd._opacus": "imports Opacus",
    "torch.nn.functional.interpolate": "imports a module of torch by a name that stands in it",
    "torch.nn.functional.max_pool3d_with_indices": "the same",
    "torch.nn.functional.pad": "the same",
    "hetfed_lightning.showcases.digits.images.load_digits_images": "imports scikit-learn",
    "hetfed_lightning.data.sources.columns.as_numbers": "imports pandas",
    "hetfed_lightning.data.sources.frames._read_parquet": "imports pyarrow",
    "hetfed_lightning.data.sources.frames.imported_pandas": "imports pandas",
    "hetfed_lightning.data.sources.frames.read_frame": "imports pandas",
    "hetfed_lightning.data.sources.queries.read_query": "imports SQLAlchemy, reads a database by SELECT alone",
}


def test_nothing_that_may_be_named_runs_files_or_fetches(tally: Tally) -> None:
    """Functions too can be named, with arguments: each that could do harm is closed, or was looked at."""
    restrict_imports()
    found = set(_calls())
    tally(tried=len(found), held=len(found & set(LOOKED_AT)))
    assert found == set(LOOKED_AT)


@pytest.mark.parametrize(
    "path",
    ["lightning.pytorch.callbacks.ModelCheckpoint._link_checkpoint", "hetfed_lightning.logs.run_record.Record.write",
     "torch.nn.attention._fa3._fa3_import_module", "hetfed_lightning.Participant.load_from_checkpoint"],
)  # fmt: skip
def test_nothing_inside_of_a_class_may_be_named(capsys: pytest.CaptureFixture[str], path: str) -> None:
    for value in (path, {"class_path": path}):
        config = tiny()
        put(config, "model.participants.hospital_a.init_args.transform", value)
        ended = hetfed(capsys, "fit", "-c", written(config))
        assert ended.code == 2
        assert f"'{path}' may not be named by a configuration: it is private, or belongs to a class" in ended.err


def _calls() -> Iterator[str]:
    """Dotted path of every open function in which something dangerous is called; methods may not be named."""
    for package in ALLOWED:
        module = importlib.import_module(package) if package.rpartition(".")[2].islower() else None
        if module is None or module.__file__ is None:
            continue
        inside = Path(module.__file__)
        files = sorted(inside.parent.rglob("*.py")) if inside.name == "__init__.py" else [inside]
        base = inside.parent.parent if inside.name == "__init__.py" else inside.parent
        for file in files:
            parts = (*package.split(".")[:-1], *file.relative_to(base).with_suffix("").parts)
            name = ".".join(parts).removesuffix(".__init__")
            source = file.read_text(encoding="utf-8")
            if denying_import_path_entry(name) is None and CALLS.search(source):
                for path in _dangerous(ast.parse(source), name):
                    if denying_import_path_entry(path) is None:
                        yield path


def _dangerous(tree: ast.AST, name: str) -> Iterator[str]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef) and CALLS.search(_code(node)):
            yield f"{name}.{node.name}"


def _code(node: ast.FunctionDef) -> str:
    """The function without its docstring."""
    body = node.body[1:] if ast.get_docstring(node) else node.body
    return "\n".join(ast.unparse(one) for one in body)
