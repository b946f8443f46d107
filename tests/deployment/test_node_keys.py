"""Node keys are admitted for the member that signed them, and for nobody else."""

from dataclasses import replace
from pathlib import Path

import pytest

from nescient_fl.deployment.node_keys import (
    NodeBinding,
    bind,
    check_binding,
    create_node_key,
    read_bindings,
    read_node_key,
    write_binding,
)
from nescient_fl.errors import UserError
from nescient_fl.mpc.vault import Vault, create_vault


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Vault:
    sites = ["site-1", "site-2", "site-3"]
    return create_vault(tmp_path_factory.mktemp("vault") / "v", "tests", sites, 2, 3)


def bound(vault: Vault, folder: Path, name: str = "site-1", role: str = "site", signer: str = "site-1") -> NodeBinding:
    return bind(name, role, create_node_key(folder / f"{name}-key"), vault.keys(signer))


def test_a_members_own_node_is_admitted(vault: Vault, tmp_path: Path) -> None:
    binding = bound(vault, tmp_path)
    check_binding(binding, vault.roster())
    assert binding.pem.startswith(b"-----BEGIN PUBLIC KEY-----")
    assert read_node_key(tmp_path / "site-1-key") == binding.node_key
    assert (tmp_path / "site-1-key").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("name", "role", "signer"),
    [("site-2", "site", "site-1"), ("party-1", "party", "site-1"), ("dealer", "dealer", "party-1")],
    ids=["another site's name", "another role", "the dealer's name"],
)
def test_a_node_in_anothers_name_is_refused_by_name(
    vault: Vault, tmp_path: Path, name: str, role: str, signer: str
) -> None:
    with pytest.raises(UserError, match=f"node {name}: its key is not signed by the {role}"):
        check_binding(bound(vault, tmp_path, name, role, signer), vault.roster())


def test_a_valid_key_in_another_role_is_refused(vault: Vault, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the roster has no party of that name"):
        check_binding(bound(vault, tmp_path, "site-1", "party"), vault.roster())


def test_a_stranger_is_refused(vault: Vault, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="node site-9: the roster has no site of that name"):
        check_binding(bound(vault, tmp_path, "site-9"), vault.roster())


def test_another_key_under_a_good_signature_is_refused(vault: Vault, tmp_path: Path) -> None:
    binding = replace(bound(vault, tmp_path), node_key=create_node_key(tmp_path / "other"))
    with pytest.raises(UserError, match="is not signed"):
        check_binding(binding, vault.roster())
    with pytest.raises(UserError, match="is not signed"):
        check_binding(replace(bound(vault, tmp_path / "b"), signature="not hex"), vault.roster())


def test_a_key_of_another_kind_is_refused(vault: Vault) -> None:
    line = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIE3bI1Qw5vHjXwVY2vXrXQ6h4mM3n3y8l0m0dG3mJk1X"
    with pytest.raises(UserError, match="no P-384 key"):
        bind("site-1", "site", line, vault.keys("site-1"))


def test_bindings_survive_files_and_twice_is_refused(vault: Vault, tmp_path: Path) -> None:
    nodes = tmp_path / "nodes"
    first, second = bound(vault, tmp_path), bound(vault, tmp_path, "site-2", "site", "site-2")
    write_binding(second, nodes / "b.json")
    write_binding(first, nodes / "a.json")
    assert read_bindings(nodes) == [first, second]
    write_binding(first, nodes / "c.json")
    with pytest.raises(UserError, match=r"two files in .* have the name site-1"):
        read_bindings(nodes)


@pytest.mark.parametrize("text", ["", "[]", '{"name": "a"}', '{"name": 1, "role": "site", "node_key": "x"}'])
def test_a_damaged_file_is_refused_by_path(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UserError, match=r"x\.json is no node file"):
        read_bindings(tmp_path)


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    create_node_key(tmp_path / "key")
    with pytest.raises(UserError, match="never overwritten"):
        create_node_key(tmp_path / "key")
    (tmp_path / "key").chmod(0o640)
    with pytest.raises(UserError, match="can be read by others"):
        read_node_key(tmp_path / "key")
