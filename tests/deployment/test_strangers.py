"""No stranger gets in: a real link, and what it refuses; and what members refuse of a link."""

import asyncio
import datetime
import socket
import ssl
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.proto.fleet_pb2 import ActivateNodeRequest, RegisterNodeFleetRequest  # pylint: disable=no-name-in-module
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from nescient_fl.deployment import certificates, reach
from nescient_fl.deployment.certificates import ServerCertificate, create_authority, issue_server_certificate
from nescient_fl.deployment.control import Control
from nescient_fl.deployment.coordinator import open_link
from nescient_fl.deployment.flower import free_port
from nescient_fl.deployment.link import LOOPBACK, OwnHostOnly
from nescient_fl.deployment.node_keys import bind, create_node_key
from nescient_fl.deployment.roles import CoordinatorSettings
from nescient_fl.errors import UserError
from nescient_fl.mpc.keys import new_keys


def activate(settings: CoordinatorSettings, key: Path, shown: bytes, *, register: bool = False) -> None:
    """Join as a SuperNode does, with a node key of one's own and the public key that one shows."""
    private: Any = load_ssh_private_key(key.read_bytes(), None)
    with FleetHttpClient.from_server_address(
        settings.listen,
        False,
        settings.ca.read_bytes(),
        interceptors=[
            RuntimeVersionHttpInterceptor(component_name="SuperNode"),
            NodeAuthHttpInterceptor(private, private.public_key()),
        ],
    ) as client:
        if register:
            client.RegisterNode(RegisterNodeFleetRequest(public_key=shown))
        client.ActivateNode(ActivateNodeRequest(public_key=shown, heartbeat_interval=30))


@pytest.mark.slow
def test_only_an_admitted_node_key_is_let_in(link: CoordinatorSettings, tmp_path: Path) -> None:
    known = bind("site-1", "site", create_node_key(tmp_path / "known"), None).pem
    stranger = bind("site-2", "site", create_node_key(tmp_path / "stranger"), None).pem
    control = Control(link.listen, link.ca)
    control.register("site-1", known)
    with pytest.raises(httpx.HTTPStatusError):
        activate(link, tmp_path / "stranger", stranger)
    with pytest.raises(httpx.HTTPStatusError):
        activate(link, tmp_path / "stranger", stranger, register=True)
    # Its own signature under somebody else's key.
    with pytest.raises(httpx.HTTPStatusError):
        activate(link, tmp_path / "stranger", known)
    activate(link, tmp_path / "known", known)
    with pytest.raises(UserError, match="does not register site-2"):
        control.register("site-2", known)
    control.close()


@pytest.mark.slow
def test_a_downgraded_tls_version_is_refused(link: CoordinatorSettings) -> None:
    host, _, port = link.listen.partition(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(link.ca)
    with socket.create_connection((host, int(port))) as plain, context.wrap_socket(plain, server_hostname=host) as good:
        assert good.version() == "TLSv1.3"
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.load_verify_locations(link.ca)
    old.set_ciphers("ALL:@SECLEVEL=0")
    old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    with socket.create_connection((host, int(port))) as plain, pytest.raises((ssl.SSLError, OSError)):
        old.wrap_socket(plain, server_hostname=host)


@pytest.mark.slow
def test_a_foreign_authority_is_told_from_ones_own(link: CoordinatorSettings, tmp_path: Path) -> None:
    foreign = create_authority(tmp_path / "foreign", "tests")
    with pytest.raises(UserError, match="has no certificate of"):
        reach.describe_link(link.listen, foreign)
    assert "TLSv1.3" in reach.describe_link(link.listen, link.ca)
    assert "within" in reach.describe_clock(link.listen, link.ca)
    assert not Control(link.listen, foreign).reachable()


def test_a_clock_an_hour_or_two_behind_takes_a_certificate_made_just_now(
    certificate: ServerCertificate, tmp_path: Path
) -> None:
    member = new_keys(tmp_path / "party", "party-1", "party").certificate_pem.encode()
    made = [member, certificate.authority.read_bytes(), certificate.certificate.read_bytes()]
    earlier = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=12)
    assert all(x509.load_pem_x509_certificate(pem).not_valid_before_utc < earlier for pem in made)


@pytest.mark.slow
def test_a_node_joins_no_link_of_a_foreign_or_expired_certificate(
    link: CoordinatorSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = create_node_key(tmp_path / "key")
    public = bind("site-1", "site", key, None).pem
    foreign = create_authority(tmp_path / "foreign", "tests")
    with pytest.raises(httpx.ConnectError, match=r"unable to get local issuer certificate|self-signed"):
        activate(replace(link, ca=foreign), tmp_path / "key", public)
    create_authority(tmp_path / "ca", "tests")
    monkeypatch.setattr(certificates, "_EARLY", datetime.timedelta(days=10))
    old = issue_server_certificate(tmp_path / "ca", ["127.0.0.1"], tmp_path / "old", days=-1)
    settings = replace(
        link,
        **{"state": tmp_path / "state", "listen": f"127.0.0.1:{free_port()}"},
        **{"ca": old.authority, "certificate": old.certificate, "key": old.key},
    )
    settings.state.mkdir()
    with open_link(settings, lambda *_, **__: None):
        deadline = time.monotonic() + 60
        while True:
            with pytest.raises(httpx.ConnectError) as refused:
                activate(settings, tmp_path / "key", public)
            if "refused" not in str(refused.value) or time.monotonic() > deadline:
                break
            time.sleep(0.1)
    assert "certificate has expired" in str(refused.value)


def test_an_expired_certificate_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create_authority(tmp_path / "ca", "tests")
    monkeypatch.setattr(certificates, "_EARLY", datetime.timedelta(days=10))
    old = issue_server_certificate(tmp_path / "ca", ["127.0.0.1"], tmp_path / "old", days=-1)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(old.certificate, old.key)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            plain, _ = listener.accept()
            with plain, pytest.raises((ssl.SSLError, OSError)):
                context.wrap_socket(plain, server_side=True)

        serving = threading.Thread(target=serve)
        serving.start()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(UserError, match="certificate has expired"):
            reach.describe_link(address, old.authority)
        serving.join()


async def _asked(path: str, client: str, kind: str = "http") -> tuple[list[Any], bool]:
    heard: list[bool] = []
    sent: list[Any] = []

    async def app(*_: Any) -> None:
        heard.append(True)

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError

    await OwnHostOnly(app, {*LOOPBACK, "10.0.0.1"})({"type": kind, "path": path, "client": (client, 5)}, receive, send)
    return [message.get("status") for message in sent if "status" in message], bool(heard)


@pytest.mark.parametrize(
    ("path", "client", "let_in"),
    [
        ("/v1/fleet/pull-messages", "10.0.0.9", True),
        ("/health", "10.0.0.9", True),
        ("/v1/control/start-run", "10.0.0.9", False),
        ("/v1/control/register-node", "10.0.0.9", False),
        ("/v1/runtime/acquire-task", "10.0.0.9", False),
        ("/docs", "10.0.0.9", False),
        ("/v1/fleetx", "10.0.0.9", False),
        ("/v1/control/start-run", "127.0.0.1", True),
        ("/v1/runtime/acquire-task", "10.0.0.1", True),
    ],
)
def test_controls_are_for_the_coordinators_own_host(path: str, client: str, let_in: bool) -> None:
    statuses, heard = asyncio.run(_asked(path, client))
    assert heard == let_in
    assert statuses == ([] if let_in else [403])


def test_other_protocols_are_not_a_way_around() -> None:
    assert asyncio.run(_asked("/v1/fleet/x", "10.0.0.9", "websocket")) == ([], False)
