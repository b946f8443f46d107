"""Settings of the roles: the examples are good, the environment goes first, mistakes are one clear line."""

from pathlib import Path

import pytest

from nescient_fl.deployment.roles import (
    CoordinatorSettings,
    DealerSettings,
    PartySettings,
    RoleSettings,
    SiteSettings,
    read_role,
    write_role,
)
from nescient_fl.errors import UserError
from nescient_fl.mpc.ceremony import make_member

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"
KINDS: dict[str, type[RoleSettings]] = {
    "coordinator": CoordinatorSettings,
    "site": SiteSettings,
    "party": PartySettings,
    "dealer": DealerSettings,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The examples beside an authority's public file, as they are used."""
    make_member("authority", "authority", tmp_path / "authority.keys", None, tmp_path / "authority.member.json")
    for role in KINDS:
        (tmp_path / f"{role}.toml").write_text((EXAMPLES / f"{role}.toml").read_text())
    return tmp_path


@pytest.mark.parametrize("role", KINDS)
def test_the_examples_can_be_read_and_name_every_setting(folder: Path, role: str) -> None:
    settings = read_role(KINDS[role], folder / f"{role}.toml", {})
    assert len(settings.authority) == 64
    assert settings.roster == folder / "roster.json"
    named = {line.partition("=")[0].strip() for line in (EXAMPLES / f"{role}.toml").read_text().splitlines()}
    left_out = {"bundle"}  # no hospital needs another than its own version's
    fields = {name.replace("_", "-") for name in KINDS[role].__dataclass_fields__} - left_out
    assert fields <= named


@pytest.mark.parametrize("role", KINDS)
def test_what_is_written_is_read_again(folder: Path, role: str) -> None:
    settings = read_role(KINDS[role], folder / f"{role}.toml", {})
    write_role(settings, folder / "again.toml")
    assert read_role(KINDS[role], folder / "again.toml", {}) == settings


def test_the_environment_goes_before_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {
        "NESCIENT_DEVICE": "cpu",
        "NESCIENT_MINIMUM_SITES": "5",
        "NESCIENT_SHARE_METRICS": "true",
        "NESCIENT_DATA": "elsewhere",
        "NESCIENT_CACHE": "not a setting of this role",
    }
    monkeypatch.chdir(folder)
    settings = read_role(SiteSettings, folder / "site.toml", changes)
    assert (settings.device, settings.minimum_sites, settings.share_metrics) == ("cpu", 5, True)
    assert settings.data == Path.cwd() / "elsewhere"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ('nam = "x"', "unknown setting 'nam'; did you mean 'name'"),
        ("minimum-sites = true", "minimum-sites takes a int, got True"),
        ('device = "tpu"', "device is one of auto, cpu, cuda, got 'tpu'"),
        ('superlink = "nowhere"', "an address is host:port, got 'nowhere'"),
        ("minimum-sites = 1", "minimum-sites must be 2 or more"),
        ('name = "Hospital A"', "a member's name is"),
        ('authority = ""', "roster and authority go together"),
        ("health-port = 70000", "health-port is from 0 to 65535"),
    ],
)
def test_a_mistake_is_one_line_that_names_file_and_setting(folder: Path, change: str, words: str) -> None:
    path = folder / "site.toml"
    key = change.partition(" ")[0]
    kept = [line for line in path.read_text().splitlines() if not line.startswith(f"{key} ")]
    path.write_text("\n".join([*kept, change]))
    with pytest.raises(UserError) as caught:
        read_role(SiteSettings, path, {})
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_missing_is_named(folder: Path) -> None:
    (folder / "party.toml").write_text('name = "party-1"\n')
    with pytest.raises(UserError, match="ca, node-key, state, superlink must be set"):
        read_role(PartySettings, folder / "party.toml", {})
    with pytest.raises(UserError, match="No such file"):
        read_role(PartySettings, folder / "gone.toml", {})


def test_a_wrong_variable_is_named(folder: Path) -> None:
    with pytest.raises(UserError, match="NESCIENT_MINIMUM_SITES takes a int, got 'many'"):
        read_role(SiteSettings, folder / "site.toml", {"NESCIENT_MINIMUM_SITES": "many"})
