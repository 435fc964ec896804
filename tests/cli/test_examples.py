"""Examples that come with the package: listed, copied, and named by ``hetfed:NAME``."""

import tomllib
from pathlib import Path

import pytest

from hetfed_lightning.cli.benchmark.suite import suite_of
from hetfed_lightning.cli.configs import ConfigError, load_configs
from hetfed_lightning.cli.examples import configuration_path, examples, examples_folder, summary
from hetfed_lightning.cli.join import _names_in
from tests.cli.commands import hetfed
from tests.cli.test_entry import imported_by

ROOT = Path(__file__).resolve().parents[2]
NAMES = sorted(path.stem for path in (ROOT / "configs").glob("*.yaml"))


def test_the_list_has_a_sentence_on_each(capsys: pytest.CaptureFixture[str]) -> None:
    told = " ".join(hetfed(capsys, "examples").out.split())
    assert list(examples()) == NAMES
    for name in NAMES:
        sentence = summary(examples()[name])
        assert sentence.endswith(".")
        assert len(sentence) > 20
        assert f"{name} {sentence}" in told


def test_a_sentence_ends_at_a_mark_outside_of_brackets(tmp_path: Path) -> None:
    path = tmp_path / "one.yaml"
    path.write_text("# Two sites (A: 1.5 kg; B: 2) of\n# one: the rest. More.\ntrainer: {}\n", encoding="utf-8")
    assert summary(path) == "Two sites (A: 1.5 kg; B: 2) of one."


def test_one_is_copied_and_no_file_is_replaced(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "configs" / "digits.yaml").read_text(encoding="utf-8")
    ended = hetfed(capsys, "examples", "digits", "-o", "mine/first.yaml")
    assert (ended.code, "hetfed fit -c mine/first.yaml" in ended.out) == (0, True)
    assert Path("mine/first.yaml").read_text(encoding="utf-8") == text
    assert hetfed(capsys, "examples", "digits", "--output", "mine").code == 0
    assert Path("mine/digits.yaml").read_text(encoding="utf-8") == text
    assert hetfed(capsys, "examples", "digits").out == text
    Path("mine/first.yaml").write_text("mine", encoding="utf-8")
    ended = hetfed(capsys, "examples", "digits", "-o", "mine/first.yaml")
    assert (ended.code, "the file exists" in ended.err) == (2, True)
    assert Path("mine/first.yaml").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("examples", "digts"), "no example 'digts'; did you mean 'digits'?"),
        (("examples", "-o", "x.yaml"), "name the example to copy"),
        (("fit", "-c", "hetfed:nothing_like_it"), "no example 'nothing_like_it'; there are car_parks, "),
    ],
)
def test_what_is_not_there_is_named(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    ended = hetfed(capsys, *arguments)
    assert (ended.code, message in ended.err) == (2, True), ended.err


def test_a_file_that_cannot_be_written_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    ended = hetfed(capsys, "examples", "digits", "-o", "file/digits.yaml")
    assert (ended.code, "file" in ended.err) == (2, True)
    monkeypatch.setenv("HETFED_DEBUG", "1")
    with pytest.raises(OSError, match="file"):
        hetfed(capsys, "examples", "digits", "-o", "file/digits.yaml")


def test_a_name_stands_for_the_file_wherever_configurations_are_read() -> None:
    path = str(ROOT / "configs" / "digits.yaml")
    assert configuration_path("hetfed:digits") == path
    assert configuration_path("own/hetfed:digits") == "own/hetfed:digits"
    assert load_configs(["hetfed:digits"]) == load_configs([path])
    assert _names_in(["hetfed:digits"]) == set(load_configs([path])["model"]["participants"])
    suite = suite_of({"data": {"digits": "hetfed:digits"}, "methods": ["fedavg"]}, Path("elsewhere"))
    assert [one.config for one in suite.data.values()] == ["hetfed:digits"]


def test_a_named_example_trains(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    quick = ["--trainer.fast_dev_run=1", "--trainer.accelerator=cpu", "--trainer.enable_model_summary=false"]
    ended = hetfed(capsys, "fit", "-c", "hetfed:car_parks", *quick, "--trainer.enable_progress_bar=false")
    assert ended.code == 0, ended.err


def test_they_lie_in_the_installed_package_or_beside_its_sources(tmp_path: Path) -> None:
    installed, sources = tmp_path / "installed" / "hetfed_lightning", tmp_path / "sources" / "hetfed_lightning"
    (installed / "configs").mkdir(parents=True)
    (installed.parent / "configs").mkdir()  # Somebody else's.
    (sources.parent / "configs").mkdir(parents=True)
    assert examples_folder(installed) == installed / "configs"
    assert examples_folder(sources) == sources.parent / "configs"
    with pytest.raises(ConfigError, match="install hetfed-lightning again"):
        examples_folder(tmp_path / "bare" / "hetfed_lightning")
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]["targets"]
    assert wheel["wheel"]["force-include"] == {"configs": "hetfed_lightning/configs"}


def test_the_list_needs_no_torch() -> None:
    assert imported_by("examples")[1] == []
