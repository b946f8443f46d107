"""A link as the coordinator starts it, for all tests of this folder."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from nescient_fl.deployment.certificates import ServerCertificate, create_authority, issue_server_certificate
from nescient_fl.deployment.coordinator import open_link
from nescient_fl.deployment.flower import free_port
from nescient_fl.deployment.roles import CoordinatorSettings


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> ServerCertificate:
    folder = tmp_path_factory.mktemp("link")
    create_authority(folder / "ca", "tests")
    return issue_server_certificate(folder / "ca", ["127.0.0.1"], folder / "out")


@pytest.fixture(scope="session")
def link(certificate: ServerCertificate) -> Iterator[CoordinatorSettings]:
    """A SuperLink as the coordinator starts it."""
    with tempfile.TemporaryDirectory(prefix="l", dir="/tmp") as name:
        folder = Path(name)
        settings = CoordinatorSettings(
            **{"state": folder / "state", "listen": f"127.0.0.1:{free_port()}", "ca": certificate.authority},
            **{"certificate": certificate.certificate, "key": certificate.key, "nodes": folder, "run": folder},
        )
        settings.state.mkdir()
        with open_link(settings, lambda *_, **__: None) as running:
            running.control.wait(120, running.alive)
            yield settings
