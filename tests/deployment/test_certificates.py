"""The link's certificate: who it is for, and what it cannot be."""

from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509

from nescient_fl.deployment.certificates import create_authority, issue_server_certificate
from nescient_fl.errors import UserError
from nescient_fl.federation import federation


def test_a_certificate_names_every_host_it_is_for(tmp_path: Path) -> None:
    create_authority(tmp_path / "ca", "tests")
    long = f"{'a' * 60}.{'b' * 60}.example"
    made = issue_server_certificate(tmp_path / "ca", [long, "10.0.0.1", "::1"], tmp_path / "link")
    certificate = x509.load_pem_x509_certificate(made.certificate.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(name.value) for name in names] == [long, "10.0.0.1", "::1"]
    assert made.key.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("hosts", [[""], ["127.0.0.1", ""], ["bücher.example"], []])
def test_a_host_that_cannot_be_is_refused_before_anything_is_written(hosts: list[str], tmp_path: Path) -> None:
    create_authority(tmp_path / "ca", "tests")
    with pytest.raises(UserError, match="a host is a name in plain letters, or an address"):
        issue_server_certificate(tmp_path / "ca", hosts, tmp_path / "link")
    assert not (tmp_path / "link").exists()


@pytest.mark.parametrize("days", ["0", "-3", "1000000"])
def test_it_counts_for_a_day_or_more(
    days: str, tmp_path: Path, run_as_module: Callable[..., tuple[int, str, str]]
) -> None:
    create_authority(tmp_path / "ca", "tests")
    status, _, error = run_as_module(
        federation, "certificate", tmp_path / "ca", "--host", "a", "--days", days, "--out", tmp_path / "link"
    )
    assert (status, error.count("\n")) == (2, 1)
    assert f"'--days': {days} is not in the range" in error
    assert not (tmp_path / "link").exists()


@pytest.mark.parametrize("name", ["", "x" * 65])
def test_an_authority_has_a_name(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--name has 1 to 64 letters"):
        create_authority(tmp_path / "ca", name)
    assert not (tmp_path / "ca").exists()


def test_a_key_is_never_written_over(tmp_path: Path) -> None:
    create_authority(tmp_path / "ca", "tests")
    with pytest.raises(UserError, match=r"ca-key\.pem is there already"):
        create_authority(tmp_path / "ca", "tests")
    issue_server_certificate(tmp_path / "ca", ["a"], tmp_path / "link")
    with pytest.raises(UserError, match=r"server-key\.pem is there already"):
        issue_server_certificate(tmp_path / "ca", ["a"], tmp_path / "link")
    with pytest.raises(UserError, match="holds no certificate authority"):
        issue_server_certificate(tmp_path / "nowhere", ["a"], tmp_path / "other")
