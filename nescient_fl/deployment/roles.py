"""What each role is told: a TOML file, and environment variables that go before it.

Paths are relative to the file's folder. ``NESCIENT_`` and a setting's name in capitals overrides a setting:
NESCIENT_SUPERLINK=host:9092.
"""

import difflib
import math
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from nescient_fl.errors import UserError
from nescient_fl.mpc.ceremony import authority_key
from nescient_fl.mpc.errors import MpcError, RosterError
from nescient_fl.mpc.roster import check_name

PREFIX = "NESCIENT_"
SOCKET, EVENTS = "worker.socket", "events.jsonl"
"""In a role's state folder: where a member's worker listens, and what happened to the coordinator's run."""


@dataclass(frozen=True, kw_only=True)
class RoleSettings:
    """What every role is told.

    Attributes:
        state: the role's own folder, for its socket, logs, transcript and Flower's files.
        roster: the signed roster, and ``authority`` the public key in hex of whoever signs it, or in a file the
            path of its member file; neither in a federation that sends updates in clear.
        health_port: where ``/health`` is answered on the loopback interface; 0 for nowhere.
    """

    state: Path
    roster: Path | None = None
    authority: str = ""
    health_port: int = 0

    def __post_init__(self) -> None:
        if (self.roster is None) != (not self.authority):
            raise UserError("roster and authority go together: the signed list, and the key that signs it")
        if not 0 <= self.health_port < 65536:
            raise UserError(f"health-port is from 0 to 65535, got {self.health_port}")


@dataclass(frozen=True, kw_only=True)
class MemberSettings(RoleSettings):
    """What every member is told that has a node.

    Attributes:
        name: the member's name in the roster.
        superlink: the coordinator's link, host:port.
        ca: certificate of the authority that the link's certificate is from.
        node_key: the node's P-384 private key.
        keys: folder of the member's own keys; none in a federation that sends updates in clear.
        bundle: hash of the only application bundle that is answered; empty for this version's own.
    """

    name: str
    superlink: str
    ca: Path
    node_key: Path
    keys: Path | None = None
    bundle: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            check_name(self.name)
        except RosterError as error:
            raise UserError(str(error)) from None
        host_and_port(self.superlink)
        if (self.roster is None) != (self.keys is None):
            raise UserError("roster and keys go together: a member of a roster has keys, and only such a member")


@dataclass(frozen=True, kw_only=True)
class SiteSettings(MemberSettings):
    """What a hospital is told besides.

    Attributes:
        data: the prepared folder of its images.
        device: auto, cpu or cuda.
        minimum_sites: fewest sites in a sum that it takes part in.
        share_metrics: whether it tells the coordinator its own figures in clear.
        noise_multiplier: least noise, by sensitivity, of a sum that it takes part in; 0 asks for none.
    """

    data: Path
    device: str = "auto"
    minimum_sites: int = 3
    share_metrics: bool = False
    noise_multiplier: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.device not in ("auto", "cpu", "cuda"):
            raise UserError(f"device is one of auto, cpu, cuda, got {self.device!r}")
        if self.minimum_sites < 2:
            raise UserError(f"minimum-sites must be 2 or more, got {self.minimum_sites}")
        if not 0 <= self.noise_multiplier < math.inf:
            raise UserError(f"noise-multiplier must be 0 or more, got {self.noise_multiplier}")


@dataclass(frozen=True, kw_only=True)
class PartySettings(MemberSettings):
    """What a compute party is told besides: ``memory``, the file of what it must not forget; default in ``state``."""

    memory: Path | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.keys is None:
            raise UserError("a party needs keys, roster and authority")


@dataclass(frozen=True, kw_only=True)
class DealerSettings(MemberSettings):
    """What the dealer is told."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.keys is None:
            raise UserError("the dealer needs keys, roster and authority")


@dataclass(frozen=True, kw_only=True)
class CoordinatorSettings(RoleSettings):
    """What the coordinator is told.

    Attributes:
        listen: host:port that its link takes connections at.
        ca, certificate, key: the link's certificate, its key, and the authority they are from.
        nodes: folder of the members' node files.
        run: the run folder.
        join_timeout: seconds to wait for every member to join.
    """

    listen: str
    ca: Path
    certificate: Path
    key: Path
    nodes: Path
    run: Path
    join_timeout: float = 600.0

    def __post_init__(self) -> None:
        super().__post_init__()
        host_and_port(self.listen)
        if not self.join_timeout > 0:
            raise UserError(f"join-timeout must be above 0, got {self.join_timeout:g}")


_Role = TypeVar("_Role", bound=RoleSettings)


def read_role(kind: type[_Role], path: Path, environment: Mapping[str, str]) -> _Role:
    """Read a role's TOML file and what the environment changes of it.

    Raises UserError naming the file, or the variable, for anything missing, unknown or of another type.
    """
    try:
        table: dict[str, Any] = tomllib.loads(path.read_text())
    except OSError as error:
        raise UserError(f"--config {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"--config {path}: {error}") from None
    folder = path.resolve().parent
    hints = get_type_hints(kind)
    values: dict[str, Any] = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name not in hints:
            near = difflib.get_close_matches(name, hints, 1)
            hint = f"did you mean {near[0].replace('_', '-')!r}?" if near else f"it has {_listed(hints)}"
            raise UserError(f"--config {path}: unknown setting {key!r}; {hint}")
        values[name] = _typed(hints[name], value, folder, f"--config {path}: {key}")
    for name, hint in hints.items():
        variable = PREFIX + name.upper()
        if variable in environment:
            values[name] = _typed(hint, _plain(hint, environment[variable]), Path.cwd(), variable)
    missing = [f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]
    if absent := [name for name in missing if name not in values]:
        raise UserError(f"--config {path}: {_listed(absent)} must be set")
    try:
        if values.get("authority"):
            text = values["authority"]
            values["authority"] = authority_key(text if len(text) == 64 else str(folder / text))
        return kind(**values)
    except (UserError, MpcError) as error:
        raise UserError(f"--config {path}: {error}") from None


def write_role(settings: RoleSettings, path: Path) -> None:
    """Write a role's settings as a TOML file, paths absolute, leaving out what is as by default."""
    lines = []
    for f in fields(settings):
        value = getattr(settings, f.name)
        if value != f.default:
            lines.append(f"{f.name.replace('_', '-')} = {_toml(value)}")
    path.write_text("\n".join(lines) + "\n")


def host_and_port(address: str) -> tuple[str, int]:
    """Divide ``host:port``. Raises UserError for anything else."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise UserError(f"an address is host:port, got {address!r}")
    return host.strip("[]"), int(port)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    text = str(value.resolve() if isinstance(value, Path) else value)
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _plain(hint: Any, text: str) -> Any:
    """Turn a variable's text into what TOML would have given."""
    if hint is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    if hint in (int, float):
        try:
            return hint(text)
        except ValueError:
            return text
    return text


def _typed(hint: Any, value: Any, folder: Path, where: str) -> Any:
    if hint in (Path, Path | None) and isinstance(value, str) and value:
        return folder / Path(value).expanduser()
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if hint in (str, int, bool) and type(value) is hint:
        return value
    name = "path" if hint in (Path, Path | None) else getattr(hint, "__name__", str(hint))
    raise UserError(f"{where} takes a {name}, got {value!r}")


def _listed(names: Any) -> str:
    return ", ".join(sorted(name.replace("_", "-") for name in names))
