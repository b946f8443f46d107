"""A member at work: its actor in a worker, its node beside it, until it is told to stop."""

import dataclasses
import os
import signal
import threading
import time
from functools import partial
from types import FrameType
from typing import Any

from nescient_fl.deployment.health import Health
from nescient_fl.deployment.logs import make_log
from nescient_fl.deployment.roles import SOCKET, DealerSettings, MemberSettings, PartySettings, SiteSettings
from nescient_fl.deployment.site_data import open_site_folder
from nescient_fl.deployment.supernode import COLLECT_SECONDS, SuperNode
from nescient_fl.errors import UserError
from nescient_fl.lesion.training import choose_device
from nescient_fl.mpc.errors import MpcError
from nescient_fl.mpc.keys import MemberKeys, load_keys
from nescient_fl.mpc.party_store import PartyStore
from nescient_fl.mpc.roster import Roster, read_signed
from sites.actors import Actor, DealerActor, PartyActor, SiteActor
from sites.sealing import SitePolicy
from sites.site import Site
from sites.worker import Worker

_FINISH_SECONDS = 60.0
"""How long a stopping member goes on with the message at work."""
_DELIVER_SECONDS = 10.0
"""How long it then waits until the link has the answer: half a second as a rule, more where the host is busy."""


def run_member(settings: MemberSettings) -> None:
    """Be a member until SIGTERM or Ctrl-C; the message at work is answered first.

    Raises UserError when its data, keys or roster cannot be used.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, partial(_ask, stop))
    settings.state.mkdir(parents=True, exist_ok=True, mode=0o700)
    actor = open_member(settings)
    log = make_log(actor.role, actor.name)
    socket = settings.state / SOCKET
    with Worker(actor, socket, log) as worker, SuperNode(settings, socket, log) as node:

        def check() -> tuple[bool, dict[str, Any]]:
            told = dataclasses.asdict(worker.status)
            return node.alive, told | {"problem": node.problem or told["problem"]}

        with Health(settings.health_port, check):
            log("started", process=os.getpid(), superlink=settings.superlink)
            stop.wait()
            log("stopping", state=worker.status.state)
            since = time.time() - COLLECT_SECONDS
            done = worker.finish(_FINISH_SECONDS)
            if done and worker.status.answered > since:
                done = node.deliver(_DELIVER_SECONDS)
    log("stopped", unfinished=not done)


def open_member(settings: MemberSettings) -> Actor:
    """Open what a member works with. Raises UserError when something of it cannot be used."""
    keys, roster = member_keys(settings)
    if isinstance(settings, SiteSettings):
        policy = None
        if keys is not None and roster is not None:
            policy = SitePolicy(keys, roster, settings.minimum_sites, settings.share_metrics, settings.noise_multiplier)
        site = Site(open_site_folder(settings.data, settings.name), choose_device(settings.device))
        return SiteActor(site, settings.state / "transcript.jsonl", policy)
    assert keys is not None
    assert roster is not None
    if isinstance(settings, PartySettings):
        memory = settings.memory or settings.state / "memory.sqlite"
        return PartyActor(keys, roster, partial(PartyStore, memory))
    assert isinstance(settings, DealerSettings)
    return DealerActor(keys, roster)


def member_keys(settings: MemberSettings) -> tuple[MemberKeys | None, Roster | None]:
    """Read a member's keys and roster, and see that the roster knows them in the role.

    Raises UserError; returns None for both where the federation has no roster.
    """
    if settings.keys is None or settings.roster is None:
        return None, None
    role = role_of(settings)
    try:
        keys = load_keys(settings.keys)
        roster = read_signed(settings.roster, settings.authority)
        if (keys.name, keys.role) != (settings.name, role):
            raise UserError(f"the keys in {settings.keys} are those of {keys.role} {keys.name}, not {settings.name}")
        known = roster.member(settings.name, role).signing_public.public_bytes_raw()
        if known != keys.signing.public_key().public_bytes_raw():
            raise UserError(f"the roster has another key for {role} {settings.name}: ask for the latest roster")
    except MpcError as error:
        raise UserError(str(error)) from None
    return keys, roster


def role_of(settings: MemberSettings) -> str:
    """Return the name of a member's role."""
    roles = {SiteSettings: "site", PartySettings: "party", DealerSettings: "dealer"}
    return roles[type(settings)]


def _ask(stop: threading.Event, number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    stop.set()
