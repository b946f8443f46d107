"""A whole federation on one machine, laid out as if every actor had a host of its own.

One private folder holds a folder for each actor, with its settings, its node key and, for a site, its own images;
members' keys and the parties' memories stay in the run's vault, for a run that is interrupted goes on with them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nescient_fl.deployment.certificates import create_authority, issue_server_certificate
from nescient_fl.deployment.node_keys import bind, create_node_key, write_binding
from nescient_fl.deployment.roles import (
    CoordinatorSettings,
    DealerSettings,
    PartySettings,
    RoleSettings,
    SiteSettings,
    write_role,
)
from nescient_fl.deployment.site_data import write_site_folder
from nescient_fl.deployment.tether import free_port
from nescient_fl.mpc.vault import Vault
from nescient_fl.study.run_folder import RunFolder, read_json
from sites.site import open_run_data

_DAYS = 30.0
"""How long certificates of a deployment on one machine count: longer than any run."""


@dataclass(frozen=True)
class ActorPlace:
    """One actor's folder and the command that it is run by."""

    name: str
    role: str
    folder: Path

    @property
    def settings(self) -> Path:
        return self.folder / f"{self.role}.toml"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def log(self) -> Path:
        return self.folder / "log.jsonl"


def lay_out(run: RunFolder, private: Path, device: str) -> list[ActorPlace]:
    """Write everything that the actors of a run need into a private folder. Returns them, the coordinator first.

    Raises UserError when the run's pixel cache or keys are gone.
    """
    config = read_json(run.config)
    secure = config["secure"]
    vault = None if secure is None else Vault(Path(secure["vault"]))
    members = [(name, "site") for name in config["sites"]]
    if vault is not None:
        roster = vault.roster()
        members += [(party.name, "party") for party in roster.parties] + [(roster.dealer.name, "dealer")]
    places = [ActorPlace(name, role, private / name) for name, role in members]
    link = f"127.0.0.1:{free_port()}"
    authority = create_authority(private / "authority", "nescient deployment", _DAYS)
    coordinator = _coordinator(run, private, link, vault)
    for place in places:
        _member(place, private / "nodes", authority, vault)
        if place.role == "site":
            cache, partition = open_run_data(run.path)
            write_site_folder(place.folder / "data", cache, partition, place.name)
    for place in places:
        write_role(_settings(place, link, vault, config, device), place.settings)
    return [coordinator, *places]


def _coordinator(run: RunFolder, private: Path, link: str, vault: Vault | None) -> ActorPlace:
    place = ActorPlace("coordinator", "coordinator", private / "coordinator")
    certificate = issue_server_certificate(private / "authority", ["127.0.0.1", "localhost"], place.folder, _DAYS)
    settings = CoordinatorSettings(
        state=place.state,
        listen=link,
        ca=certificate.authority,
        certificate=certificate.certificate,
        key=certificate.key,
        nodes=private / "nodes",
        run=run.path,
        **_trust(vault),
    )
    write_role(settings, place.settings)
    return place


def _member(place: ActorPlace, nodes: Path, authority: Path, vault: Vault | None) -> None:
    place.folder.mkdir(mode=0o700)
    public = create_node_key(place.folder / "node-key")
    (place.folder / "ca.pem").write_bytes(authority.read_bytes())
    keys = None if vault is None else vault.keys(place.name)
    write_binding(bind(place.name, place.role, public, keys), nodes / f"{place.name}.json")


def _settings(place: ActorPlace, link: str, vault: Vault | None, config: dict[str, Any], device: str) -> RoleSettings:
    common: dict[str, Any] = {
        "name": place.name,
        "superlink": link,
        "ca": place.folder / "ca.pem",
        "node_key": place.folder / "node-key",
        "state": place.state,
        "keys": None if vault is None else vault.folder / place.name,
        **_trust(vault),
    }
    if place.role == "site":
        shared = config["settings"]["share_metrics"]
        if config["secure"] is not None:
            common["minimum_sites"] = config["secure"]["minimum"]
            common["noise_multiplier"] = config["secure"]["noise_multiplier"]
        return SiteSettings(
            data=place.folder / "data",
            device=device,
            share_metrics=place.name in shared or "all" in shared,
            **common,
        )
    if place.role == "party":
        assert vault is not None
        return PartySettings(memory=vault.folder / place.name / "memory.sqlite", **common)
    return DealerSettings(**common)


def _trust(vault: Vault | None) -> dict[str, Any]:
    if vault is None:
        return {}
    return {"roster": vault.roster_path, "authority": vault.authority}
