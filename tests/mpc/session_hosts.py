"""Parties and a dealer on one machine, with keys, roster and connections of their own."""

import socket
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from nescient_fl.mpc.dealer import serve_session
from nescient_fl.mpc.keys import MemberKeys, load_keys, new_keys, public_part
from nescient_fl.mpc.material import MaterialRequest
from nescient_fl.mpc.roster import Member, Roster
from nescient_fl.mpc.session import Session

ID = bytes(range(32))
TIMES = {"timeout": 1.0, "deadline": 3.0}
PATIENT = {"timeout": 4.0, "deadline": 12.0}
"""For tests of who gives up first, on a machine that may be busy."""
REQUEST = MaterialRequest(ands=1000)


class Hosts:
    """Keys and a roster with K parties and a dealer, on Unix sockets or on loopback."""

    def __init__(self, folder: Path, parties: int = 2, tcp: bool = False) -> None:
        self.folder, self.times = folder, TIMES
        members = []
        for name, role in [(f"party-{n + 1}", "party") for n in range(parties)] + [("dealer", "dealer")]:
            address = f"127.0.0.1:{free_port()}" if tcp else f"unix:{folder / name}.s"
            members.append(public_part(new_keys(folder / name, name, role), address))
        members += [public_part(new_keys(folder / f"s{n}", f"s{n}", "site")) for n in range(3)]
        self.roster = Roster("test", 1, tuple(members), 3)

    def keys(self, name: str) -> MemberKeys:
        return load_keys(self.folder / name)

    def member(self, name: str) -> Member:
        return next(member for member in self.roster.members if member.name == name)

    def session(self, rank: int, **changes: Any) -> Session:
        options = {"roster": self.roster, "session_id": ID, **self.times, **changes}
        return Session(self.keys(f"party-{rank + 1}"), **options)

    def dealer(self, **changes: Any) -> Any:
        return serve_session(self.keys("dealer"), self.roster, changes.pop("session_id", ID), **self.times)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def together(pool: ThreadPoolExecutor, hosts: Hosts, work: Callable[[Session], Any]) -> list[Future[Any]]:
    def party(rank: int) -> Any:
        with hosts.session(rank) as session:
            return work(session)

    return [pool.submit(hosts.dealer), *(pool.submit(party, rank) for rank in range(len(hosts.roster.parties)))]
