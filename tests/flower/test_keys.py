import ssl
import stat
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from hetfed_lightning.cli.errors import ConfigError
from hetfed_lightning.flower.cli import main
from hetfed_lightning.flower.deploy.keys import make_keys
from hetfed_lightning.flower.files.certificates import Certificate, make_authority, make_server_certificate
from hetfed_lightning.flower.files.folder import KeyFolder
from tests.flower.deployments import empty_deployment

SITES = ("clinic", "server")  # the second has the name of one of the coordinator's files


@pytest.fixture
def deployment(tmp_path: Path) -> Path:
    return empty_deployment(tmp_path / "deployment", *SITES)


@pytest.fixture
def keys(deployment: Path) -> KeyFolder:
    return KeyFolder(deployment / "keys")


def verified(certificate: Certificate, authority: Certificate, host: str) -> bool:
    """Whether a client that trusts the authority talks to a server of this name that shows the certificate."""
    name = x509.DNSName(host) if host[0].isalpha() else x509.IPAddress(ip_address(host))
    verifier = PolicyBuilder().store(Store([authority.certificate])).build_server_verifier(name)
    try:
        verifier.verify(certificate.certificate, [])
    except VerificationError:
        return False
    return True


def test_every_site_has_a_key_pair_that_the_engine_reads(deployment: Path, keys: KeyFolder) -> None:
    assert main(["keys", str(deployment)]) == 0
    for site in SITES:
        private = load_ssh_private_key(keys.private(site).read_bytes(), None)
        assert isinstance(private, ec.EllipticCurvePrivateKey)
        assert isinstance(private.curve, ec.SECP384R1)
        assert load_ssh_public_key(keys.public(site).read_bytes()) == private.public_key()
    assert keys.public("clinic").read_bytes() != keys.public("server").read_bytes()


def test_private_files_are_for_their_owner_alone(deployment: Path, keys: KeyFolder) -> None:
    main(["keys", str(deployment)])
    private = [keys.authority_key, keys.server_key, *map(keys.private, SITES)]
    assert [stat.S_IMODE(path.stat().st_mode) for path in private] == [0o600] * len(private)
    public = [keys.authority, keys.server, *map(keys.public, SITES)]
    assert not [path for path in public if b"PRIVATE" in path.read_bytes()]


def test_the_server_is_known_by_every_name_it_was_given(deployment: Path, keys: KeyFolder) -> None:
    main(["keys", str(deployment), "--host", "coordinator.example.org", "--host", "10.0.0.7"])
    server = Certificate.read(keys.server, keys.server_key)
    authority = Certificate.read(keys.authority, keys.authority_key)
    for host in ("localhost", "127.0.0.1", "::1", "coordinator.example.org", "10.0.0.7"):
        assert verified(server, authority, host), host
    assert not verified(server, authority, "other.example.org")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(keys.server, keys.server_key)


def test_a_certificate_of_another_authority_or_of_the_past_is_not_trusted() -> None:
    authority = make_authority()
    assert not verified(make_server_certificate(make_authority()), authority, "localhost")
    past = datetime.now(UTC) - timedelta(days=3)
    assert not verified(make_server_certificate(authority, begins=past, days=2), authority, "localhost")
    assert verified(make_server_certificate(authority, begins=past, days=4), authority, "localhost")


def test_nothing_is_overwritten_unless_asked_for(deployment: Path, keys: KeyFolder) -> None:
    main(["keys", str(deployment)])
    before = {path.name: path.read_bytes() for path in keys.path.iterdir()}
    with pytest.raises(ConfigError, match=r"all keys are there.*pass --overwrite"):
        main(["keys", str(deployment)])
    assert {path.name: path.read_bytes() for path in keys.path.iterdir()} == before
    main(["keys", str(deployment), "--overwrite"])
    after = {path.name: path.read_bytes() for path in keys.path.iterdir()}
    assert sorted(after) == sorted(before)
    assert [name for name in after if after[name] == before[name]] == ["README.md"]


def test_a_server_certificate_is_made_anew_for_another_host_or_after_its_time(
    deployment: Path, keys: KeyFolder
) -> None:
    make_keys(deployment)  # as `hetfed deploy local` does
    before = {path.name: path.read_bytes() for path in keys.path.iterdir()}
    assert make_keys(deployment, hosts=["localhost"]) == []
    assert make_keys(deployment, hosts=["coordinator.example.org"]) == [keys.server, keys.server_key]
    authority = Certificate.read(keys.authority, keys.authority_key)
    assert verified(Certificate.read(keys.server, keys.server_key), authority, "coordinator.example.org")
    after = {path.name: path.read_bytes() for path in keys.path.iterdir()}
    assert {name for name in before if before[name] != after[name]} == {"server.pem", "server-key.pem"}
    keys.server.write_bytes(make_server_certificate(authority, days=1e-9).pem)
    assert make_keys(deployment) == [keys.server, keys.server_key]
    keys.server.write_bytes(make_server_certificate(authority, days=1e-9).pem)
    keys.authority_key.unlink()
    with pytest.raises(ConfigError, match=r"ca-key.pem: it is missing.*has expired.*--overwrite"):
        make_keys(deployment)


def test_a_newcomer_gets_a_key_and_all_others_keep_theirs(deployment: Path, keys: KeyFolder) -> None:
    make_keys(deployment)
    before = {path.name: path.read_bytes() for path in keys.path.iterdir()}
    keys.authority_key.unlink()  # as where the coordinator's certificate is of an authority of its own
    empty_deployment(deployment.parent / "other", "newcomer")
    (deployment.parent / "other" / "sites" / "newcomer").rename(deployment / "sites" / "newcomer")
    assert make_keys(deployment) == [keys.public("newcomer"), keys.private("newcomer")]
    assert {name: (keys.path / name).read_bytes() for name in before if name != "ca-key.pem"} == {
        name: content for name, content in before.items() if name != "ca-key.pem"
    }


def test_what_to_use_in_production_is_written_beside_them(deployment: Path, keys: KeyFolder) -> None:
    make_keys(deployment)
    text = (keys.path / "README.md").read_text(encoding="utf-8")
    assert all(word in text for word in ("In production", "never the private key", "Rotation", "/v1/fleet/"))


def test_a_folder_without_sites_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none: there is no such folder. `hetfed deploy init"):
        main(["keys", str(tmp_path / "none")])
    with pytest.raises(ConfigError, match=r"expected sites/NAME/site.yaml, found none"):
        main(["keys", str(tmp_path)])


def test_keys_of_different_pairs_are_refused(deployment: Path, keys: KeyFolder) -> None:
    make_keys(deployment)
    keys.authority_key.write_bytes(make_authority().key_pem)
    keys.server.unlink()
    with pytest.raises(ConfigError, match=r"ca-key.pem: it is not the private key of"):
        make_keys(deployment)
