"""``hetfed deploy coordinator``: leads a run between sites on other machines, which can only take part."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser
from jsonargparse.typing import PositiveInt

from hetfed_lightning.cli.errors import ConfigError
from hetfed_lightning.cli.help_text import help_text
from hetfed_lightning.cli.strict_yaml import read_config
from hetfed_lightning.flower.coordinator.shared_layouts import SHARED
from hetfed_lightning.flower.deploy.follow_run import run_app
from hetfed_lightning.flower.deploy.key_files import (
    check_private,
    check_public_key,
    check_server_certificate,
    check_there,
)
from hetfed_lightning.flower.deploy.local import run_folder
from hetfed_lightning.flower.deploy.reply_limit import reply_bytes
from hetfed_lightning.flower.engine.limits import MIB, Limits
from hetfed_lightning.flower.engine.local_engine import LocalEngine
from hetfed_lightning.flower.engine.superlink_process import EVERYWHERE, local_host
from hetfed_lightning.flower.files.folder import SERVER, KeyFolder

log = logging.getLogger(__name__)

APP_FILE = "pyproject.toml"


def coordinator_command(arguments: Sequence[str]) -> int:
    """``hetfed deploy coordinator DEPLOYMENT``: leads one run of sites that call from elsewhere.

    Sites are served at the port, over TLS and to registered keys alone; runs are started from this machine alone. When
    the run has ended everything is stopped; sites wait for the next one.

    Returns:
        0 if the run went through, 1 if not, 130 if it was interrupted.

    Raises:
        ConfigError: If a file is missing or cannot be used, or there is no run to resume.
    """
    parser = ArgumentParser(
        prog="hetfed deploy coordinator", description=help_text(coordinator_command), exit_on_error=False
    )
    parser.add_argument("deployment", help="Folder that `hetfed deploy init` has written: its app/ and server/.")
    parser.add_argument(
        "--host", default=EVERYWHERE, help="Address of this machine to listen at; 0.0.0.0 for all of them."
    )
    parser.add_argument("--port", type=int, default=8000, help="To listen at.")
    parser.add_argument(
        "--keys",
        type=str | None,
        default=None,
        help="Folder of ca.pem, server.pem, server-key.pem and NAME.pub of every site; by default DEPLOYMENT/keys.",
    )
    parser.add_argument("--output", type=str | None, default=None, help="Folder of runs; by default DEPLOYMENT/runs.")
    parser.add_argument("--resume", action="store_true", help="Go on from the last completed round of the last run.")
    parser.add_argument(
        "--max_request",
        type=PositiveInt,
        default=Limits.request // MIB,
        help="MiB of one request of a site; of a tensor it has a piece of 5.",
    )
    parser.add_argument(
        "--max_reply",
        type=PositiveInt | None,
        default=None,
        help="MiB that a site may send for one order; by default 1024 and four times the largest shared state.",
    )
    parser.add_argument(
        "--insecure", action="store_true", help="Plain text, and no keys: whoever reaches the port takes part."
    )
    options = parser.parse_args(list(arguments))
    deployment = Path(options.deployment).resolve()
    sites = sites_of(deployment)
    if options.insecure and options["keys"]:
        raise ConfigError("--insecure uses no keys: leave one of --insecure and --keys out.")
    keys = None
    if not options.insecure:
        keys = KeyFolder(Path(options["keys"] or deployment / "keys").resolve())
        check_keys(keys, sites, local_host(options.host))
    else:
        log.warning("--insecure: everything travels in plain text, and any node is let in.")
    run = run_folder(Path(options.output or deployment / "runs").resolve(), resume=options.resume)
    log.info("Run: %s (logs of all processes: %s)", run, run / "engine")
    log.info("Sites call %s:%d; awaited are %s.", options.host, options.port, ", ".join(sites))
    reply = options.max_reply * MIB if options.max_reply else reply_bytes(deployment / "server" / SHARED)
    engine = LocalEngine(
        run / "engine", {}, keys=keys, app=None, limits=Limits(request=options.max_request * MIB, reply=reply),
        host=options.host, port=options.port, elsewhere=sites,
    )  # fmt: skip
    config: dict[str, str | bool] = {
        "config": str(deployment / "server" / SERVER),
        "run-dir": str(run),
        "resume": options.resume,
    }
    return run_app(engine, deployment / "app", config)


def sites_of(deployment: Path) -> list[str]:
    """Names of the sites in the server's configuration.

    Raises:
        ConfigError: If the folder is not the coordinator's.
    """
    server = deployment / "server" / SERVER
    for path in (server, deployment / "app" / APP_FILE):
        if not path.is_file():
            raise ConfigError(
                f"{path}: there is no such file; `hetfed deploy init CONFIG -o {deployment}` makes it, and the "
                "coordinator has the folders app/ and server/."
            )
    found = read_config(str(server)).get("sites")
    if not isinstance(found, list) or not found or not all(isinstance(one, str) for one in found):
        raise ConfigError(f"{server}: sites: expected a list of names, got {found!r}.")
    return found


def check_keys(keys: KeyFolder, sites: Sequence[str], host: str) -> None:
    """Refuse certificates and keys that cannot be used.

    Args:
        keys: Folder of the keys.
        sites: Sites whose public keys have to be there.
        host: Name by which this machine calls itself.

    Raises:
        ConfigError: If one is missing or wrong; names the file and what to change.
    """
    test = "for a trial `hetfed deploy keys` makes it"
    check_there(
        {
            keys.authority: f"the certificate of the authority by which sites know the coordinator ({test})",
            keys.server: f"the coordinator's certificate ({test})",
            keys.server_key: f"the private key of the coordinator's certificate ({test})",
            **{keys.public(name): f"the public key that {name} sends, its {name}.key.pub" for name in sites},
        }
    )
    check_private(keys.server_key)
    check_server_certificate(keys.server, host)
    for name in sites:
        check_public_key(keys.public(name))
