"""Whoever is not the operator operates nothing: an address is no identity, and no app but the installed one is run."""

import asyncio
import logging
import os
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from flwr.app import Context, RecordDict
from flwr.cli.build import build_fab_from_disk
from flwr.serverapp import Grid, ServerApp

from hetfed_lightning.flower.engine import executor
from hetfed_lightning.flower.engine.guard import Guard, Scope
from hetfed_lightning.flower.engine.operator_secret import HEADER, read_secret
from hetfed_lightning.flower.engine.settings import environment
from hetfed_lightning.flower.engine.superlink_process import SuperLink
from hetfed_lightning.flower.engine.tasks import _in_place_of_an_installed_app
from tests.flower.engines import EMPTY_APP, empty_engine

SECRET = "5f" * 32
HERE = ("127.0.0.1", 4)
ELSEWHERE = [("10.1.2.3", 4), ("2001:db8::1", 4), ("::ffff:10.1.2.3", 4), ("testclient", 4)]
OF_THE_OPERATOR = [
    "/v1/control/register-node", "/v1/control/start-run", "/v1/control/stream-logs", "/v1/runtime/acquire-task",
    "/v1/runtime/get-nodes", "/docs", "/openapi.json", "/", "", "/healthy", "/v1/fleet", "/V1/fleet/pull-messages",
]  # fmt: skip

pytestmark = pytest.mark.promise("operator")


def answered(
    path: str,
    client: tuple[str, int] | None = HERE,
    *shown: str,
    kind: str = "http",
    server: tuple[str, int] | None = None,
) -> int:
    """Status of the answer to a call that shows secrets; 200 if it reached the SuperLink."""
    said: list[Any] = []

    async def superlink(scope: Scope, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})

    async def send(message: Any) -> None:
        said.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    headers = [(HEADER.encode(), one.encode()) for one in shown]
    scope = {"type": kind, "method": "POST", "path": path, "client": client, "server": server, "headers": headers}
    asyncio.run(Guard(superlink, SECRET, lambda _: None)(scope, receive, send))
    status: int = said[0]["status"]
    return status


@pytest.mark.parametrize("path", OF_THE_OPERATOR)
def test_who_shows_no_secret_is_refused_all_but_what_sites_need(path: str) -> None:
    for client in (HERE, ("::1", 4), ("::ffff:127.0.0.1", 4), None, *ELSEWHERE):
        assert answered(path, client) == 403
    assert answered("/v1/fleet/pull-messages", HERE) == answered("/health", ELSEWHERE[0]) == 200


@pytest.mark.parametrize("client", [HERE, ("::1", 4), ("::ffff:127.0.0.1", 4), None])
def test_who_shows_the_secret_on_this_machine_operates_it(client: tuple[str, int] | None) -> None:
    assert answered("/v1/control/start-run", client, SECRET) == 200


@pytest.mark.parametrize("shown", [["5f" * 31], ["5f" * 33], [SECRET[:-1] + "0"], [""], ["ß"], [SECRET, SECRET]])
def test_what_is_not_the_secret_is_refused(shown: list[str]) -> None:
    assert answered("/v1/control/start-run", HERE, *shown) == 403


def test_a_stolen_secret_is_of_no_use_on_another_machine() -> None:
    for client in ELSEWHERE:
        assert answered("/v1/control/start-run", client, SECRET) == 403


def test_a_machine_that_calls_its_own_address_is_here_and_its_neighbour_is_not() -> None:
    server = ("::ffff:10.1.2.3", 8000)
    assert answered("/v1/control/start-run", ("10.1.2.3", 4), SECRET, server=server) == 200
    assert answered("/v1/control/start-run", ("10.1.2.4", 4), SECRET, server=server) == 403
    assert answered("/v1/control/start-run", ("testclient", 4), SECRET, server=("testclient", 8000)) == 403


def test_other_kinds_of_connections_are_refused_whoever_asks() -> None:
    assert answered("/v1/fleet/stream", HERE, SECRET, kind="websocket") == 403


# The secret itself


def test_it_is_made_for_each_start_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        first, second = (SuperLink(tmp_path / name, {}, None) for name in ("first", "second"))
        for link in (first, second):
            link.hand_over_secret()
            link.hand_over_secret()  # as when it is started again
    finally:
        os.umask(before)
    assert stat.S_IMODE(first.secret_file.stat().st_mode) == 0o600
    assert stat.S_IMODE(first.secret_file.parent.stat().st_mode) == 0o700
    assert len(first.secret) == 64
    assert read_secret(first.secret_file) == first.secret != second.secret
    first.secret_file.write_text("\n", encoding="ascii")
    with pytest.raises(ValueError, match=r"operator-secret: expected the operator's secret, found an empty file"):
        read_secret(first.secret_file)


def test_no_command_line_and_no_variable_holds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = empty_engine(tmp_path, "clinic")
    assert engine.executor is not None
    monkeypatch.setattr(engine.executor, "start", lambda: None)
    engine._start_executor()
    for process, command in ((engine.superlink.process, engine.superlink.command), (engine.executor, [])):
        words = [*command, *process.command, *process.environment.values()]
        assert words
        assert not any(engine.superlink.secret in word or "token" in word for word in words)
    assert "--operator-secret" in engine.executor.command


def test_the_engines_older_interfaces_stay_shut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLWR_INTERNAL_GRPC_CONTROL_API", "1")
    monkeypatch.setenv("FLWR_INTERNAL_GRPC_FLEET_API", "1")
    found = environment(tmp_path, "mark")
    assert {found["FLWR_INTERNAL_GRPC_CONTROL_API"], found["FLWR_INTERNAL_GRPC_FLEET_API"]} == {"0"}


# What is run


def test_whatever_is_submitted_the_installed_app_leads_with_the_submitted_settings() -> None:
    led: list[Any] = []
    installed = ServerApp()

    @installed.main()
    def main(grid: Grid, context: Context) -> None:
        led.append(context.run_config)

    engine = _in_place_of_an_installed_app(installed)
    submitted = build_fab_from_disk(EMPTY_APP)
    assert engine["install_from_fab"](submitted, skip_prompt=True) == Path()
    assert engine["get_fab_metadata"](submitted) == ("hetfed/empty-app", "1.0.0")
    attribute = engine["get_project_config"]("")["tool"]["flwr"]["app"]["components"]["serverapp"]
    settings = engine["get_fused_config_from_dir"](Path(), {"rounds": 7})
    context = Context(1, 2, {}, RecordDict(), settings)
    logging.disable(logging.INFO)
    try:
        ended = engine["run_"](
            grid=cast(Grid, SimpleNamespace()), server_app_dir="/evil", server_app_attr=attribute, context=context
        )
    finally:
        logging.disable(logging.NOTSET)
    assert ended is context
    assert [(one["rounds"], one["patience"]) for one in led] == [(7, 120)]


def test_no_program_is_imported_from_the_current_folder(tmp_path: Path) -> None:
    engine = empty_engine(tmp_path, "clinic")
    for command in (engine.superlink.command, engine.nodes["clinic"].command, executor.command("--help")):
        assert command[:2] == [sys.executable, "-P"]


@pytest.mark.slow
def test_what_others_leave_in_the_current_folder_is_not_run(tmp_path: Path) -> None:
    for name in ("torch", "flwr", "numpy", "hetfed_lightning", "argparse"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('left by somebody else')\n", encoding="utf-8")
    ended = subprocess.run(executor.command("--help"), cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (ended.returncode, "SOCKET LOG" in ended.stdout) == (0, True), ended.stderr
