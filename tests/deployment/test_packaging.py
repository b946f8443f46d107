"""The units and container files: systemd itself accepts the units, and each runs its own role as nobody special."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from nescient_fl.cli import COMMANDS

PACKAGING = Path(__file__).resolve().parents[2] / "packaging"
EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"
ROLES = ("coordinator", "site", "party", "dealer")


@pytest.mark.parametrize("role", ROLES)
def test_a_unit_runs_its_role_confined_and_is_stopped_in_order(role: str) -> None:
    unit = (PACKAGING / "systemd" / f"nescient-{role}.service").read_text()
    settings = dict(re.findall(r"^(\w+)=(.*)$", unit, re.MULTILINE))
    assert settings["ExecStart"] == f"/opt/nescient/bin/nescient {role} --config /etc/nescient/{role}.toml"
    assert role in COMMANDS
    assert settings["User"] == "nescient"
    assert (settings["NoNewPrivileges"], settings["ProtectSystem"]) == ("yes", "strict")
    assert (settings["Restart"], settings["RestartPreventExitStatus"]) == ("on-failure", "2")
    # A member goes on with the message at work for a minute.
    assert int(settings["TimeoutStopSec"]) > 60
    assert settings["KillMode"] == "mixed"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not here")
@pytest.mark.parametrize("role", ROLES)
def test_systemd_accepts_the_unit(role: str, tmp_path: Path) -> None:
    text = (PACKAGING / "systemd" / f"nescient-{role}.service").read_text()
    # It looks for the program, which is not installed here.
    unit = tmp_path / f"nescient-{role}.service"
    unit.write_text(text.replace("/opt/nescient/bin/nescient", "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", unit],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr.strip()) == (0, "")


@pytest.mark.parametrize("role", ROLES)
def test_a_container_runs_its_role_as_a_user_without_keys_built_in(role: str) -> None:
    text = (PACKAGING / "containers" / f"Containerfile.{role}").read_text()
    joined = re.sub(r"\\\n\s*", " ", text)
    lines = [line for line in joined.splitlines() if line and not line.startswith("#")]
    words = [line.split(maxsplit=1)[0] for line in lines]
    known = {"FROM", "RUN", "COPY", "USER", "WORKDIR", "ENV", "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT", "CMD"}
    assert set(words) <= known
    assert words[0] == "FROM"
    assert ":" in lines[0].rpartition("/")[2], "a base image has a version"
    assert words.index("USER") > max(index for index, word in enumerate(words) if word == "RUN")
    assert f'ENTRYPOINT ["nescient", "{role}"]' in lines
    assert f'CMD ["--config", "/etc/nescient/{role}.toml"]' in lines
    port = re.search(r"health-port = (\d+)", (EXAMPLES / f"{role}.toml").read_text())
    assert port is not None
    assert f"127.0.0.1:{port[1]}/health" in joined
    copied = [word for line in lines if line.startswith("COPY") for word in line.split()[1:-1]]
    assert sorted(copied) == ["README.md", "nescient_fl", "pyproject.toml", "sites", "strategies"]
