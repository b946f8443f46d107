"""Who gets into a session over real TLS, and who does not."""

import contextlib
import os
import socket
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from session_hosts import Hosts

from nescient_fl.mpc.channel import HELLO, Deadline, Listener, connect
from nescient_fl.mpc.errors import SessionAborted
from nescient_fl.mpc.keys import MemberKeys, new_keys


def strangers(hosts: Hosts, folder: Path) -> dict[str, MemberKeys]:
    return {
        "unknown key": new_keys(folder / "x", "party-2", "party"),
        "another role": hosts.keys("dealer"),
    }


@pytest.mark.parametrize("who", ["unknown key", "another role"])
def test_a_stranger_gets_no_session(hosts: Hosts, tmp_path: Path, pool: ThreadPoolExecutor, who: str) -> None:
    keys = strangers(hosts, tmp_path)[who]
    pool.submit(hosts.dealer)
    waiting = pool.submit(lambda: hosts.session(0).__enter__())

    def try_it() -> None:
        channel = connect(keys, hosts.member("party-1"), Deadline(0.8))
        channel.send(HELLO, b"{}", Deadline(0.5))
        channel.receive(HELLO, Deadline(0.5))

    with pytest.raises(SessionAborted):
        try_it()
    error = waiting.exception()
    assert isinstance(error, SessionAborted)
    assert error.lost == "party-2"


def test_an_impostor_at_a_partys_address_is_found_out(hosts: Hosts, tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    impostor = new_keys(tmp_path / "x", "party-1", "party")
    pool.submit(hosts.dealer)
    listener = Listener(hosts.member("party-1").address or "")
    pool.submit(listener.accept, impostor, [hosts.member("party-2")], Deadline(1))
    with pytest.raises(SessionAborted, match="party-1 could not prove who it is") as caught, hosts.session(1):
        pass
    assert caught.value.lost == "party-1"
    listener.close()


def test_an_older_tls_and_plain_text_are_refused(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    hosts = Hosts(tmp_path, tcp=True)
    host, _, port = (hosts.member("party-1").address or "").rpartition(":")
    pool.submit(hosts.dealer)
    waiting = pool.submit(lambda: hosts.session(0).__enter__())
    time.sleep(0.1)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    keys = hosts.keys("party-2")
    context.load_cert_chain(keys.certificate_path, keys.signing_path)
    with socket.create_connection((host, int(port))) as plain, pytest.raises(ssl.SSLError):
        context.wrap_socket(plain)
    with socket.create_connection((host, int(port))) as plain:
        plain.settimeout(1)
        plain.sendall(b"GET / HTTP/1.0\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert b"HTTP" not in plain.recv(100)
    assert isinstance(waiting.exception(), SessionAborted)


@pytest.mark.parametrize("change", ["session", "roster"])
def test_parties_of_different_sessions_or_rosters_do_not_meet(
    hosts: Hosts, pool: ThreadPoolExecutor, change: str
) -> None:
    other: dict[str, Any] = (
        {"session_id": os.urandom(32)} if change == "session" else {"roster": replace(hosts.roster, serial=2)}
    )
    dealer = pool.submit(hosts.dealer)
    waiting = pool.submit(lambda: hosts.session(0).__enter__())
    with pytest.raises(SessionAborted, match="dealer is in another session") as caught, hosts.session(1, **other):
        pass
    assert caught.value.lost == "dealer"
    for future in (waiting, dealer):
        error = future.exception()
        assert isinstance(error, SessionAborted)
        assert error.lost == "party-2"
