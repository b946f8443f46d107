"""Sessions over real TLS: who gets in, what is said, and how a session ends."""

import contextlib
import os
import socket
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from session_hosts import ID, PATIENT, REQUEST, Hosts, together

from nescient_fl.mpc import channel as channel_module
from nescient_fl.mpc.channel import DATA, HELLO, Channel, Deadline, Listener, connect
from nescient_fl.mpc.errors import MaterialError, SessionAborted
from nescient_fl.mpc.material import MaterialRequest
from nescient_fl.mpc.session import Session, answer_hello, hello


@pytest.mark.parametrize(("parties", "tcp"), [(2, False), (2, True), (3, False), (3, True)])
def test_everybody_hears_everybody(tmp_path: Path, pool: ThreadPoolExecutor, parties: int, tcp: bool) -> None:
    hosts = Hosts(tmp_path, parties, tcp)

    def work(session: Session) -> tuple[list[bytes], list[int], int]:
        small = session.exchange(b"small %d" % session.rank)
        # Sizes differ, and the largest fill every buffer on the way.
        large = session.exchange(bytes([session.rank]) * 3_000_000 * (session.rank + 1))
        return small, [len(part) for part in large], len(session.material(REQUEST))

    dealt, *answers = [future.result() for future in together(pool, hosts, work)]
    for small, large, _ in answers:
        assert small == [b"small %d" % rank for rank in range(parties)]
        assert large == [3_000_000 * (rank + 1) for rank in range(parties)]
    assert [blob for _, _, blob in answers] == [32] * (parties - 1) + [32 + 8000]
    assert dealt.bytes_sent > 8000


def test_a_session_may_end_without_asking_the_dealer(hosts: Hosts, pool: ThreadPoolExecutor) -> None:
    dealt, *_ = [future.result() for future in together(pool, hosts, lambda session: session.exchange(b"x"))]
    assert dealt.bytes_sent < 1000


def failures(futures: list[Future[Any]]) -> list[SessionAborted]:
    errors = [future.exception() for future in futures]
    return [error for error in errors if isinstance(error, SessionAborted)]


def test_a_party_that_never_comes_is_named(hosts: Hosts, pool: ThreadPoolExecutor) -> None:
    started = time.monotonic()
    dealers = [pool.submit(hosts.dealer)]
    with pytest.raises(SessionAborted, match="party-2 did not connect") as caught, hosts.session(0):
        pass
    assert caught.value.lost == "party-2"
    dealers[0].exception()
    dealers.append(pool.submit(hosts.dealer))
    with pytest.raises(SessionAborted, match="party-1 cannot be reached") as caught, hosts.session(1):
        pass
    assert caught.value.lost == "party-1"
    assert [error.lost for error in failures(dealers)] == ["party-2", "party-1"]
    assert time.monotonic() - started < 8


def test_a_dealer_that_never_comes_is_named(hosts: Hosts, pool: ThreadPoolExecutor) -> None:
    def party(rank: int) -> None:
        with hosts.session(rank):
            pass

    found = failures([pool.submit(party, rank) for rank in (0, 1)])
    assert "dealer" in {error.lost for error in found}


def test_a_party_whom_nobody_meets_misses_the_dealer_first(hosts: Hosts) -> None:
    for rank in (0, 1):
        with pytest.raises(SessionAborted, match="dealer cannot be reached") as caught, hosts.session(rank):
            pass
        assert caught.value.lost == "dealer"


def test_parties_without_a_dealer_tell_each_other(hosts: Hosts, pool: ThreadPoolExecutor) -> None:
    """One of them had met it before it was lost."""
    hosts.times = PATIENT
    listener = Listener(hosts.member("dealer").address or "")

    def half_a_dealer() -> None:
        channel = None
        while channel is None:
            channel = listener.accept(hosts.keys("dealer"), [hosts.member("party-1")], Deadline(10))
        assert answer_hello(channel, hello(ID, hosts.roster), Deadline(10))
        listener.close()
        with contextlib.suppress(SessionAborted):
            channel.receive(HELLO, Deadline(20))

    dealer = pool.submit(half_a_dealer)

    def party(rank: int) -> None:
        with hosts.session(rank) as session:
            session.exchange(b"x")

    for future in [pool.submit(party, rank) for rank in (0, 1)]:
        error = future.exception()
        assert isinstance(error, SessionAborted)
        assert error.lost == "dealer", str(error)
    dealer.result()


def test_a_party_that_stops_talking_is_named_in_time(hosts: Hosts, pool: ThreadPoolExecutor) -> None:
    def work(session: Session) -> None:
        if session.rank == 1:
            time.sleep(2)
            return
        session.exchange(b"x")

    started = time.monotonic()
    _, first, _ = together(pool, hosts, work)
    error = first.exception()
    assert isinstance(error, SessionAborted)
    assert (str(error), error.lost) == ("party-2 was silent for too long", "party-2")
    assert time.monotonic() - started < 3


def test_a_party_that_asked_the_dealer_hears_from_it_who_did_not(hosts: Hosts, pool: ThreadPoolExecutor) -> None:
    asked, hosts.times = threading.Event(), PATIENT

    def work(session: Session) -> None:
        if session.rank == 1:
            asked.wait(20)
            return
        try:
            session.material(REQUEST)
        finally:
            asked.set()

    dealer, first, _ = together(pool, hosts, work)
    for future in (first, dealer):
        error = future.exception()
        assert isinstance(error, SessionAborted)
        assert error.lost == "party-2"
    assert str(first.exception()) == "dealer gave up: party-2 was silent for too long"


def test_parties_that_wait_for_another_are_not_blamed_by_the_dealer(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    hosts, over = Hosts(tmp_path, parties=3), threading.Event()
    hosts.times = PATIENT

    def work(session: Session) -> None:
        if session.rank == 1:
            over.wait(20)
            return
        try:
            session.exchange(b"x")
        finally:
            over.set()

    dealer, first, _, third = together(pool, hosts, work)
    for future in (dealer, first, third):
        error = future.exception()
        assert isinstance(error, SessionAborted)
        assert error.lost == "party-2", str(error)


def test_somebody_who_connects_and_says_nothing_costs_a_session_little(
    hosts: Hosts, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel_module, "_HANDSHAKE_SECONDS", 0.2)
    dealer = pool.submit(hosts.dealer)
    address = Path((hosts.member("dealer").address or "").removeprefix("unix:"))
    while not address.exists():
        time.sleep(0.01)
    with socket.socket(socket.AF_UNIX) as idle:
        idle.connect(str(address))
        parties = [pool.submit(lambda rank=rank: hosts.session(rank).__enter__().exchange(b"x")) for rank in (0, 1)]
        assert [party.result() for party in parties] == [[b"x", b"x"]] * 2
    dealer.exception()


def test_a_process_that_hangs_at_an_address_is_given_up_for_its_successor(
    hosts: Hosts, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel_module, "_HANDSHAKE_SECONDS", 0.3)
    address = hosts.member("party-1").address or ""
    with socket.socket(socket.AF_UNIX) as hanging:
        hanging.bind(address.removeprefix("unix:"))
        hanging.listen(5)
        connecting = pool.submit(connect, hosts.keys("party-2"), hosts.member("party-1"), Deadline(10))
        connection, _ = hanging.accept()
        successor = Listener(address)
        accepted = None
        while accepted is None:
            accepted = successor.accept(hosts.keys("party-1"), [hosts.member("party-2")], Deadline(10))
        connection.close()
    accepted.send(DATA, b"here", Deadline(2))
    assert connecting.result().receive(DATA, Deadline(2)) == b"here"
    successor.close()


def test_a_listener_that_is_late_to_close_leaves_its_successor_alone(hosts: Hosts) -> None:
    address = hosts.member("party-1").address or ""
    late, successor = Listener(address), Listener(address)
    path = Path(address.removeprefix("unix:"))
    late.close()
    assert path.exists()
    successor.close()
    assert not path.exists()


def test_a_party_that_fails_tells_the_other_what_kind_of_error_it_was(hosts: Hosts, pool: ThreadPoolExecutor) -> None:
    def work(session: Session) -> None:
        if session.rank == 1:
            raise ValueError("secret words")
        session.exchange(b"x")

    dealer, first, second = together(pool, hosts, work)
    assert isinstance(second.exception(), ValueError)
    assert str(first.exception()) == "party-2 gave up: ValueError"
    assert "gave up" in str(dealer.exception())


def test_a_connection_that_breaks_in_a_message_is_named(hosts: Hosts, pool: ThreadPoolExecutor) -> None:
    def work(session: Session) -> None:
        if session.rank == 1:
            channel = session._channels[0]
            channel._connection.send(b"\x02" + (0).to_bytes(8, "big") + (1000).to_bytes(8, "big") + b"half")
            channel.close()
            return
        session.exchange(b"x")

    _, first, _ = together(pool, hosts, work)
    error = first.exception()
    assert isinstance(error, SessionAborted)
    assert error.lost == "party-2"


def pair(hosts: Hosts, pool: ThreadPoolExecutor) -> tuple[Channel, Channel]:
    listener = Listener(hosts.member("party-1").address or "")
    accepted = pool.submit(listener.accept, hosts.keys("party-1"), [hosts.member("party-2")], Deadline(2))
    there = connect(hosts.keys("party-2"), hosts.member("party-1"), Deadline(2))
    here = accepted.result()
    listener.close()
    assert here is not None
    return here, there


def test_a_message_that_is_too_long_is_refused_before_it_is_read(hosts: Hosts, pool: ThreadPoolExecutor) -> None:
    here, there = pair(hosts, pool)
    there._connection.send(b"\x02" + (0).to_bytes(8, "big") + (2**60).to_bytes(8, "big"))
    with pytest.raises(SessionAborted, match="too much"):
        here.receive(DATA, Deadline(1))


def test_a_large_message_has_the_time_that_a_slow_link_takes_and_a_stall_has_not(
    hosts: Hosts, pool: ThreadPoolExecutor
) -> None:
    here, there = pair(hosts, pool)

    def drop_by_drop(pieces: int) -> None:
        there._connection.send(b"\x02" + there._sent.to_bytes(8, "big") + (1000).to_bytes(8, "big"))
        for _ in range(pieces):
            there._connection.send(bytes(100))
            time.sleep(0.1)
        there._sent += 1

    # A second for a message that takes 0.3 s at most without a pause, at 100 bytes a tenth of a second.
    sent = pool.submit(drop_by_drop, 10)
    assert here.receive(DATA, Deadline(0.3, slowest=500)) == bytes(1000)
    sent.result()
    sent = pool.submit(drop_by_drop, 10)
    with pytest.raises(SessionAborted, match="silent for too long"):
        here.receive(DATA, Deadline(0.3))
    sent.result()


def test_a_deadline_is_put_off_by_what_moves_and_never_far(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(channel_module.time, "monotonic", lambda: now[0])
    slow, fast, plain = Deadline(20, slowest=1000), Deadline(20, slowest=1000), Deadline(20)
    now[0] = 115.0
    for deadline, count in ((slow, 3000), (fast, 10**9), (plain, 10**9)):
        deadline.moved(count)
    assert [deadline.left() for deadline in (slow, fast, plain)] == [8.0, 20.0, 5.0]


def test_a_message_out_of_turn_is_refused(hosts: Hosts, pool: ThreadPoolExecutor) -> None:
    here, there = pair(hosts, pool)
    there._connection.send(b"\x02" + (1).to_bytes(8, "big") + (0).to_bytes(8, "big"))
    with pytest.raises(SessionAborted, match="frame 1, not 0"):
        here.receive(DATA, Deadline(1))
    here, there = pair(hosts, pool)
    there.send(DATA, b"", Deadline(1))
    with pytest.raises(SessionAborted, match="kind 2, not 1"):
        here.receive(HELLO, Deadline(1))


def test_a_reason_is_cut_and_made_printable(hosts: Hosts, pool: ThreadPoolExecutor) -> None:
    here, there = pair(hosts, pool)
    there.abort("why\n\x1b[2J" + "x" * 500)
    with pytest.raises(SessionAborted) as caught:
        here.receive(DATA, Deadline(1))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


def test_a_connection_of_an_earlier_session_does_not_spoil_the_next(hosts: Hosts, pool: ThreadPoolExecutor) -> None:
    futures = [pool.submit(hosts.dealer)]

    def first() -> list[bytes]:
        with hosts.session(0) as session:
            return session.exchange(b"a")

    futures.append(pool.submit(first))
    with pytest.raises(SessionAborted), hosts.session(1, session_id=os.urandom(32)):
        pass
    with hosts.session(1) as session:
        assert session.exchange(b"b") == [b"a", b"b"]
    assert futures[1].result() == [b"a", b"b"]


def test_parties_that_ask_the_dealer_for_different_things_get_nothing(hosts: Hosts, pool: ThreadPoolExecutor) -> None:
    def work(session: Session) -> None:
        session.material(MaterialRequest(ands=1000 + session.rank))

    dealer, *parties = together(pool, hosts, work)
    assert isinstance(dealer.exception(), MaterialError)
    assert all("dealer gave up: MaterialError" in str(party.exception()) for party in parties)


def test_a_session_leaves_no_socket_and_no_thread(hosts: Hosts, pool: ThreadPoolExecutor) -> None:
    before = threading.active_count()
    for future in together(pool, hosts, lambda session: session.material(REQUEST)):
        future.result()
    assert not list(hosts.folder.glob("*.s"))
    assert threading.active_count() <= before + 3  # the pool's own
