"""Liveness of ranks: each rank learns within seconds that another is lost, and ends.

A process that dies closes its connections; one that is stopped sends no signs of life; one that raises says so before
it ends. Collectives alone notice the first only when they wait for it, the second after their timeout, and name
neither.

The ranks' connections form a star around rank 0. A thread of each rank sends signs of life and listens. They are about
the *process*: a long validation or a slow step is no fault, since the thread goes on meanwhile.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from hetfed_lightning.strategies.stopping import Stopping

log = logging.getLogger(__name__)

GRACE = 3.0
"""Seconds that a rank has to end in its own way, before its process is ended."""

BEAT = 1.0
"""Seconds between two signs of life, at most."""

CONNECT = 60.0
"""Seconds within which the ranks have to find each other."""

BYE = "bye"


class RankLostError(RuntimeError):
    """Error that another rank died, raised an error, or is stuck; the message names it."""


class Watch:
    """Liveness of the other ranks, as one rank sees it.

    Args:
        rank: Rank of this process.
        world: Number of processes.
        stuck_after: Seconds without a sign of life after which a process counts as stuck.
        describe: Function from a rank to its description, with its participants and the round.
        end_children: Function that ends the processes started by this one, which may be stopped; called before this
            process is ended.
    """

    def __init__(
        self,
        rank: int,
        world: int,
        *,
        stuck_after: float,
        describe: Callable[[int], str],
        end_children: Callable[[], None] = lambda: None,
    ) -> None:
        self.rank = rank
        self.world = world
        self.stuck_after = stuck_after
        self.verdict: str | None = None
        self.stopping = Stopping(rank, world)
        self._describe = describe
        self._end_children = end_children
        self._known = threading.Event()
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._peers: dict[int, _Peer] = {}
        self._thread: threading.Thread | None = None
        self._server: socket.socket | None = None

    # Start

    def listen(self, host: str) -> int:
        """Port that rank 0 listens on, opened by this call.

        Args:
            host: Address to listen at.
        """
        self._server = socket.create_server((host, 0))
        self._server.settimeout(CONNECT)
        return int(self._server.getsockname()[1])

    def start(self, host: str, port: int, token: str) -> None:
        """Connect to the other ranks, and begin to listen.

        Args:
            host: Address at which rank 0 listens.
            port: Port on which it listens.
            token: Secret of this run; connections without it are closed.
        """
        if self._server is not None:
            while len(self._peers) < self.world - 1:
                connection, _ = self._server.accept()
                self._admit(connection, token)
            self._server.close()
        else:
            connection = socket.create_connection((host, port), timeout=CONNECT)
            connection.sendall(f"{json.dumps([token, self.rank])}\n".encode())
            self._peers[0] = _Peer(connection)
        self._thread = threading.Thread(target=self._run, name="rank-watch", daemon=True)
        self._thread.start()

    def _admit(self, connection: socket.socket, token: str) -> None:
        connection.settimeout(CONNECT)
        with contextlib.suppress(OSError, ValueError, TypeError):
            said, rank = json.loads(connection.makefile("r", encoding="utf-8").readline(1000))
            if said == token and rank in range(1, self.world):
                self._peers[rank] = _Peer(connection)
                return
        connection.close()

    # Questions of the rest of the program

    def check(self) -> None:
        """Raise if a rank was lost.

        Raises:
            RankLostError: If a rank was lost; names it.
        """
        if self.verdict is not None:
            raise RankLostError(self.verdict)

    @property
    def is_over(self) -> bool:
        """True if this rank has stopped watching."""
        return self._closed.is_set()

    def finished(self) -> str | None:
        """Description of a rank that has finished while this one goes on; None without one."""
        ranks = [rank for rank, peer in self._peers.items() if peer.finished and not self.is_over]
        return self._describe(ranks[0]) if ranks else None

    def explain(self, error: Exception, patience: float = 2.0) -> Exception:
        """Error to raise in place of one that a collective raised: the lost rank's, if it is known in time.

        Args:
            error: Error of the collective.
            patience: Seconds to wait for news of a lost rank.
        """
        if isinstance(error, RankLostError):
            return error
        self._known.wait(patience)
        return error if self.verdict is None else RankLostError(self.verdict)

    def announce(self, error: BaseException) -> None:
        """Tell the others that this rank ends with an error."""
        together = isinstance(error, SystemExit) and self.stopping.place is not None
        if self.verdict is None and not isinstance(error, RankLostError) and not together:
            reason = f"raised {type(error).__name__}: {error}".partition("\n")[0]
            self._tell({"lost": self.rank, "why": reason}, skip=None)

    def tell_of_stop(self) -> None:
        """Tell the others, once, of a request to stop, with the number of places that this rank has passed."""
        if news := self.stopping.news():
            self._tell(news, skip=None)

    def close(self) -> None:
        """Say that this rank has finished, and stop listening."""
        if self._closed.is_set():
            return
        self._closed.set()
        self._tell(BYE, skip=None)
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(2 * BEAT)
        with self._lock:
            for peer in self._peers.values():
                peer.connection.close()

    # The thread

    def _run(self) -> None:
        pause = min(BEAT, self.stuck_after / 4)
        selector = selectors.DefaultSelector()
        for rank, peer in self._peers.items():
            peer.connection.setblocking(False)
            peer.heard = time.monotonic()
            selector.register(peer.connection, selectors.EVENT_READ, rank)
        next_beat, looked = 0.0, time.monotonic()
        while not self._closed.is_set() and self.verdict is None and selector.get_map():
            now = time.monotonic()
            if now >= next_beat:
                self._tell("beat", skip=None)
                next_beat = now + pause
            self.tell_of_stop()
            for key, _ in selector.select(pause / 4):
                self._hear(int(key.data), selector)
            now = time.monotonic()
            if now - looked > self.stuck_after / 2:  # This process itself was stopped: the others may well live.
                for peer in self._peers.values():
                    peer.heard = now
            looked = now
            for rank, peer in list(self._peers.items()):
                if self.verdict is None and not peer.gone and now - peer.heard > self.stuck_after:
                    self._lose(rank, f"is stuck: no sign of life for {now - peer.heard:.0f} seconds")
        selector.close()

    def _hear(self, rank: int, selector: selectors.BaseSelector) -> None:
        peer = self._peers[rank]
        try:
            found = peer.connection.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            found = b""
        if not found:
            selector.unregister(peer.connection)
            peer.gone = True
            if not peer.finished and not self._closed.is_set():
                self._lose(rank, "is dead: its process has ended without a word")
            return
        peer.heard = time.monotonic()
        *lines, peer.rest = (peer.rest + found).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if message == BYE:
                peer.finished = peer.gone = True
                selector.unregister(peer.connection)
                return
            if isinstance(message, dict) and "stop" in message:
                self.stopping.hear(message)
                if self.rank == 0:
                    self._tell(message, skip=rank)
            elif isinstance(message, dict):
                self._lose(message["lost"], message["why"])
                return

    def _lose(self, rank: int, why: str) -> None:
        if self.verdict is not None:
            return
        self._tell({"lost": rank, "why": why}, skip=rank)
        self.verdict = f"{self._describe(rank)} {why}. This rank, {self.rank}, ends too; start the run again from its "
        self.verdict += "last checkpoint (ckpt_path='last' finds it) once that is mended."
        self._known.set()
        log.error("%s", self.verdict)
        threading.Thread(target=self._end, name="rank-watch-end", daemon=True).start()

    def _end(self) -> None:
        """End this process if it has not ended by itself: it may wait in a collective that never returns."""
        if self._closed.wait(GRACE):
            return
        sys.stderr.write(f"[rank {self.rank}] {self.verdict}\n")
        sys.stderr.flush()
        self._end_children()
        os._exit(1)

    def _tell(self, message: Any, *, skip: int | None) -> None:
        data = f"{json.dumps(message)}\n".encode()
        with self._lock:
            for rank, peer in self._peers.items():
                if rank != skip and not peer.gone:
                    with contextlib.suppress(OSError):  # The listening side notices its end.
                        peer.connection.send(data)


class _Peer:
    """Connection to another rank."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.heard = 0.0
        self.rest = b""
        self.finished = False
        self.gone = False
