"""The actors of a simulated federation, made from its run folder.

Nodes are numbered: first the sites in name order, then the parties, then the dealer.
"""

from functools import lru_cache, partial
from pathlib import Path

from nescient_fl.errors import UserError
from nescient_fl.mpc.vault import Vault
from nescient_fl.study.run_folder import RunFolder, read_json
from sites.actors import Actor, DealerActor, PartyActor, SiteActor
from sites.sealing import SitePolicy
from sites.site import open_site


@lru_cache(maxsize=16)
def open_actor(run: Path, number: int) -> Actor:
    """Open the actor of a node. Raises UserError when the run's data or keys are gone."""
    config = read_json(RunFolder(run).config)
    sites = config["sites"]
    if number < len(sites):
        site = open_site(run, number)
        return SiteActor(site, RunFolder(run).transcript, _policy(run, site.data.name))
    if config["secure"] is None:
        raise UserError(f"the run has {len(sites)} nodes, and this is number {number + 1}")
    vault = Vault(Path(config["secure"]["vault"]))
    roster = vault.roster()
    if number < len(sites) + len(roster.parties):
        name = roster.parties[number - len(sites)].name
        return PartyActor(vault.keys(name), roster, partial(vault.store, name))
    return DealerActor(vault.keys(roster.dealer.name), roster)


def _policy(run: Path, name: str) -> SitePolicy | None:
    config = read_json(RunFolder(run).config)
    secure = config["secure"]
    if secure is None:
        return None
    vault = Vault(Path(secure["vault"]))
    shared = config["settings"]["share_metrics"]
    return SitePolicy(
        vault.keys(name),
        vault.roster(),
        secure["minimum"],
        name in shared or "all" in shared,
        secure["noise_multiplier"],
    )
