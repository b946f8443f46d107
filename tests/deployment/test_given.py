"""Keys, certificates and a roster that exist already: checked line by line, used by links, and left as they are."""

import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from member_files import SITES, add_to, digests, make_federation, sign

from nescient_fl import cli
from nescient_fl.deploy import deploy
from nescient_fl.deployment import certificates
from nescient_fl.deployment.certificates import create_authority, issue_server_certificate
from nescient_fl.deployment.flower import free_port
from nescient_fl.deployment.given import held_roster, read_given, study_members
from nescient_fl.deployment.node_keys import bind, create_node_key, write_binding
from nescient_fl.errors import UserError, UserErrors
from nescient_fl.mpc.ceremony import make_member, write_member
from nescient_fl.mpc.keys import load_keys, new_keys
from nescient_fl.mpc.vault import Vault
from nescient_fl.study.run_folder import RunFolder, write_json
from nescient_fl.study.settings import StudySettings

HELPERS = ("party-1", "party-2", "dealer")
EVERYBODY = (*SITES, *HELPERS)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("given") / "whole"
    make_federation(folder)
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy to be damaged; whatever is read of it, nothing is written."""
    shutil.copytree(whole, tmp_path / "fed")
    return tmp_path / "fed"


def problems(folder: Path) -> list[str]:
    before = digests(folder)
    with pytest.raises(UserError) as caught:
        read_given(folder / "roster.json")
    assert digests(folder) == before
    found = caught.value.problems if isinstance(caught.value, UserErrors) else (str(caught.value),)
    prefix = f"--roster {folder / 'roster.json'}: "
    assert all(line.startswith(prefix) and "\n" not in line for line in found)
    return [line.removeprefix(prefix) for line in found]


def test_a_whole_federation_is_taken_by_its_roster_or_its_folder(folder: Path) -> None:
    given = read_given(folder / "roster.json")
    assert given == read_given(folder)
    assert [member.name for member in given.members] == list(EVERYBODY)
    assert given.options({}) == {"clients": 3, "parties": 2}
    given.check(["site-3", "site-1", "site-2"], 3)


def test_members_for_encrypted_inference_alone_are_left_out(folder: Path) -> None:
    add_to(folder, "owner", "owner", "10.0.0.7:9300")
    add_to(folder, "clinic", "clinic", None)
    sign(folder, [*EVERYBODY, "owner", "clinic"])
    shutil.rmtree(folder / "owner.keys")
    assert [member.name for member in read_given(folder).members] == list(EVERYBODY)


def remove(*names: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for name in names:
            path = folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return change


def write(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(text) and None


def open_up(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).chmod(0o640)


def copy(one: str, other: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        if (folder / one).is_dir():
            shutil.rmtree(folder / other)
            shutil.copytree(folder / one, folder / other)
        else:
            shutil.copy(folder / one, folder / other)

    return change


def new_keys_of_the_same_name(folder: Path) -> None:
    shutil.rmtree(folder / "site-2.keys")
    new_keys(folder / "site-2.keys", "site-2", "site")


def another_authority(folder: Path) -> None:
    (folder / "authority.member.json").unlink()
    make_member("authority", "authority", folder / "other.keys", None, folder / "authority.member.json")


def signed_by_another(folder: Path) -> None:
    key = create_node_key(folder / "new.node-key")
    (folder / "new.node-key").replace(folder / "site-1.node-key")
    write_binding(bind("site-1", "site", key, load_keys(folder / "site-2.keys")), folder / "site-1.node.json")


def another_node_key(folder: Path) -> None:
    (folder / "site-1.node-key").unlink()
    create_node_key(folder / "site-1.node-key")


def link_of(*hosts: str, days: float = 30, ca: str = "ca") -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        shutil.rmtree(folder / "link")
        if ca != "ca":
            create_authority(folder / ca, "tests")
        issue_server_certificate(folder / ca, list(hosts), folder / "link", days)
        shutil.copy(folder / "ca" / "ca.pem", folder / "link" / "ca.pem")

    return change


def addresses(**changed: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for name, address in changed.items():
            name = name.replace("_", "-")
            (folder / f"{name}.member.json").unlink()
            write_member(load_keys(folder / f"{name}.keys"), address, folder / f"{name}.member.json")
        sign(folder, EVERYBODY)

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (remove("roster.json"), "roster.json cannot be read: No such file"),
        (remove("authority.member.json"), "authority.member.json cannot be read: No such file"),
        (write("roster.json", "{}"), "is no signed roster: sign it with `nescient roster sign`"),
        (another_authority, "is signed by another authority"),
        (remove("site-1.keys"), "site-1: */site-1.keys is not there: `nescient roster keys` makes it"),
        (remove("party-1.keys/sealing.pem"), "party-1: */sealing.pem cannot be read"),
        (open_up("site-1.keys/signing.pem"), "site-1: */signing.pem can be read by others: run chmod 600"),
        (copy("site-1.keys", "site-2.keys"), "site-2: the keys in */site-2.keys are those of site site-1"),
        (new_keys_of_the_same_name, "site-2: the roster has other keys than */site-2.keys: sign a roster"),
        (remove("dealer.node-key"), "dealer: the node key */dealer.node-key cannot be read"),
        (open_up("party-2.node-key"), "party-2: the node key */party-2.node-key can be read by others"),
        (write("site-3.node-key", "x"), "site-3: the node key */site-3.node-key is no P-384 key"),
        (remove("site-3.node.json"), "site-3: the node file */site-3.node.json cannot be read: No such file"),
        (write("site-3.node.json", "[]"), "site-3: */site-3.node.json is no node file"),
        (copy("site-1.node.json", "site-2.node.json"), "site-2.node.json is the node file of site site-1, not of"),
        (signed_by_another, "site-1: node site-1: its key is not signed by the site of that name"),
        (another_node_key, "site-1.node-key is another key than that of site-1.node.json"),
        (remove("link"), "the link: */link/ca.pem cannot be read (No such file or directory): `nescient federation"),
        (write("link/server.pem", "x"), "the link: */server.pem is damaged"),
        (open_up("link/server-key.pem"), "the link: */server-key.pem can be read by others"),
        (copy("ca/ca-key.pem", "link/server-key.pem"), "the link: */server-key.pem is not the key of */server.pem"),
        (link_of("127.0.0.1", ca="ca2"), "the link: */server.pem is not from */ca.pem"),
        (link_of("127.0.0.1", days=-1 / 48), "the link: */server.pem expired on"),
        (link_of("10.77.0.1", "host-1"), "server.pem is for 10.77.0.1, host-1, and the link of a deployment is at"),
        (addresses(dealer="10.255.1.9:9103"), "dealer: its address 10.255.1.9:9103 is none of this machine's"),
        (addresses(party_1="nowhere.invalid:9103"), "party-1: its address nowhere.invalid:9103 is none of this"),
        (addresses(party_1="unix:/no/such/a.socket"), "party-1: its address unix:/no/such/a.socket cannot be used (in"),
    ],
)
def test_what_is_missing_or_does_not_fit_is_one_line(folder: Path, change: Callable[[Path], None], words: str) -> None:
    change(folder)
    (line,) = problems(folder)
    place = 0
    for part in words.split("*"):
        place = line.find(part.removeprefix("/"), place)
        assert place >= 0, line


def test_a_certificate_that_counts_later_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificates, "_EARLY", -certificates._EARLY)
    link_of("127.0.0.1")(folder)
    (line,) = problems(folder)
    assert "server.pem counts only from" in line


def test_everything_that_is_wrong_is_told_at_once(folder: Path) -> None:
    remove("site-1.keys", "site-2.node.json", "link/server.pem")(folder)
    open_up("party-1.keys/signing.pem")(folder)
    found = problems(folder)
    assert [line.partition(":")[0] for line in found] == ["site-1", "site-2", "party-1", "the link"]


def test_an_address_in_use_is_said(folder: Path) -> None:
    taken = read_given(folder).roster.dealer.address
    assert taken is not None
    with socket.create_server(("127.0.0.1", int(taken.rpartition(":")[2]))):
        assert problems(folder) == [
            f"dealer: its address {taken} is taken by another process; give it another in the roster"
        ]
    addresses(party_1=taken)(folder)
    assert problems(folder) == [f"party-1 and dealer have the same address {taken}"]
    # Nobody connects to the last party, so where it would be does not matter.
    addresses(party_1=f"127.0.0.1:{free_port()}", party_2="10.255.1.9:9103")(folder)
    read_given(folder)


def test_a_socket_is_taken_or_left_over_and_a_file_there_is_kept(folder: Path) -> None:
    place = folder / "p.socket"
    addresses(party_1=f"unix:{place}")(folder)
    read_given(folder)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place))
        listener.listen()
        with pytest.raises(UserErrors, match="is taken by another process"):
            read_given(folder)
    read_given(folder)
    place.unlink()
    place.write_text("do not lose")
    assert "a file of something else is there" in problems(folder)[0]
    addresses(party_1=f"unix:{folder}/{'x' * 100}")(folder)
    assert "too long for a socket" in problems(folder)[0]


def test_the_study_must_fit_the_roster(folder: Path) -> None:
    given = read_given(folder)
    with pytest.raises(UserErrors) as caught:
        given.options({"clients": 5, "parties": 3, "aggregation": "plain"})
    assert [line.partition(":")[0] for line in caught.value.problems] == [
        "--clients 5",
        "--parties 3",
        "--aggregation plain uses no roster",
    ]
    with pytest.raises(UserErrors, match=r"has no site icu-1, ward-1: .* the roster's site-2, site-3 would have no"):
        given.check(["icu-1", "site-1", "ward-1"], 3)
    sign(folder, EVERYBODY, minimum=3)
    with pytest.raises(UserErrors, match=r"--min-sites 2: by the roster .* no sum is of fewer than 3"):
        read_given(folder).check(SITES, 2)


def test_a_run_has_links_alone_and_leaves_everything_as_it_was(folder: Path, tmp_path: Path) -> None:
    addresses(dealer=f"unix:{folder}/d.socket")(folder)
    # What a party of another federation remembers is none of this run's.
    (folder / "party-1.keys" / "memory.sqlite").write_text("do not lose")
    before = digests(folder)
    given = read_given(folder)
    given.make_vault(tmp_path / "vault")
    vault = Vault(tmp_path / "vault")
    assert vault.roster() == given.roster
    for name in EVERYBODY:
        assert vault.keys(name).signing_path.resolve() == folder / f"{name}.keys" / "signing.pem"
    assert not any(path.is_file() and not path.is_symlink() for path in (tmp_path / "vault").glob("*/*"))
    with vault.store("party-1") as store:
        store.remember(["a"], "b")
    vault.remove()
    assert not (tmp_path / "vault").exists()
    assert digests(folder) == before


def test_one_deployment_at_a_time_has_a_roster(folder: Path, tmp_path: Path) -> None:
    path = sign(folder, EVERYBODY, "another.json")
    given = read_given(path)
    assert given.path == path
    before = digests(folder)
    run = RunFolder.create(tmp_path / "run")
    write_json(run.config, {"secure": {"given": str(given.path)}})
    with held_roster(run):
        for used in (lambda: held_roster(run).__enter__(), lambda: study_members(path, None, {})):
            with pytest.raises(UserError, match=r"another deployment uses the roster .*another\.json now"):
                used()
        write_json(run.config, {"secure": {"given": str(folder / "roster.json")}})
        with held_roster(run):
            pass
        for own in ({"secure": None}, {"secure": {"vault": "v"}}):
            write_json(run.config, own)
            with held_roster(run), held_roster(run):
                pass
    assert digests(folder) == before


def run_deploy(
    *arguments: str | Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, list[str]]:
    monkeypatch.setattr("sys.argv", ["deploy", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.run_command(deploy)
    return int(ended.value.code or 0), capsys.readouterr().err.splitlines()


def test_the_command_says_a_line_for_each_and_makes_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "five.toml").write_text("clients = 5\n")
    status, lines = run_deploy(
        *("--roster", folder, "--config", "five.toml", "--parties", "4"), monkeypatch=monkeypatch, capsys=capsys
    )
    assert status == 2
    assert [line.partition(";")[0] for line in lines] == [
        f"error: --clients 5: the roster {folder}/roster.json has 3",
        f"error: --parties 4: the roster {folder}/roster.json has 2",
    ]
    status, lines = run_deploy("--roster", "nowhere", monkeypatch=monkeypatch, capsys=capsys)
    assert (status, len(lines)) == (2, 1)
    assert lines[0].startswith("error: --roster nowhere: ")
    assert not (tmp_path / "runs").exists()


def test_hospitals_of_other_names_are_refused_before_images_are_decoded(
    folder: Path,
    tmp_path: Path,
    toy_dataset: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    add_to(folder, "hospital-a", "site", None)
    sign(folder, ["site-1", "site-2", "hospital-a", *HELPERS])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("nescient_fl.arms.conduct.decode_radiographs", None)
    status, lines = run_deploy(
        *(
            "--roster",
            folder,
            "--data",
            toy_dataset,
            "--partition",
            "iid",
            "--min-images",
            "20",
            "--min-positives",
            "4",
        ),
        monkeypatch=monkeypatch,
        capsys=capsys,
    )
    assert (status, len(lines)) == (2, 1)
    assert "has no site site-3: the study's hospitals are site-1, site-2, site-3" in lines[0]
    assert "the roster's hospital-a would have no radiographs" in lines[0]


def test_a_run_that_was_begun_has_its_roster(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunFolder.create(tmp_path / "run")
    settings = StudySettings(clients=3).as_dict()
    write_json(run.config, {"settings": settings, "secure": {"given": str(folder)}})
    status, lines = run_deploy("--resume", run.path, "--roster", folder, monkeypatch=monkeypatch, capsys=capsys)
    assert (status, lines) == (
        2,
        ["error: --resume goes on with the roster that the run was begun with: leave --roster away"],
    )
    remove("site-1.keys")(folder)
    status, lines = run_deploy("--resume", run.path, monkeypatch=monkeypatch, capsys=capsys)
    assert (status, len(lines)) == (2, 1)
    assert "site-1.keys is not there" in lines[0]
