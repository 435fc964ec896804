"""Programs of a moment, for what every process of an engine has to keep to."""

import gc
import os
import signal
import socket
import struct
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from hetfed_lightning.flower.engine.local_engine import LocalEngine
from hetfed_lightning.flower.engine.marks import MARK, descendants, end_marked, marked
from hetfed_lightning.flower.engine.process import Process, Watchdog
from hetfed_lightning.flower.engine.restarts import PAUSE, QUICK_ENDS, Verdict, WithPauses
from hetfed_lightning.flower.engine.settings import environment, free_ports, without_proxy
from hetfed_lightning.flower.engine.tasks import is_gone
from tests.flower.engines import empty_engine, wait_until

SLEEPER = "import time; print('up', flush=True); time.sleep(60)"
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-S', '-c', {SLEEPER!r}], start_new_session=True)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEPER}"


def process(folder: Path, code: str, mark: str = "of-test-processes") -> Process:
    command = [sys.executable, "-S", "-c", code]
    return Process("the sleeper", command, {MARK: f"{mark}-{folder.name}", "HOME": "/"}, folder / "log")


def is_up(one: Process) -> bool:
    return one.tail() == "up"


def test_a_process_says_how_it_ended_and_what_it_said_last(tmp_path: Path) -> None:
    one = process(tmp_path, "print(1); print(2); print(); print(3); raise SystemExit(7)")
    one.start()
    assert one.wait(10)
    assert (one.exit_code, one.tail(2), one.is_alive) == (7, "2\n3", False)
    with pytest.raises(RuntimeError, match="the sleeper was not started"):
        _ = process(tmp_path, "").pid


def test_a_process_that_will_not_end_is_ended(tmp_path: Path) -> None:
    one = process(tmp_path, STUBBORN)
    one.start()
    wait_until(lambda: is_up(one), 10, "it ignores SIGTERM")
    with pytest.raises(RuntimeError, match="runs already"):
        one.start()
    one.stop(patience=0.2)
    assert one.exit_code == -signal.SIGKILL


def test_what_a_process_has_started_ends_with_it_in_whatever_session(tmp_path: Path) -> None:
    one = process(tmp_path, PARENT)
    one.start()
    wait_until(lambda: is_up(one), 10, "the child is up")
    (child,) = descendants(one.pid)
    assert os.getsid(child) != os.getsid(one.pid)
    one.kill()
    wait_until(
        lambda: not Path(f"/proc/{child}/environ").exists() or child not in marked(_mark(tmp_path)), 5, "it ends"
    )


def test_orphans_are_found_by_their_mark(tmp_path: Path) -> None:
    one = process(tmp_path, PARENT)
    one.start()
    wait_until(lambda: is_up(one), 10, "the child is up")
    (child,) = descendants(one.pid)
    os.kill(one.pid, signal.SIGKILL)
    assert one.wait(5)
    assert marked(_mark(tmp_path)) == [child]
    assert end_marked(_mark(tmp_path)) == [child]
    assert marked(_mark(tmp_path)) == []


def _mark(folder: Path) -> str:
    return f"of-test-processes-{folder.name}"


@pytest.mark.parametrize("dismissed", [True, False])
def test_the_watchdog_ends_what_is_left_when_its_owner_is_gone(tmp_path: Path, dismissed: bool) -> None:
    one = process(tmp_path, SLEEPER)
    one.start()
    try:
        wait_until(lambda: is_up(one), 10, "it is up")
        if dismissed:
            Watchdog(_mark(tmp_path)).dismiss()
            time.sleep(0.3)
            assert one.is_alive
        else:
            watchdog = Watchdog(_mark(tmp_path))._running
            assert watchdog.stdin is not None
            watchdog.stdin.close()  # as the kernel does for whoever ends
            watchdog.wait(5)
            assert one.wait(5)
            assert one.exit_code == -signal.SIGKILL
    finally:
        one.kill()


def test_a_process_that_does_nothing_but_end_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = empty_engine(tmp_path, "clinic", encrypted=False, app=None)
    engine.executor = None
    node = engine.nodes["clinic"]
    monkeypatch.setattr(type(node), "command", [sys.executable, "-S", "-c", "raise SystemExit(3)"])
    told = []
    node.start()
    for _ in range(QUICK_ENDS + 3):
        assert node.process.wait(10)
        told += engine.look_after()
    assert [sentence.rpartition("; ")[2] for sentence in told] == ["it is started again."] * 3 + ["it is left out."]
    assert told[0].startswith("clinic: its SuperNode ended with code 3 (see ")


def test_a_site_that_ends_at_once_is_started_for_ever_with_pauses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    rule, one = WithPauses(), process(tmp_path, "raise SystemExit(int(open('code').read()))")
    one.command[-1] = one.command[-1].replace("'code'", repr(str(tmp_path / "code")))
    ended = f"ended with code 3 (see {one.log}); it is started again."

    def start(code: int) -> None:
        (tmp_path / "code").write_text(str(code))
        one.start()
        assert one._started().wait(10) == code

    start(3)
    assert rule(one, "The node") == Verdict(again=False, told=f"The node {ended}")
    now += PAUSE / 2
    assert rule(one, "The node") == Verdict(again=False)
    now += PAUSE / 2
    assert rule(one, "The node") == Verdict(again=True)
    start(3)
    assert rule(one, "The node") == Verdict(again=False), "it says the same once"
    now += PAUSE
    assert rule(one, "The node") == Verdict(again=True)
    start(4)
    now += PAUSE * 2
    assert rule(one, "The node") == Verdict(again=True, told=f"The node {ended}".replace("code 3", "code 4"))
    start(0)
    now += PAUSE * 2
    assert rule(one, "The node") == Verdict(again=True), "a node that a new coordinator does not know ends with 0"


# httpcore leaves a socket that did not connect to the garbage collector.
@pytest.mark.filterwarnings("ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning")
def test_who_is_hard_to_reach_is_not_gone(tmp_path: Path) -> None:
    def is_refused(client: httpx.Client, url: str) -> bool:
        with client:
            try:
                client.get(url, timeout=5)
            except httpx.HTTPError as error:
                return is_gone(error)
        raise AssertionError(url)

    with socket.create_server(("127.0.0.1", 0)) as busy:
        address = f"127.0.0.1:{busy.getsockname()[1]}"
        reset = struct.pack("ii", 1, 0)

        def hang_up() -> None:
            accepted, _ = busy.accept()
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
            accepted.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        assert not is_refused(httpx.Client(trust_env=False), f"https://{address}/")
        thread.join()
    assert is_refused(httpx.Client(trust_env=False), f"http://{address}/")
    no_socket = httpx.Client(transport=httpx.HTTPTransport(uds=str(tmp_path / "none")))
    assert is_refused(no_socket, "http://runtime/")
    gc.collect()


def test_everything_is_started_silent_and_finds_the_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLWR_TELEMETRY_ENABLED", "1")
    monkeypatch.setenv("PYTHONPATH", "kept")
    found = environment(tmp_path / "home", "a mark")
    assert found["FLWR_TELEMETRY_ENABLED"] == "0"
    assert (found["PYTHONPATH"], found["FLWR_HOME"], found[MARK]) == ("kept", str(tmp_path / "home"), "a mark")
    assert Path(found["PATH"].split(os.pathsep)[0], "flower-supernode").is_file()


def test_loopback_is_spoken_to_without_the_proxy_of_a_machine() -> None:
    assert without_proxy({"NO_PROXY": "intranet"})["no_proxy"] == "intranet,127.0.0.1,localhost,::1"
    assert without_proxy({})["NO_PROXY"] == "127.0.0.1,localhost,::1"


def test_ports_that_are_asked_for_together_differ() -> None:
    assert len(set(free_ports(20))) == 20


def test_an_engine_that_cannot_start_leaves_nothing(tmp_path: Path) -> None:
    engine = empty_engine(tmp_path, "clinic", encrypted=False, app=None)
    engine.superlink.program = [sys.executable, "-S", "-c", "print('no such port'); raise SystemExit(5)"]
    with pytest.raises(RuntimeError, match=r"SuperLink ended with code 5, see .*superlink.log:\nno such port"), engine:
        pass
    assert marked(engine.mark) == []
    assert isinstance(engine, LocalEngine)
