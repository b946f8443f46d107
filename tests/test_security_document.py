"""What docs/security.md names is there, and its figures are those of the code."""

import re
from pathlib import Path

from nescient_fl.mpc import norm_check
from nescient_fl.mpc.terms import Terms

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "security.md").read_text()


def test_every_file_that_it_names_is_there() -> None:
    named = set(re.findall(r"`((?:tests|scripts|nescient_fl)/[\w/.]+)`", TEXT))
    assert len(named) > 15
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_every_command_that_it_shows_exists() -> None:
    from nescient_fl.roster import roster

    known = {command.name for command in roster.registered_commands}
    shown = set(re.findall(r"^nescient roster (\w+)", TEXT, re.MULTILINE))
    assert shown
    assert shown <= known


def test_the_norm_checks_constants_are_those_of_the_code() -> None:
    assert f"m = {norm_check.BUCKETS}" in TEXT
    first, *others = norm_check.PROJECTIONS
    assert f"{first}\nrandom sums" in TEXT
    assert f"of the others {others[0]} each" in TEXT
    assert len(set(others)) == 1
    assert f"{norm_check.SLACK} B^2" in TEXT
    assert f"at least {norm_check.ROOM} B" in TEXT
    assert f"any of {sum(norm_check.PROJECTIONS)} does" in TEXT


def test_every_report_fits_what_the_argument_assumes() -> None:
    assert Terms(2**20, 5, 16, 8.0, 1, 3).dimension == 2**20
    assert norm_check.ROOM * norm_check.LARGEST_BOUND <= 2**29
