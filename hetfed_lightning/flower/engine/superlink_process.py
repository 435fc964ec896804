"""The SuperLink as a process of this machine, with a secret by which it knows its operator."""

from __future__ import annotations

import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from hetfed_lightning.flower.engine.control import Control
from hetfed_lightning.flower.engine.limits import Limits
from hetfed_lightning.flower.engine.operator_secret import new_secret
from hetfed_lightning.flower.engine.process import Process
from hetfed_lightning.flower.engine.settings import LOOPBACK, free_ports
from hetfed_lightning.flower.files.certificates import write_private
from hetfed_lightning.flower.files.folder import KeyFolder

# Run with -P: its folder is no place to import from.
PROGRAM = Path(__file__).with_name("superlink.py")
EVERYWHERE = "0.0.0.0"  # noqa: S104  # sites call from elsewhere, with keys
_TRIES = 3


class StartError(RuntimeError):
    """Error that a process of the engine did not come up; the message names it and its log."""


class SuperLink:
    """The coordinator's process: carries messages and admits registered keys; its runs are led by an executor.

    Attributes:
        program: Program to start, with the package's own options.
        isolation: ``process`` if an executor starts the ServerApp, ``subprocess`` if the engine starts the one that was
            submitted.
        secret: Secret of its operator.

    Args:
        folder: Folder for its database and its log.
        environment: Variables of the process.
        keys: Certificates; None for plain text, in which no key is asked for.
        limits: Limits towards callers.
        host: Address of this machine at which it listens; ``0.0.0.0`` or ``::`` for all of them.
        port: Port at which it listens; None for a free one.
    """

    def __init__(
        self,
        folder: Path,
        environment: Mapping[str, str],
        keys: KeyFolder | None,
        *,
        limits: Limits | None = None,
        host: str = LOOPBACK,
        port: int | None = None,
    ) -> None:
        self.keys = keys
        self.secret = new_secret()
        self.secret_file = folder / "operator-secret"
        bears = limits or Limits()
        self.program = [
            sys.executable, "-P", str(PROGRAM), "--operator-secret", str(self.secret_file),
            "--max-request", str(bears.request), "--max-reply", str(bears.reply),
        ]  # fmt: skip
        self.isolation = "process"
        self.host = host
        self._given_port = port
        self.port = free_ports(1)[0] if port is None else port
        self._folder = folder
        self.process = Process("SuperLink", [], environment, folder / "superlink.log")

    @property
    def address(self) -> str:
        """``host:port`` of all of its services, as this machine calls them."""
        host = local_host(self.host)
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"

    @property
    def command(self) -> list[str]:
        """Command that starts it."""
        common = [
            *self.program, "--host", self.host, "--port", str(self.port),
            "--database", str(self._folder / "superlink.db"), "--disable-runtime-dependency-installation",
            "--isolation", self.isolation,
        ]  # fmt: skip
        if self.keys is None:
            return [*common, "--insecure"]
        return [
            *common, "--ssl-ca-certfile", str(self.keys.authority), "--ssl-certfile", str(self.keys.server),
            "--ssl-keyfile", str(self.keys.server_key), "--enable-supernode-auth",
        ]  # fmt: skip

    def start(self, seconds: float = 60.0) -> None:
        """Start it and wait until it answers.

        Args:
            seconds: Seconds after which it is given up.

        Raises:
            StartError: If it ends or does not answer; shows the end of its log.
        """
        self.hand_over_secret()
        for attempt in range(_TRIES):
            self.process.command = self.command
            self.process.start()
            if self._answers(seconds):
                return
            if self.process.is_alive:
                self.process.kill()
                raise StartError(f"The SuperLink did not answer within {seconds:.0f} s, see {self.process.log}.")
            taken = "address already in use" in self.process.tail(20)
            if taken and self._given_port is not None:
                raise StartError(f"--port {self.port}: another program of this machine listens there already.")
            if not taken or attempt == _TRIES - 1:
                break
            (self.port,) = free_ports(1)
        raise StartError(
            f"The SuperLink ended with code {self.process.exit_code}, see {self.process.log}:\n{self.process.tail()}"
        )

    def hand_over_secret(self) -> None:
        """Write the secret to a file for its processes that no other user of this machine may read."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.secret_file.unlink(missing_ok=True)
        write_private(self.secret_file, self.secret.encode())

    def control(self) -> Control:
        """Connection as its operator."""
        return Control(self.address, None if self.keys is None else self.keys.authority, self.secret)

    def _answers(self, seconds: float) -> bool:
        """True if it answers before it ends or ``seconds`` have passed."""
        deadline = time.monotonic() + seconds
        while self.process.is_alive and time.monotonic() < deadline:
            if is_healthy(self.address, None if self.keys is None else self.keys.authority):
                return True
            time.sleep(0.05)
        return False


def local_host(host: str) -> str:
    """Name by which this machine, and the engine's own programs, call a server that listens at ``host``."""
    return {EVERYWHERE: LOOPBACK, "::": "::1"}.get(host, host)


def is_healthy(address: str, authority: Path | None) -> bool:
    """True if a SuperLink answers, over TLS if an authority is given.

    Args:
        address: ``host:port`` of the SuperLink.
        authority: Certificate by which it is known; None for plain text.
    """
    context = None if authority is None else ssl.create_default_context(cafile=str(authority))
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
    if context is not None:
        handlers.append(urllib.request.HTTPSHandler(context=context))
    scheme = "http" if authority is None else "https"
    try:
        with urllib.request.build_opener(*handlers).open(f"{scheme}://{address}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False
