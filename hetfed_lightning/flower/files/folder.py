"""Layout of a deployment's folder, as ``hetfed deploy init`` writes it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hetfed_lightning.cli.errors import ConfigError

SITE = "site.yaml"
SERVER = "server.yaml"


@dataclass(frozen=True)
class KeyFolder:
    """Paths of certificates and keys.

    Attributes:
        path: ``DEPLOYMENT/keys``.
    """

    path: Path

    @property
    def authority(self) -> Path:
        """Certificate of the authority, which sites trust."""
        return self.path / "ca.pem"

    @property
    def authority_key(self) -> Path:
        """The authority's private key."""
        return self.path / "ca-key.pem"

    @property
    def server(self) -> Path:
        """The coordinator's certificate."""
        return self.path / "server.pem"

    @property
    def server_key(self) -> Path:
        """The coordinator's private key."""
        return self.path / "server-key.pem"

    def private(self, site: str) -> Path:
        """A site's private key."""
        return self.path / f"{site}.key"

    def public(self, site: str) -> Path:
        """A site's public key."""
        return self.path / f"{site}.pub"


def site_names(deployment: Path) -> list[str]:
    """Names of the sites, equal to those of their participants, sorted.

    Raises:
        ConfigError: If the folder is missing or has no sites.
    """
    made = f"`hetfed deploy init CONFIG -o {deployment}` makes"
    if not deployment.is_dir():
        raise ConfigError(f"{deployment}: there is no such folder. {made} one.")
    names = sorted(path.parent.name for path in deployment.glob(f"sites/*/{SITE}"))
    if not names:
        raise ConfigError(f"{deployment}: expected sites/NAME/{SITE}, found none. {made} them.")
    return names
