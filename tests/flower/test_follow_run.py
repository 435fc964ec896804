import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self, cast

import pytest

from hetfed_lightning.cli.errors import ConfigError
from hetfed_lightning.flower.cli import main
from hetfed_lightning.flower.deploy import local
from hetfed_lightning.flower.deploy.follow_run import run_app
from hetfed_lightning.flower.engine.control import RefusedError, RunStatus
from hetfed_lightning.flower.engine.local_engine import LocalEngine
from hetfed_lightning.flower.engine.superlink_process import StartError
from tests.flower.deployments import empty_deployment

COMPLETED = RunStatus("finished", "completed", "")
LOG = "\x1b[92mINFO \x1b[0m:      Start `flwr-serverapp` process\nSuccessfully installed x to y.\nRound 1/2\nRou"


class FakeEngine:
    """Stands for an engine and its SuperLink, which say what a test has them say."""

    def __init__(
        self, folder: Path, pieces: list[str], outcome: RunStatus | BaseException, *, alive: bool = True
    ) -> None:
        self.folder = folder
        self.pieces = pieces
        self.outcomes = [RunStatus("running", "", ""), outcome] if alive else [outcome]
        self.superlink = self.process = self
        self.is_alive = alive
        self.log = folder / "superlink.log"
        self.looked, self.left, self.starts = 0, 0, True

    def __enter__(self) -> Self:
        if not self.starts:
            raise StartError("The SuperLink ended with code 2")
        return self

    def __exit__(self, *error: object) -> None:
        self.left += 1

    def control(self) -> Any:
        link = self

        class Control:
            def __enter__(self) -> Any:
                return self

            def __exit__(self, *error: object) -> None:
                link.left += 1

            def start_run(self, app: Path, config: object) -> int:
                return 7

            def logs(self, run: int) -> Iterator[str]:
                while link.pieces:
                    yield link.pieces.pop(0)

            def outcome(self, run: int) -> RunStatus:
                found = link.outcomes.pop(0)
                if isinstance(found, BaseException):
                    raise found
                return found

        return Control()

    def look_after(self) -> list[str]:
        self.looked += 1
        return []

    def wait(self, seconds: float) -> bool:
        return not self.is_alive

    def run(self) -> int:
        return run_app(cast("LocalEngine", self), Path("app"), {})


def test_lines_are_shown_whole_and_without_the_engines_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engine = FakeEngine(tmp_path, [LOG, "nd 2/2\nlast\n"], COMPLETED)
    assert engine.run() == 0
    assert capsys.readouterr().out == "Round 1/2\nRound 2/2\nlast\n"
    assert (tmp_path / "serverapp.log").read_text(encoding="utf-8") == f"{LOG}nd 2/2\nlast\n"
    assert engine.looked > 0
    assert engine.left == 2


def test_a_failure_is_told_as_its_sentence_and_its_traceback_is_in_the_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    traceback = "\x1b[91mERROR \x1b[0m:     ServerApp raised an exception\nTraceback (most recent call last):\n  File\n"
    failed = RunStatus("finished", "failed", "ServerApp failed with exception: too few sites replied: clinic")
    assert FakeEngine(tmp_path, ["Round 1/2\n", traceback], failed).run() == 1
    shown = capsys.readouterr()
    assert shown.out == "Round 1/2\n"
    assert shown.err == "hetfed: error: too few sites replied: clinic\n"
    assert "Traceback" in (tmp_path / "serverapp.log").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("outcome", "sentence"),
    [
        (RunStatus("finished", "stopped", ""), "the run was stopped."),
        (RefusedError("The SuperLink did not start the app"), "The SuperLink did not start the app"),
    ],
    ids=["stopped", "refused"],
)
def test_other_ends_are_failures_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], outcome: RunStatus | BaseException, sentence: str
) -> None:
    assert FakeEngine(tmp_path, [], outcome).run() == 1
    assert capsys.readouterr().err == f"hetfed: error: {sentence}\n"


def test_a_superlink_that_is_gone_ends_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert FakeEngine(tmp_path, [], COMPLETED, alive=False).run() == 1
    assert f"the SuperLink ended while the run went on, see {tmp_path / 'superlink.log'}" in capsys.readouterr().err


def test_an_engine_that_does_not_start_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engine = FakeEngine(tmp_path, [], COMPLETED)
    engine.starts = False
    assert engine.run() == 1
    assert capsys.readouterr().err == "hetfed: error: The SuperLink ended with code 2\n"


def test_signals_stop_everything_and_are_given_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    engine = FakeEngine(tmp_path, [], KeyboardInterrupt())
    assert engine.run() == 130
    assert engine.left == 2
    assert "interrupted; everything is stopped" in capsys.readouterr().err

    class Terminating(FakeEngine):
        def look_after(self) -> list[str]:
            signal.raise_signal(signal.SIGTERM)
            return []

    engine = Terminating(tmp_path, [], COMPLETED)
    with pytest.raises(SystemExit) as ended:
        engine.run()
    assert (ended.value.code, engine.left) == (143, 2)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[LocalEngine, Path, dict[str, Any]]]:
    """What `hetfed deploy local` would have run."""
    found: list[tuple[LocalEngine, Path, dict[str, Any]]] = []

    def run_app(engine: LocalEngine, app: Path, config: dict[str, Any]) -> int:
        found.append((engine, app, config))
        return 0

    monkeypatch.setattr(local, "run_app", run_app)
    (empty_deployment(tmp_path / "d", "clinic", "hospital") / "app").mkdir()
    (tmp_path / "d" / "app" / "pyproject.toml").write_text(
        '[tool.flwr.app.config]\nallow-import = "ours"\n', encoding="utf-8"
    )
    monkeypatch.chdir(tmp_path)
    return found


def test_every_run_has_a_folder_and_resuming_takes_the_last(started: list[Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--resume: there is no run in .*runs"):
        main(["local", "d", "--resume"])
    for arguments in ([], [], ["--resume"], ["--output", "elsewhere"]):
        assert main(["local", "d", *arguments]) == 0
    runs = tmp_path / "d" / "runs"
    folders = [runs / "version_0", runs / "version_1", runs / "version_1", tmp_path / "elsewhere" / "version_0"]
    assert [Path(config["run-dir"]) for _, _, config in started] == folders
    assert [config["resume"] for _, _, config in started] == [False, False, True, False]
    assert {config["config"] for _, _, config in started} == {str(tmp_path / "d" / "server" / "server.yaml")}


def test_sites_are_told_who_they_are_and_what_they_may_import(started: list[Any], tmp_path: Path) -> None:
    main(["local", "d"])
    engine, app, _ = started[0]
    assert app == tmp_path / "d" / "app"
    assert engine.nodes["clinic"].config == {
        "participant": "clinic",
        "config": str(tmp_path / "d" / "sites" / "clinic" / "site.yaml"),
        "state-dir": str(tmp_path / "d" / "runs" / "version_0" / "sites" / "clinic"),
        "allow-import": "ours",
    }


def test_plain_text_has_to_be_asked_for(started: list[Any], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    main(["local", "d", "--insecure"])
    assert "--insecure: everything travels in plain text" in caplog.text
    assert not (tmp_path / "d" / "keys").exists()
    main(["local", "d"])
    (plain, _, _), (encrypted, _, _) = started
    assert "--insecure" in plain.superlink.command
    assert "--insecure" in plain.nodes["clinic"].command
    assert "--insecure" not in [*encrypted.superlink.command, *encrypted.nodes["clinic"].command]
    assert "--enable-supernode-auth" in encrypted.superlink.command
    assert str(tmp_path / "d" / "keys" / "clinic.key") in encrypted.nodes["clinic"].command
    for engine in (plain, encrypted):
        assert "--disable-runtime-dependency-installation" in engine.superlink.command
        program = engine.superlink.program
        assert engine.superlink.command[: len(program) + 1] == [*program, "--host"]
    assert encrypted.superlink.command[0] == sys.executable


def test_private_keys_that_others_may_read_are_refused_on_one_machine_too(started: list[Any], tmp_path: Path) -> None:
    main(["local", "d"])
    for name in ("clinic.key", "server-key.pem"):
        (tmp_path / "d" / "keys" / name).chmod(0o644)
        with pytest.raises(ConfigError, match=rf"{name}: its mode is 644.*chmod 600"):
            main(["local", "d"])
        (tmp_path / "d" / "keys" / name).chmod(0o600)
    main(["local", "d"])
    assert len(started) == 2
