"""A whole federation on one machine, laid out as if every actor had a host of its own.

One private folder holds a folder for each actor, with its settings, its node key and, for a site, its own images;
members' keys and the parties' memories stay in the run's vault, for a run that is interrupted goes on with them.
Node keys and the link's certificate are made for the deployment, or are links to those that the user gave.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nescient_fl.deployment.certificates import ServerCertificate, create_authority, issue_server_certificate
from nescient_fl.deployment.flower import free_port
from nescient_fl.deployment.given import LINK_HOST, GivenFederation, read_given
from nescient_fl.deployment.node_keys import NodeBinding, bind, create_node_key, write_binding
from nescient_fl.deployment.roles import (
    CoordinatorSettings,
    DealerSettings,
    PartySettings,
    RoleSettings,
    SiteSettings,
    write_role,
)
from nescient_fl.deployment.site_data import write_site_folder
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

    Raises UserError when the run's pixel cache or keys are gone, or those that the user gave do not fit any more.
    """
    config = read_json(run.config)
    secure = config["secure"]
    vault = None if secure is None else Vault(Path(secure["vault"]))
    given = None if secure is None or "given" not in secure else read_given(Path(secure["given"]))
    members = [(name, "site") for name in config["sites"]]
    if vault is not None:
        members += [(member.name, member.role) for member in vault.roster().training if member.role != "site"]
    places = [ActorPlace(name, role, private / name) for name, role in members]
    link = f"{LINK_HOST}:{free_port()}"
    coordinator = ActorPlace("coordinator", "coordinator", private / "coordinator")
    certificate = _certificate(coordinator.folder, private / "authority", given)
    _coordinator(coordinator, run, private / "nodes", link, certificate, vault)
    for place in places:
        place.folder.mkdir(mode=0o700)
        (place.folder / "ca.pem").write_bytes(certificate.authority.read_bytes())
        write_binding(_node(place, vault, given), private / "nodes" / f"{place.name}.json")
        if place.role == "site":
            cache, partition = open_run_data(run.path)
            write_site_folder(place.folder / "data", cache, partition, place.name)
    for place in places:
        write_role(_settings(place, link, vault, config, device), place.settings)
    return [coordinator, *places]


def _certificate(folder: Path, authority: Path, given: GivenFederation | None) -> ServerCertificate:
    """Issue the link's certificate into the coordinator's folder, or put the given one there."""
    if given is None:
        create_authority(authority, "nescient deployment", _DAYS)
        return issue_server_certificate(authority, [LINK_HOST, "localhost"], folder, _DAYS)
    folder.mkdir(mode=0o700)
    own = ServerCertificate(folder / "ca.pem", folder / "server.pem", folder / "server-key.pem")
    own.authority.symlink_to(given.link.authority)
    own.certificate.symlink_to(given.link.certificate)
    own.key.symlink_to(given.link.key)
    return own


def _coordinator(
    place: ActorPlace, run: RunFolder, nodes: Path, link: str, certificate: ServerCertificate, vault: Vault | None
) -> None:
    settings = CoordinatorSettings(
        state=place.state,
        listen=link,
        ca=certificate.authority,
        certificate=certificate.certificate,
        key=certificate.key,
        nodes=nodes,
        run=run.path,
        **_trust(vault),
    )
    write_role(settings, place.settings)


def _node(place: ActorPlace, vault: Vault | None, given: GivenFederation | None) -> NodeBinding:
    """Make a member's node key, or put the given one into its folder. Returns whose it is."""
    path = place.folder / "node-key"
    if given is not None:
        path.symlink_to(given.node_key(place.name))
        return given.binding(place.name)
    return bind(place.name, place.role, create_node_key(path), None if vault is None else vault.keys(place.name))


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
