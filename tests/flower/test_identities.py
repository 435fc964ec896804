"""Bad identities, each tried against the real processes of an engine that has one good site: none is admitted."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import Message, Metadata, ObjectTree, PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.protobuf.client import ProtobufClientInterceptor
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from hetfed_lightning.flower.engine.local_engine import LocalEngine
from hetfed_lightning.flower.engine.settings import free_ports
from hetfed_lightning.flower.engine.superlink_process import SuperLink
from hetfed_lightning.flower.engine.supernode_process import SuperNode
from hetfed_lightning.flower.files.certificates import (
    Certificate,
    make_authority,
    make_node_key,
    make_server_certificate,
    write_private,
)
from hetfed_lightning.flower.files.folder import KeyFolder
from tests.flower.engines import empty_engine, rounds, run_to_end, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.promise("identities")]

REFUSED_WITHIN = 45.0
"""Seconds. A node that is refused ends by itself, so that its operator sees why."""


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalEngine]:
    """One site, which is online."""
    with empty_engine(tmp_path_factory.mktemp("identities"), "clinic", app=None) as engine:
        with engine.control() as control:
            wait_until(lambda: online(engine) == {engine.node_ids["clinic"]}, 60, "the clinic is online")
            control.close()
        yield engine


@pytest.fixture
def keys(engine: LocalEngine) -> KeyFolder:
    assert engine.keys is not None
    return engine.keys


def online(engine: LocalEngine) -> set[int]:
    """Numbers of the nodes that the SuperLink takes for present."""
    with engine.control() as control:
        return {node for node, status in control.nodes().items() if status == "online"}


def node(
    engine: LocalEngine, name: str, *, authority: Path | None, key: Path | None, at: str | None = None
) -> SuperNode:
    """A node of whoever wants to take part, under the clinic's name."""
    (port,) = free_ports(1)
    log, told, server = engine.folder / f"{name}.log", {"participant": "clinic"}, at or engine.superlink.address
    made = SuperNode(name, server, engine.variables, log, told, port=port, authority=authority, key=key)
    made.start()
    return made


def assert_refused(engine: LocalEngine, intruder: SuperNode, words: str) -> None:
    """It ends, its log says why, and nobody is present but the clinic, with whom a run goes through."""
    try:
        ended = intruder.process.wait(REFUSED_WITHIN)
        said = intruder.process.log.read_text(encoding="utf-8")
    finally:
        intruder.process.kill()
    assert "SuperNode ID" not in said, said
    assert ended, said
    assert words in said
    assert online(engine) == {engine.node_ids["clinic"]}


def strange_key(folder: Path) -> Path:
    write_private(folder / "strange.key", make_node_key()[0])
    return folder / "strange.key"


def test_a_stranger_whose_key_is_not_registered(engine: LocalEngine, keys: KeyFolder, tmp_path: Path) -> None:
    intruder = node(engine, "stranger", authority=keys.authority, key=strange_key(tmp_path))
    assert_refused(engine, intruder, "Failed to activate SuperNode")


def test_a_node_without_a_key(engine: LocalEngine, keys: KeyFolder) -> None:
    intruder = node(engine, "keyless", authority=keys.authority, key=None)
    assert_refused(engine, intruder, "All SuperNodes must be registered")


def test_a_second_node_with_the_key_of_one_that_is_there(engine: LocalEngine, keys: KeyFolder) -> None:
    intruder = node(engine, "replayed", authority=keys.authority, key=keys.private("clinic"))
    assert_refused(engine, intruder, "Failed to activate SuperNode")


def test_a_site_that_trusts_another_authority(engine: LocalEngine, keys: KeyFolder, tmp_path: Path) -> None:
    (tmp_path / "other.pem").write_bytes(make_authority().pem)
    site = node(engine, "distrustful", authority=tmp_path / "other.pem", key=keys.private("clinic"))
    assert_refused(engine, site, "SSL/TLS handshake error")


def test_plain_text_to_a_server_that_expects_tls(engine: LocalEngine) -> None:
    intruder = node(engine, "plain", authority=None, key=None)
    time.sleep(8)
    try:
        assert "SuperNode ID" not in intruder.process.log.read_text(encoding="utf-8")
        assert online(engine) == {engine.node_ids["clinic"]}
    finally:
        intruder.process.kill()


def another_server(engine: LocalEngine, keys: KeyFolder, folder: Path, server: Certificate) -> SuperLink:
    """A SuperLink that shows another certificate; sites' keys are registered there too."""
    folder.mkdir()
    shown = KeyFolder(folder)
    shown.authority.write_bytes(keys.authority.read_bytes())
    shown.server.write_bytes(server.pem)
    write_private(shown.server_key, server.key_pem)
    return SuperLink(folder, engine.variables, shown)


@pytest.mark.parametrize("fault", ["expired", "of another authority", "for another host"])
def test_a_server_that_is_not_who_it_should_be(
    engine: LocalEngine, keys: KeyFolder, tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Certificate.read(keys.authority, keys.authority_key)
    past = datetime.now(UTC) - timedelta(days=91)
    shown = {
        "expired": make_server_certificate(authority, begins=past, days=90),
        "of another authority": make_server_certificate(make_authority()),
        "for another host": make_server_certificate(authority, ["elsewhere.example.org"]),
    }[fault]
    impostor = another_server(engine, keys, tmp_path / "server", shown)
    monkeypatch.setattr(
        "hetfed_lightning.flower.engine.superlink_process.is_healthy",
        lambda *_: "Uvicorn running" in impostor.process.tail(50),
    )
    impostor.start()
    site = node(engine, "careful", authority=keys.authority, key=keys.private("clinic"), at=impostor.address)
    try:
        assert_refused(engine, site, "SSL/TLS handshake error")
    finally:
        impostor.process.kill()
    assert "/v1/fleet/" not in impostor.process.log.read_text(encoding="utf-8"), "not one call was made"


def test_a_registered_site_sends_no_orders_and_no_more_than_is_due(engine: LocalEngine, keys: KeyFolder) -> None:
    private = load_ssh_private_key(keys.private("clinic").read_bytes(), None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    signed: list[ProtobufClientInterceptor] = [
        RuntimeVersionHttpInterceptor(component_name="SuperNode"),
        NodeAuthHttpInterceptor(private, private.public_key()),
    ]
    number = engine.node_ids["clinic"]
    order = Message(metadata=Metadata(src_node_id=1, dst_node_id=number, run_id=1, message_type="train"))
    forged = PushMessagesRequest(
        node=Node(node_id=number), messages_list=[order], message_object_trees=[ObjectTree(object_id="0" * 64)]
    )
    far_too_long = PushObjectRequest(node=Node(node_id=number), object_content=bytes(17 << 20))
    long = PushObjectRequest(node=Node(node_id=number), object_content=bytes(1 << 20))
    with FleetHttpClient.from_server_address(
        engine.superlink.address, False, keys.authority.read_bytes(), interceptors=signed
    ) as client:
        with pytest.raises(httpx.HTTPStatusError) as refused:
            client.PushMessages(forged)
        assert refused.value.response.status_code == 403
        assert "a site answers orders, in its own name, and sends none" in refused.value.response.text
        with pytest.raises(httpx.HTTPError) as cut:
            client.PushObject(far_too_long)
        assert isinstance(cut.value, httpx.WriteError) or "413" in str(cut.value)
        with pytest.raises(httpx.HTTPStatusError) as read:
            client.PushObject(long)
        assert read.value.response.json()["detail"] != "", "of no run that goes on, and it was read"
    stranger = httpx.post(
        f"https://{engine.superlink.address}/v1/fleet/push-object",
        content=bytes(1 << 17),
        verify=False,  # noqa: S501
    )
    assert stranger.status_code == 401


def test_the_good_site_is_served_all_the_while(engine: LocalEngine) -> None:
    assert [each["answered"] for each in rounds(run_to_end(engine, nodes=1, rounds=1))] == [["clinic"]]
    assert engine.nodes["clinic"].process.is_alive


def test_a_plain_server_is_not_spoken_to_by_a_site_that_expects_tls(
    engine: LocalEngine, keys: KeyFolder, tmp_path: Path
) -> None:
    plain = SuperLink(tmp_path, engine.variables, None)
    plain.start()
    site = node(engine, "expectant", authority=keys.authority, key=keys.private("clinic"), at=plain.address)
    try:
        assert_refused(engine, site, "SSL/TLS handshake error")
    finally:
        plain.process.kill()
