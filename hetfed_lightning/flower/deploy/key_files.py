"""Checks of certificates and keys that others have made, before any process is started with them."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key

from hetfed_lightning.cli.errors import ConfigError

PLAIN = "Plain text, without keys, has to be asked for by --insecure."


def check_there(files: Mapping[Path, str]) -> None:
    """Refuse to go on without a file.

    Args:
        files: Each file with its purpose and where it comes from, for messages.

    Raises:
        ConfigError: If some are missing; names all of them.
    """
    missing = [f"{path}: there is no such file; {what}." for path, what in files.items() if not path.is_file()]
    if missing:
        raise ConfigError("\n".join([*missing, PLAIN]))


def check_private(path: Path) -> None:
    """Refuse a private file that other users may read.

    Raises:
        ConfigError: If they may; names it.
    """
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise ConfigError(
            f"{path}: its mode is {mode:03o}, so that others of this machine may read the private key. "
            f"`chmod 600 {path}`; if it may have been read, make a new one."
        )


def check_site_key(path: Path) -> None:
    """Refuse a file that the engine does not take as a site's private key.

    Raises:
        ConfigError: If it does not; names the file.
    """
    check_private(path)
    wanted = "expected a private key as `ssh-keygen -t ecdsa -b 384 -N ''` makes it"
    try:
        key = load_ssh_private_key(path.read_bytes(), None)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{path}: {wanted}: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"{path}: {wanted}, found one of another kind.")


def check_public_key(path: Path) -> None:
    """Refuse a file that is no site's public key.

    Raises:
        ConfigError: If it is none; names the file.
    """
    try:
        key = load_ssh_public_key(path.read_bytes())
    except ValueError as error:
        raise ConfigError(f"{path}: expected a public key as `ssh-keygen -t ecdsa -b 384` makes it: {error}") from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ConfigError(f"{path}: expected a key of `ssh-keygen -t ecdsa -b 384`, found one of another kind.")


def check_server_certificate(path: Path, host: str) -> None:
    """Refuse a certificate that has expired, or that does not cover this machine's name.

    Args:
        path: File of the certificate, or of a chain that it begins.
        host: Name by which the engine's own programs reach this machine.

    Raises:
        ConfigError: If it cannot be used; names the file and its content.
    """
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
    except ValueError as error:
        raise ConfigError(f"{path}: expected a certificate in PEM form: {error}") from error
    if certificate.not_valid_after_utc < datetime.now(UTC):
        raise ConfigError(f"{path}: it expired on {certificate.not_valid_after_utc:%Y-%m-%d}; renew it.")
    names = _names(certificate)
    if host.lower() not in names:
        raise ConfigError(
            f"{path}: it is for {', '.join(names) or 'no name'}, and the run's own programs call {host}. "
            "Pass one of its names as --host (this machine listens at its address then), or have it made for "
            f"{host} too."
        )


def _names(certificate: x509.Certificate) -> list[str]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    addresses = [str(one) for one in found.get_values_for_type(x509.IPAddress)]
    return [one.lower() for one in found.get_values_for_type(x509.DNSName)] + addresses
