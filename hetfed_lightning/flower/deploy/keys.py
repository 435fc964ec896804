"""``hetfed deploy keys``: certificates and keys for a trial of a deployment, and a page on those for production."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from jsonargparse import ArgumentParser
from jsonargparse.typing import PositiveInt

from hetfed_lightning.cli.errors import ConfigError
from hetfed_lightning.cli.help_text import help_text
from hetfed_lightning.flower.files.certificates import (
    LOOPBACK,
    Certificate,
    make_authority,
    make_node_key,
    make_server_certificate,
    serves,
    write_private,
)
from hetfed_lightning.flower.files.folder import KeyFolder, site_names

log = logging.getLogger(__name__)


def keys_command(arguments: Sequence[str]) -> None:
    """``hetfed deploy keys DEPLOYMENT``: a test authority, a server certificate and a key for every site.

    Raises:
        ConfigError: If all of them are there already, or the folder is no deployment.
    """
    parser = ArgumentParser(prog="hetfed deploy keys", description=help_text(keys_command), exit_on_error=False)
    parser.add_argument("deployment", help="Folder that `hetfed deploy init` has written.")
    parser.add_argument(
        "--host", action="append", default=[], help="Name or address by which sites reach the coordinator; repeatable."
    )
    parser.add_argument("--days", type=PositiveInt, default=90, help="Until the server certificate expires.")
    parser.add_argument("--overwrite", action="store_true", help="Make all anew. Sites need the new files then.")
    options = parser.parse_args(list(arguments))
    deployment = Path(options.deployment)
    made = make_keys(deployment, hosts=options.host, days=options.days, overwrite=options.overwrite)
    if not made:
        raise ConfigError(
            f"{deployment / 'keys'}: all keys are there, and the server's certificate is valid for every --host. To "
            "make all of them anew, pass --overwrite."
        )
    log.info("Made in %s: %s", deployment / "keys", ", ".join(path.name for path in made))
    log.info("For trying out only: %s says what to use in production.", deployment / "keys" / "README.md")


def make_keys(
    deployment: Path, *, hosts: Sequence[str] = (), days: float = 90.0, overwrite: bool = False
) -> list[Path]:
    """Files of missing keys, made here; others stay, unless the server's certificate lacks a host or has expired.

    Args:
        deployment: Folder of the deployment, with a folder for each site.
        hosts: Names and addresses of the coordinator's machine beside those of loopback.
        days: Days until the server certificate expires.
        overwrite: True to make all of them anew.

    Returns:
        The files that were written.

    Raises:
        ConfigError: If there are no sites, or the authority's files are of different pairs.
    """
    sites, folder = site_names(deployment), KeyFolder(deployment / "keys")
    folder.path.mkdir(mode=0o700, exist_ok=True)
    if overwrite:
        for path in [*folder.path.glob("*.pem"), *folder.path.glob("*.key"), *folder.path.glob("*.pub")]:
            path.unlink()
    made: list[Path] = []

    def write(public: Path, content: bytes, private: Path, secret: bytes) -> None:
        private.unlink(missing_ok=True)  # half a pair is of no use
        write_private(private, secret)
        public.write_bytes(content)
        made.extend([public, private])

    if not (_has_authority(folder) or _has_server(folder)):
        authority = make_authority()
        write(folder.authority, authority.pem, folder.authority_key, authority.key_pem)
    if not (_has_server(folder) and _serves(folder, hosts)):
        server = make_server_certificate(_read_authority(folder), [*LOOPBACK, *hosts], days=days)
        write(folder.server, server.pem, folder.server_key, server.key_pem)
    for site in sites:
        if not (folder.private(site).exists() and folder.public(site).exists()):
            private, public = make_node_key()
            write(folder.public(site), public, folder.private(site), private)
    if made:
        page = files(__package__).joinpath("keys.md").read_text(encoding="utf-8")
        (folder.path / "README.md").write_text(page, encoding="utf-8")
    return made


def _has_authority(folder: KeyFolder) -> bool:
    return folder.authority.exists() and folder.authority_key.exists()


def _has_server(folder: KeyFolder) -> bool:
    """True if the coordinator's files are there, of whatever authority."""
    return folder.server.exists() and folder.server_key.exists() and folder.authority.exists()


def _serves(folder: KeyFolder, hosts: Sequence[str]) -> bool:
    try:
        return serves(folder.server, hosts)
    except ValueError as error:
        raise ConfigError(f"{folder.server}: expected a certificate: {error}") from error


def _read_authority(folder: KeyFolder) -> Certificate:
    if not _has_authority(folder):
        raise ConfigError(
            f"{folder.authority_key}: it is missing, and a server certificate in the place of {folder.server}, which "
            "has expired or lacks a --host, has to be signed with it. Renew that certificate, or pass --overwrite to "
            "make all keys anew; sites need the new files then."
        )
    try:
        return Certificate.read(folder.authority, folder.authority_key)
    except ValueError as error:
        raise ConfigError(str(error)) from error
