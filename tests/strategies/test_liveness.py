"""Two watches in one process: silence while all is well, a verdict when it is not."""

import secrets
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from hetfed_lightning.strategies.liveness import RankLostError, Watch


def pair(stuck_after: float = 0.4) -> list[Watch]:
    """Rank 0 and rank 1, connected."""
    watches = [Watch(rank, 2, stuck_after=stuck_after, describe=lambda rank: f"rank {rank} (a, b)") for rank in (0, 1)]
    port, token = watches[0].listen("127.0.0.1"), secrets.token_hex(4)
    beginning = threading.Thread(target=watches[0].start, args=("127.0.0.1", port, token))
    beginning.start()
    watches[1].start("127.0.0.1", port, token)
    beginning.join()
    return watches


@pytest.fixture
def watches(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Watch]]:
    """Rank 0 and rank 1, who do not end this process."""
    monkeypatch.setattr(Watch, "_end", lambda self: None)
    made = pair()
    yield made
    for watch in made:
        watch.close()


def test_a_main_thread_that_does_other_things_is_no_fault(watches: list[Watch]) -> None:
    time.sleep(1.0)  # Two and a half times as long as a process may be silent.
    for watch in watches:
        watch.check()


@pytest.mark.parametrize("first", [0, 1])
def test_a_rank_that_finishes_is_no_fault(watches: list[Watch], first: int) -> None:
    watches[first].close()
    time.sleep(0.6)
    watches[1 - first].check()


@pytest.mark.parametrize("faulty", [0, 1])
def test_an_error_is_told_with_its_rank(watches: list[Watch], faulty: int) -> None:
    watches[faulty].announce(ValueError("first line\nsecond line"))
    error = watches[1 - faulty].explain(RuntimeError("connection closed by peer"))
    assert isinstance(error, RankLostError)
    assert str(error).startswith(f"rank {faulty} (a, b) raised ValueError: first line. This rank, {1 - faulty}, ends")
    with pytest.raises(RankLostError, match=f"rank {faulty}"):
        watches[1 - faulty].check()


def test_an_error_of_a_collective_stays_what_it_is_where_nobody_was_lost(watches: list[Watch]) -> None:
    error = RuntimeError("tensors of different shapes")
    assert watches[0].explain(error, patience=0.1) is error


def test_a_connection_without_the_secret_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Watch, "_end", lambda self: None)
    server, client = (Watch(rank, 2, stuck_after=1.0, describe=str) for rank in (0, 1))
    port = server.listen("127.0.0.1")
    beginning = threading.Thread(target=server.start, args=("127.0.0.1", port, "secret"))
    beginning.start()
    with socket.create_connection(("127.0.0.1", port)) as stranger:
        stranger.sendall(b'["guess", 1]\n')
        assert stranger.recv(10) == b""
    client.start("127.0.0.1", port, "secret")
    beginning.join()
    for watch in (server, client):
        watch.check()
        watch.close()
