"""Certificates and keys in the forms that the engine reads: for trials on one machine or in a laboratory.

In production neither is made here: see :mod:`hetfed_lightning.flower.deploy.keys`.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LOOPBACK = ("localhost", "127.0.0.1", "::1")
CURVE = ec.SECP384R1
"""Curve of all keys; the engine takes NIST's curves only, and names this one."""
_CLOCK_SKEW = timedelta(minutes=5)


@dataclass(frozen=True)
class Certificate:
    """A certificate and the private key that belongs to it.

    Attributes:
        certificate: The certificate, which may be shown to everyone.
        key: The private key, which stays on its machine.
    """

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> bytes:
        """The certificate as text."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """The private key as text, without a password: the engine has no way to ask for one."""
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    @classmethod
    def read(cls, certificate: Path, key: Path) -> Certificate:
        """Certificate and key from files.

        Args:
            certificate: File of the certificate.
            key: File of the private key.

        Raises:
            ValueError: If a file cannot be read as such, or they do not belong together; names the file.
        """
        try:
            private = serialization.load_pem_private_key(key.read_bytes(), password=None)
            found = x509.load_pem_x509_certificate(certificate.read_bytes())
        except (ValueError, TypeError) as error:
            raise ValueError(f"{certificate} and {key}: expected a certificate and its key: {error}") from error
        if not isinstance(private, ec.EllipticCurvePrivateKey) or private.public_key() != found.public_key():
            raise ValueError(f"{key}: it is not the private key of {certificate}.")
        return cls(found, private)


def make_authority(days: float = 365.0) -> Certificate:
    """Authority that signs server certificates and nothing else.

    Args:
        days: Days until it expires.
    """
    key = ec.generate_private_key(CURVE())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hetfed test authority")])
    usage = x509.KeyUsage(
        digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    builder = _builder(name, name, key, datetime.now(UTC) - _CLOCK_SKEW, days)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(usage, critical=True)
    builder = builder.add_extension(_authority_key(key), critical=False)
    return Certificate(builder.sign(key, hashes.SHA384()), key)


def make_server_certificate(
    authority: Certificate, hosts: Iterable[str] = LOOPBACK, *, days: float = 90.0, begins: datetime | None = None
) -> Certificate:
    """Certificate for the coordinator's machine under all of its names.

    Args:
        authority: Authority that signs it.
        hosts: Names and addresses by which sites reach it.
        days: Days until it expires.
        begins: Time from which it is valid; by default five minutes ago, since clocks differ.
    """
    key = ec.generate_private_key(CURVE())
    usage = x509.KeyUsage(
        digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=False, crl_sign=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hetfed test server")])
    builder = _builder(subject, authority.certificate.subject, key, begins or datetime.now(UTC) - _CLOCK_SKEW, days)
    builder = builder.add_extension(
        x509.SubjectAlternativeName([_general_name(one) for one in dict.fromkeys(hosts)]), critical=False
    )
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(usage, critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    builder = builder.add_extension(_authority_key(authority.key), critical=False)
    return Certificate(builder.sign(authority.key, hashes.SHA384()), key)


def serves(certificate: Path, hosts: Iterable[str] = ()) -> bool:
    """True if a server's certificate covers all of some names and addresses, and has not expired.

    Args:
        certificate: File of the certificate.
        hosts: The names and addresses.

    Raises:
        ValueError: If the file is no certificate.
    """
    found = x509.load_pem_x509_certificate(certificate.read_bytes())
    try:
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return False
    return all(_general_name(one) in names for one in hosts) and datetime.now(UTC) < found.not_valid_after_utc


def make_node_key() -> tuple[bytes, bytes]:
    """A site's private and public key, both in OpenSSH's form: the engine reads no other."""
    key = ec.generate_private_key(CURVE())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return private, public + b"\n"


def write_private(path: Path, content: bytes) -> None:
    """Write a file that no other user of the machine may read, from the first moment on.

    Args:
        path: File to write.
        content: Its content.

    Raises:
        FileExistsError: If the file is there.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, begins: datetime, days: float
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(begins + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _authority_key(key: ec.EllipticCurvePrivateKey) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
