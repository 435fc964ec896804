"""``hetfed deploy site``: this site takes part in a coordinator's runs, until it is told to stop."""

from __future__ import annotations

import fcntl
import logging
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from jsonargparse import ArgumentParser

from hetfed_lightning.cli.errors import ConfigError
from hetfed_lightning.cli.help_text import help_text
from hetfed_lightning.cli.strict_yaml import read_config
from hetfed_lightning.flower.deploy.follow_run import terminated_by_exception
from hetfed_lightning.flower.deploy.key_files import check_site_key, check_there
from hetfed_lightning.flower.deploy.local import ALLOW_IMPORT
from hetfed_lightning.flower.deploy.site_log import SiteLog
from hetfed_lightning.flower.engine.executor import APP
from hetfed_lightning.flower.engine.site_engine import SiteEngine
from hetfed_lightning.flower.files.folder import SITE
from hetfed_lightning.flower.site.account_file import AccountError, begin_account, check_account

log = logging.getLogger(__name__)

ENGINE = "engine"
"""Folder, inside the state folder, of the engine's own files."""
_GLANCE = 0.2
"""Seconds between two looks at the processes and their logs."""
_ADDRESS = re.compile(r"(?P<host>[^\s/:]+|\[[0-9a-fA-F:]+\]):(?P<port>\d{1,5})")


def site_command(arguments: Sequence[str]) -> int:
    """``hetfed deploy site FOLDER --coordinator HOST:8000``: takes part with the participant of FOLDER/site.yaml.

    It calls the coordinator and accepts no calls, runs the installed program and no code that is sent, and goes on
    until Ctrl-C or SIGTERM. A process that ends is started again, and an absent coordinator is waited for.

    Returns:
        0 when it was told to stop.

    Raises:
        ConfigError: If a file is missing or cannot be used, or the site runs already.
    """
    parser = ArgumentParser(prog="hetfed deploy site", description=help_text(site_command), exit_on_error=False)
    parser.add_argument("folder", help="The site's folder, with site.yaml.")
    parser.add_argument("--coordinator", required=True, help="HOST:PORT, HOST as in the coordinator's certificate.")
    parser.add_argument(
        "--ca", type=str | None, default=None, help="Certificate of the coordinator's authority; else FOLDER/ca.pem."
    )
    parser.add_argument("--key", type=str | None, default=None, help="The site's private key; else FOLDER/NAME.key.")
    parser.add_argument(
        "--state",
        type=str | None,
        default=None,
        help="Folder of what must not be lost: head, optimizer; else FOLDER/state.",
    )
    parser.add_argument(
        "--begin_account",
        action="store_true",
        help="Begin the account of privacy anew with what the state folder still says, once it is lost or damaged.",
    )
    parser.add_argument("--allow_import", action="append", default=[], help="Package that site.yaml may name.")
    parser.add_argument("--insecure", action="store_true", help="Plain text, and no key: for tests alone.")
    options = parser.parse_args(list(arguments))
    folder = Path(options.folder).resolve()
    name = participant_of(folder)
    if not _ADDRESS.fullmatch(options.coordinator):
        raise ConfigError(
            f"--coordinator: expected HOST:PORT, such as fl.example.org:8000, got {options.coordinator!r}."
        )
    authority = key = None
    if options.insecure:
        if options.ca or options.key:
            raise ConfigError("--insecure uses no certificate and no key: leave out --insecure, or --ca and --key.")
        log.warning("--insecure: everything travels in plain text, to whoever answers at %s.", options.coordinator)
    else:
        authority = Path(options.ca or folder / "ca.pem").resolve()
        key = Path(options.key or folder / f"{name}.key").resolve()
        check_there(
            {
                authority: "the certificate by which the coordinator is known, which the coordinator hands out",
                key: f"this site's private key; `ssh-keygen -t ecdsa -b 384 -N '' -f {key}` makes it, and the "
                f"coordinator gets {key.name}.pub",
            }
        )
        check_site_key(key)
    state = Path(options.state or folder / "state").resolve()
    told = {"participant": name, "config": str(folder / SITE), "state-dir": str(state)}
    if options.allow_import:
        told[ALLOW_IMPORT] = ",".join(options.allow_import)
    with alone(state, name), terminated_by_exception():
        look_at_account(state, name, begin=options.begin_account)
        log.info("Site %s; state: %s, logs: %s", name, state, state / ENGINE)
        engine = SiteEngine(state / ENGINE, name, options.coordinator, told, authority=authority, key=key, app=APP)
        try:
            take_part(engine, options.coordinator)
        except (KeyboardInterrupt, SystemExit):
            log.info("Stopped; what the site knows is in %s.", state)
    return 0


def look_at_account(state: Path, name: str, *, begin: bool) -> None:
    """Refuse an unreliable account of the site's privacy, or begin one.

    Args:
        state: The site's state folder.
        name: Name of the participant.
        begin: True to begin an account with all releases that are known.

    Raises:
        ConfigError: If the account cannot be relied on.
    """
    try:
        if begin:
            known = begin_account(state, name)
            log.warning(
                "The account of %s's privacy begins anew with %d private steps, what %s says at least. What was "
                "released beyond them adds to its epsilon, and is not in it.", name, known.releases, state,
            )  # fmt: skip
        check_account(state, name)
    except AccountError as error:
        raise ConfigError(str(error)) from error


def take_part(engine: SiteEngine, coordinator: str) -> None:
    """Run the processes of a site and show events, until an exception ends it.

    Args:
        engine: Engine of the site, not yet started.
        coordinator: ``host:port`` of the coordinator.
    """
    lines = SiteLog(engine.folder, coordinator)
    with engine:
        while True:
            happened = list(lines.new())
            if ended := engine.look_after():
                lines.forget()  # So that the next connection is shown again.
            for sentence in [*happened, *ended]:
                sys.stdout.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {sentence}\n")
            sys.stdout.flush()
            time.sleep(_GLANCE)


def participant_of(folder: Path) -> str:
    """Name of the participant of a site's folder.

    Raises:
        ConfigError: If it has none, or several.
    """
    path = folder / SITE
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such file. The coordinator sends it, with what lies beside it.")
    try:
        (name,) = read_config(str(path))["model"]["participants"]
    except ConfigError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{path}: model.participants: expected one participant by its name: {error}") from error
    return str(name)


@contextmanager
def alone(state: Path, name: str) -> Iterator[None]:
    """Context in which no second process of the same site uses its state.

    Args:
        state: The site's state folder.
        name: Name of the participant.

    Raises:
        ConfigError: If there is another process.
    """
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (state / "site.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"{state}: `hetfed deploy site` of {name} runs already, on this state.") from error
        yield
