from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import ArgumentParser

from hetfed_lightning import Participant
from hetfed_lightning.cli import command
from hetfed_lightning.cli.configs import ConfigError, load_configs, read_config, split_arguments
from hetfed_lightning.cli.error_messages import check_participants
from hetfed_lightning.cli.merging import merge
from tests.cli.commands import hetfed, member, participant, put, tiny, written

PREFIX = "--model.participants.hospital_a"


def printed(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> dict[str, Any]:
    """What ``--print_config`` makes of a command line."""
    with pytest.raises(SystemExit) as ended:
        hetfed(capsys, "fit", *arguments, "--print_config")
    assert ended.value.code == 0
    found: dict[str, Any] = yaml.safe_load(capsys.readouterr().out)
    return found


def test_a_second_file_adds_a_participant(capsys: pytest.CaptureFixture[str]) -> None:
    base = written(tiny())
    newcomer = written({"model": {"participants": {"newcomer": participant(joins_at=5)}}}, "newcomer.yaml")
    found = printed(capsys, "-c", base, "-c", newcomer)
    assert list(found["model"]["participants"]) == ["hospital_a", "hospital_b", "newcomer"]
    assert member(found, "newcomer")["joins_at"] == 5
    assert found["data"]["init_args"]["batch_size"] == 8


def test_null_removes_a_participant(capsys: pytest.CaptureFixture[str]) -> None:
    gone = written({"model": {"participants": {"hospital_a": None}}}, "gone.yaml")
    assert list(printed(capsys, "-c", written(tiny()), "-c", gone)["model"]["participants"]) == ["hospital_b"]


def test_another_class_replaces_the_arguments_too(capsys: pytest.CaptureFixture[str]) -> None:
    over: dict[str, Any] = {}
    sgd = {"class_path": "torch.optim.AdamW", "init_args": {"weight_decay": 0.5}}
    put(over, "model.participants.hospital_a.init_args.optimizer", sgd)
    found = printed(capsys, "-c", written(tiny()), "-c", written(over, "over.yaml"))
    optimizer = member(found)["optimizer"]
    assert optimizer["class_path"] == "torch.optim.AdamW"
    assert (optimizer["init_args"]["lr"], optimizer["init_args"]["weight_decay"]) == (1e-3, 0.5)


def test_mappings_merge_and_all_else_is_replaced() -> None:
    base = {"a": {"x": 1, "y": [1, 2, 3]}, "b": 1}
    assert merge(base, {"a": {"y": [9]}, "c": 2}) == {"a": {"x": 1, "y": [9]}, "b": 1, "c": 2}
    assert base == {"a": {"x": 1, "y": [1, 2, 3]}, "b": 1}
    one = {"class_path": "A", "init_args": {"x": 1}}
    assert merge(one, {"class_path": "B"}) == {"class_path": "B"}
    assert merge(one, {"class_path": "A", "init_args": {"y": 2}})["init_args"] == {"x": 1, "y": 2}
    assert merge(one, {"init_args": {"y": 2}})["init_args"] == {"x": 1, "y": 2}


def test_three_files_the_last_one_counts() -> None:
    files = [written({"trainer": {"max_epochs": i}}, f"{i}.yaml") for i in range(3)]
    assert load_configs([str(file) for file in files]) == {"trainer": {"max_epochs": 2}}


@pytest.mark.parametrize(
    "arguments",
    [
        (f"{PREFIX}.init_args.optimizer.init_args.lr", "0.01"),
        (f"{PREFIX}.init_args.optimizer.init_args.lr=0.01",),
        (f"{PREFIX}.optimizer.lr", "0.01"),
        (f"{PREFIX}.optimizer.init_args.lr", "1e-2"),
        (f"{PREFIX}.init_args.optimizer", "{init_args: {lr: 0.01}}"),
        (f"{PREFIX}.optimizer.lr", "5", f"{PREFIX}.optimizer.lr=0.01"),
    ],
)
def test_an_override_reaches_the_optimizer_of_one(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    found = printed(capsys, "-c", written(tiny()), *arguments)
    assert member(found)["optimizer"]["init_args"]["lr"] == 0.01
    assert member(found, "hospital_b")["optimizer"]["init_args"]["lr"] == 0.1


def test_several_overrides_before_and_after_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    found = printed(
        capsys, f"{PREFIX}.local_epochs", "3", "--trainer.max_epochs=7", f"--config={written(tiny())}",
        f"{PREFIX}.backbone.hidden", "[4, 4]", "--model.participants.hospital_b.shared=[head]",
        "--data.batch_size", "4",
    )  # fmt: skip
    assert (member(found)["local_epochs"], member(found)["backbone"]["init_args"]["hidden"]) == (3, [4, 4])
    assert (found["trainer"]["max_epochs"], member(found, "hospital_b")["shared"]) == (7, ["head"])
    assert found["data"]["init_args"]["batch_size"] == 4


def test_an_override_does_not_reach_who_shares_an_anchor() -> None:
    shared = "&a {class_path: P, init_args: {o: {class_path: O, init_args: {lr: 1}}}}"
    text = f"model:\n  participants:\n    a: {shared}\n    b: *a\n"
    Path("anchors.yaml").write_text(text, encoding="utf-8")
    found = load_configs(["anchors.yaml"], [("a.o.lr", "2")])["model"]["participants"]
    assert [found[name]["init_args"]["o"]["init_args"] for name in ("a", "b")] == [{"lr": 2}, {"lr": 1}]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model.participants.hospitol_a.local_epochs", "2"], ["'hospitol_a'", "did you mean 'hospital_a'?"]),
        ([f"{PREFIX}.local_epoch=2"], ["'hospital_a'", "did you mean 'local_epochs'?"]),
        ([f"{PREFIX}.optimizer.learning_rate=2"], ["'hospital_a'", "'learning_rate' is not accepted"]),
        ([f"{PREFIX}.local_epochs"], ["local_epochs: expected a value after it"]),
    ],
)
def test_an_override_that_fits_nothing(
    capsys: pytest.CaptureFixture[str], arguments: list[str], words: list[str]
) -> None:
    ended = hetfed(capsys, "fit", "-c", written(tiny()), *arguments)
    assert ended.code == 2
    for word in words:
        assert ended.err.count(word) == 1


def test_an_override_without_a_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    ended = hetfed(capsys, "fit", f"{PREFIX}.local_epochs", "2")
    assert (ended.code, "give the configuration with -c" in ended.err) == (2, True)


def test_a_command_line_taken_apart() -> None:
    found = split_arguments(["-c", "a", "--x", "1", "--config=b", f"{PREFIX}.y=2", "--allow_import", "mine", "-v"])
    assert (found.configs, found.allow_import, found.rest) == (["a", "b"], ["mine"], ["--x", "1", "-v"])
    assert found.participants == [("hospital_a.y", "2")]


@pytest.mark.parametrize(
    ("text", "value"), [("1e-3", 1e-3), ("2.5E+4", 2.5e4), ("-1e0", -1.0), ("1e3x", "1e3x"), ("12", 12)]
)
def test_exponents_are_numbers(text: str, value: float | str) -> None:
    Path("x.yaml").write_text(f"x: {text}\n", encoding="utf-8")
    found = read_config("x.yaml")["x"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"trainer:\n  max_epochs: 1\ntrainer: {}\n", "'trainer' stands in line 1 and again in line 3"),
        (b"model:\n  participants:\n    a: {}\n    b: {}\n    a: {}\n", "'a' stands in line 3 and again in line 5"),
        ("# é\na: 1\n".encode("latin-1"), "expected UTF-8 text, found byte 0xe9 at 2"),
        (b"a: [1\nb: 2\n", "not valid YAML"),
        (b"a: !!python/object/apply:os.system [ls]\n", "not valid YAML"),
        (b"- 1\n", "found list"),
        (b"", "found NoneType"),
    ],
)
def test_files_that_cannot_be_used(capsys: pytest.CaptureFixture[str], content: bytes, words: str) -> None:
    Path("bad.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=r"bad\.yaml"):
        read_config("bad.yaml")
    ended = hetfed(capsys, "fit", "-c", "bad.yaml")
    assert ended.code == 2
    assert "bad.yaml" in ended.err
    assert words in ended.err


def test_a_missing_file(capsys: pytest.CaptureFixture[str]) -> None:
    ended = hetfed(capsys, "fit", "-c", "none.yaml")
    assert (ended.code, "none.yaml: no such configuration file" in ended.err) == (2, True)


def test_modules_by_input_are_read_and_written_as_they_are() -> None:
    # jsonargparse turns them into namespaces where they are: what was checked could not be passed on.
    layer = {"class_path": "torch.nn.Linear", "init_args": {"in_features": 2, "out_features": 1}}
    scale = {"class_path": "hetfed_lightning.layers.Standardise", "init_args": {"columns": 2}}
    settings = {"backbone": layer, "reads": "image", "branches": {"genes": layer}, "transform": {"genes": scale}}
    one = {"class_path": "hetfed_lightning.MultiInputParticipant", "init_args": settings}
    config = {"model": {"participants": {"hospital_a": one}}}
    before = deepcopy(config)
    check_participants(config)
    assert config == before
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--participant", type=Participant)
    written = yaml.safe_load(parser.dump(parser.parse_object({"participant": deepcopy(one)})))
    assert written["participant"]["init_args"]["transform"]["genes"]["init_args"]["columns"] == 2
    made = parser.instantiate(parser.parse_object(written)).participant
    assert set(made.branches) == {"genes"}


def test_participants_are_read_by_themselves_once_the_whole_failed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def noted(config: dict[str, Any]) -> None:
        asked.append(config)
        check_participants(config)

    monkeypatch.setattr(command, "check_participants", noted)
    config = tiny()
    for key, code in ((None, 0), ("nothing_of_that_name", 2)):
        if key is not None:
            member(config, "hospital_b")[key] = 1
        ended = hetfed(capsys, "fit", "-c", written(config))
        assert (ended.code, len(asked)) == (code, code // 2)
    assert "participant 'hospital_b'" in ended.err


def test_a_runs_file_says_what_the_parser_writes() -> None:
    config = tiny()
    config["trainer"]["logger"] = {
        "class_path": "lightning.pytorch.loggers.CSVLogger",
        "init_args": {"save_dir": "Läufe"},
    }
    cli = command.FederatedCLI(["fit", "-c", str(written(config))])
    saved = (cli.folder / "config.yaml").read_text(encoding="utf-8")
    assert saved == cli._parser("fit").dump(cli.config["fit"], skip_none=False)
