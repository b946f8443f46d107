"""``--check``: each thing that would keep a role from joining is named before it joins, and nothing else is wrong."""

import re
import shutil
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from member_files import add_to, make_federation, sign
from toy_dataset import write_toy_dataset

from nescient_fl.cli import run_command
from nescient_fl.coordinator import coordinator as coordinator_command
from nescient_fl.dealer import dealer as dealer_command
from nescient_fl.deployment import checks, reach
from nescient_fl.deployment.certificates import create_authority, issue_server_certificate
from nescient_fl.deployment.flower import free_port
from nescient_fl.deployment.founding import found_run, prepare_site
from nescient_fl.deployment.given import read_given
from nescient_fl.deployment.roles import CoordinatorSettings, DealerSettings, PartySettings, SiteSettings, write_role
from nescient_fl.mpc.keys import new_keys
from nescient_fl.party import party as party_command
from nescient_fl.site import site as site_command
from nescient_fl.study.settings import make_settings

Checked = tuple[int, list[str], list[str]]
"""Exit status, names of what is well, and the lines of what is wrong."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One hospital's folder, and the coordinator's."""
    folder = tmp_path_factory.mktemp("checks")
    make_federation(folder / "keys")
    write_toy_dataset(folder / "radiographs")
    options = {"data": [str(folder / "radiographs")], "min_images": 20, "min_positives": 4}
    prepare_site("site-1", make_settings(options), folder / "data")
    given = read_given(folder / "keys")
    found_run(folder / "run", given.path, given.authority, 128, {})
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "f")
    return tmp_path / "f"


def site_settings(folder: Path, link: CoordinatorSettings) -> SiteSettings:
    given = read_given(folder / "keys")
    return SiteSettings(
        name="site-1",
        superlink=link.listen,
        ca=link.ca,
        node_key=given.node_key("site-1"),
        keys=folder / "keys" / "site-1.keys",
        roster=given.path,
        authority=given.authority,
        data=folder / "data",
        state=folder / "state",
    )


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path) -> Callable[..., Checked]:
    def run(settings: object, command: Callable[..., None] = site_command) -> Checked:
        write_role(settings, folder / "role.toml")  # type: ignore[arg-type]
        monkeypatch.setattr("sys.argv", ["role", "--config", str(folder / "role.toml"), "--check"])
        with pytest.raises(SystemExit) as ended:
            run_command(command)
        said = capsys.readouterr()
        assert said.err == ""
        lines = said.out.splitlines()
        well = [line.removeprefix("ok     ").partition(":")[0] for line in lines if line.startswith("ok     ")]
        wrong = [line.removeprefix("wrong  ") for line in lines if line.startswith("wrong  ")]
        assert len(well) + len(wrong) == len(lines)
        return int(ended.value.code or 0), well, wrong

    return run


EVERYTHING = ["versions", "data", "keys", "node key", "folder", "link", "clock"]


def test_a_hospital_that_has_everything_may_join(
    folder: Path, link: CoordinatorSettings, check: Callable[..., Checked]
) -> None:
    assert check(site_settings(folder, link)) == (0, EVERYTHING, [])


def no_data(folder: Path) -> None:
    shutil.rmtree(folder / "data")


def cut_pixels(folder: Path) -> None:
    path = folder / "data" / "pixels" / "pixels.npy"
    path.write_bytes(path.read_bytes()[:-1000])


def no_table(folder: Path) -> None:
    (folder / "data" / "pixels" / "table.csv").unlink()


def others_data(folder: Path) -> None:
    path = folder / "data" / "partition.csv"
    path.write_text(path.read_text().replace("site-1", "site-2"))


def others_keys(folder: Path) -> None:
    shutil.rmtree(folder / "keys" / "site-1.keys")
    shutil.copytree(folder / "keys" / "site-2.keys", folder / "keys" / "site-1.keys")


def newer_keys(folder: Path) -> None:
    shutil.rmtree(folder / "keys" / "site-1.keys")
    new_keys(folder / "keys" / "site-1.keys", "site-1", "site")


def open_keys(folder: Path) -> None:
    (folder / "keys" / "site-1.keys" / "signing.pem").chmod(0o644)


def others_roster(folder: Path) -> None:
    path = folder / "keys" / "roster.json"
    path.write_text(path.read_text().replace('"serial": 1', '"serial": 2'))


def open_node_key(folder: Path) -> None:
    (folder / "keys" / "site-1.node-key").chmod(0o640)


def state_is_a_file(folder: Path) -> None:
    (folder / "state").write_text("")


@pytest.mark.parametrize(
    ("damage", "what", "words"),
    [
        (no_data, "data", "no prepared folder"),
        (cut_pixels, "data", "pixels.npy"),
        (no_table, "data", "table.csv"),
        (others_data, "data", "holds images of site-2, not of site-1 alone"),
        (others_keys, "keys", "are those of site site-2, not site-1"),
        (newer_keys, "keys", "the roster has another key for site site-1"),
        (open_keys, "keys", "can be read by others: run chmod 600"),
        (others_roster, "keys", "the authority's signature does not fit"),
        (open_node_key, "node key", "can be read by others: run chmod 600"),
        (state_is_a_file, "folder", "state: File exists"),
    ],
)
def test_what_is_wrong_is_named_and_the_rest_is_looked_at_too(
    folder: Path,
    link: CoordinatorSettings,
    check: Callable[..., Checked],
    damage: Callable[[Path], None],
    what: str,
    words: str,
) -> None:
    settings = site_settings(folder, link)
    damage(folder)
    status, well, (line,) = check(settings)
    assert (status, well) == (2, [name for name in EVERYTHING if name != what])
    assert line.startswith(f"{what}: ")
    assert words in line


def test_an_unreachable_link_is_named(
    folder: Path, link: CoordinatorSettings, check: Callable[..., Checked], monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"127.0.0.1:{free_port()}"
    status, well, wrong = check(replace(site_settings(folder, link), superlink=address))
    assert (status, well) == (2, EVERYTHING[:-2])
    assert [line.partition(":")[0] for line in wrong] == ["link", "clock"]
    assert wrong[0].startswith(f"link: {address} cannot be reached: ")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(reach, "_REACH_SECONDS", 0.2)
        monkeypatch.setattr(checks, "describe_clock", partial(reach.describe_clock, seconds=0.2))
        _, _, wrong = check(replace(site_settings(folder, link), superlink=f"127.0.0.1:{silent.getsockname()[1]}"))
        assert "cannot be reached" in wrong[0]


def test_a_foreign_authority_and_a_name_that_the_certificate_lacks_are_named(
    folder: Path, link: CoordinatorSettings, check: Callable[..., Checked]
) -> None:
    foreign = create_authority(folder / "foreign", "tests")
    _, _, wrong = check(replace(site_settings(folder, link), ca=foreign))
    assert wrong[0].startswith(f"link: {link.listen} has no certificate of {foreign}: ")
    _, _, wrong = check(replace(site_settings(folder, link), superlink=link.listen.replace("127.0.0.1", "localhost")))
    assert "has no certificate of" in wrong[0]
    assert "localhost" in wrong[0]
    (folder / "foreign" / "ca.pem").unlink()
    _, _, wrong = check(replace(site_settings(folder, link), ca=foreign))
    assert wrong[0].startswith(f"link: the authority's certificate {foreign} cannot be read")


@pytest.mark.parametrize("apart", [3600.0, -3600.0])
def test_a_clock_an_hour_off_is_named(
    apart: float,
    folder: Path,
    link: CoordinatorSettings,
    check: Callable[..., Checked],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = time.time
    monkeypatch.setattr(reach.time, "time", lambda: now() + apart)
    status, well, (line,) = check(site_settings(folder, link))
    assert (status, well) == (2, EVERYTHING[:-1])
    told = re.fullmatch(r"clock: this clock is ([+-]\d+) s from the coordinator's: set one of them right \(NTP\)", line)
    assert told is not None, line
    assert abs(float(told[1]) - apart) < 15


def test_another_release_of_flower_is_named(
    folder: Path, link: CoordinatorSettings, check: Callable[..., Checked], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "version", lambda _: "1.40.2")
    assert check(site_settings(folder, link))[2] == [
        "versions: Flower is 1.40.2, and the federation speaks 1.41: install nescient_fl again"
    ]


def test_parties_and_dealer_have_no_data(
    folder: Path, link: CoordinatorSettings, check: Callable[..., Checked]
) -> None:
    given = read_given(folder / "keys")
    for kind, command, name in ((PartySettings, party_command, "party-1"), (DealerSettings, dealer_command, "dealer")):
        settings = kind(
            name=name,
            superlink=link.listen,
            ca=link.ca,
            node_key=given.node_key(name),
            keys=folder / "keys" / f"{name}.keys",
            roster=given.path,
            authority=given.authority,
            state=folder / "state",
        )
        assert check(settings, command) == (0, [what for what in EVERYTHING if what != "data"], [])
        _, _, wrong = check(replace(settings, name="site-1"), command)
        assert [line.partition(":")[0] for line in wrong] == ["keys"]


COORDINATOR = ["versions", "run", "members", "certificate", "folder", "address"]


def coordinator_settings(folder: Path) -> CoordinatorSettings:
    given = read_given(folder / "keys")
    (folder / "nodes").mkdir()
    for member in given.members:
        shutil.copy(folder / "keys" / f"{member.name}.node.json", folder / "nodes")
    return CoordinatorSettings(
        state=folder / "state",
        listen=f"127.0.0.1:{free_port()}",
        ca=given.link.authority,
        certificate=given.link.certificate,
        key=given.link.key,
        nodes=folder / "nodes",
        run=folder / "run",
        roster=given.path,
        authority=given.authority,
    )


def no_run(folder: Path) -> None:
    shutil.rmtree(folder / "run")


def no_node_file(folder: Path) -> None:
    (folder / "nodes" / "party-2.node.json").unlink()


def node_of_another_role(folder: Path) -> None:
    """A valid key of a valid member, who says that it is a party."""
    path = folder / "nodes" / "site-1.node.json"
    path.write_text(path.read_text().replace('"site"', '"party"'))


def node_of_a_stranger(folder: Path) -> None:
    path = folder / "nodes" / "site-1.node.json"
    (folder / "nodes" / "x.json").write_text(path.read_text().replace("site-1", "site-9").replace("nistp384 A", "n A"))


def expired(folder: Path) -> None:
    shutil.rmtree(folder / "keys" / "link")
    issue_server_certificate(folder / "keys" / "ca", ["127.0.0.1"], folder / "keys" / "link", days=-1 / 48)


def of_another_authority(folder: Path) -> None:
    shutil.rmtree(folder / "keys" / "link")
    create_authority(folder / "ca2", "tests")
    issue_server_certificate(folder / "ca2", ["127.0.0.1"], folder / "keys" / "link")
    shutil.copy(folder / "keys" / "ca" / "ca.pem", folder / "keys" / "link" / "ca.pem")


@pytest.mark.parametrize(
    ("damage", "what", "words"),
    [
        (lambda _: None, None, ""),
        (no_run, "run", "holds no run"),
        (no_node_file, "members", "has no node file of party-2: ask for it"),
        (node_of_another_role, "members", "node site-1: the roster has no party of that name"),
        (node_of_a_stranger, "members", "site-9"),
        (others_roster, "members", "the authority's signature does not fit"),
        (expired, "certificate", "expired on"),
        (of_another_authority, "certificate", "is not from"),
        (state_is_a_file, "folder", "state: File exists"),
    ],
)
def test_what_is_wrong_at_the_coordinator_is_named(
    folder: Path, check: Callable[..., Checked], damage: Callable[[Path], None], what: str | None, words: str
) -> None:
    settings = coordinator_settings(folder)
    damage(folder)
    status, well, wrong = check(settings, coordinator_command)
    assert well == [name for name in COORDINATOR if name != what]
    assert (status, len(wrong)) == ((0, 0) if what is None else (2, 1))
    for line in wrong:
        assert line.startswith(f"{what}: ")
        assert words in line


def test_members_for_encrypted_inference_need_no_node(folder: Path, check: Callable[..., Checked]) -> None:
    add_to(folder / "keys", "owner", "owner", "10.0.0.7:9300")
    add_to(folder / "keys", "clinic", "clinic", None)
    names = ["site-1", "site-2", "site-3", "party-1", "party-2", "dealer", "owner", "clinic"]
    sign(folder / "keys", names)
    assert check(coordinator_settings(folder), coordinator_command) == (0, COORDINATOR, [])
