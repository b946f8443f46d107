"""Frames between members: any cut, repeat or change is one kind of error that names the peer."""

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nescient_fl.mpc.channel import ABORT, BYE, DATA, HELLO, Channel, Deadline, _parsed
from nescient_fl.mpc.errors import SessionAborted

FRAME = struct.Struct(">BQQ")
PATIENCE = 30.0


class Wire:
    """Stands in for a TLS connection: takes and gives bytes in pieces of the sizes it is told."""

    def __init__(self, given: bytes = b"", sizes: list[int] | None = None) -> None:
        self.taken, self.closed = bytearray(), False
        self._given, self._sizes, self._calls = memoryview(given), sizes or [1 << 20], 0

    def _size(self) -> int:
        self._calls += 1
        return self._sizes[self._calls % len(self._sizes)]

    def settimeout(self, seconds: float) -> None:
        assert seconds > 0

    def send(self, data: Any) -> int:
        size = min(self._size(), len(data))
        self.taken += data[:size]
        return size

    def recv_into(self, view: memoryview) -> int:
        size = min(self._size(), len(view), len(self._given))
        view[:size] = self._given[:size]
        self._given = self._given[size:]
        return size

    def recv(self, size: int) -> bytes:
        buffer = bytearray(size)
        return bytes(buffer[: self.recv_into(memoryview(buffer))])

    def shutdown(self, how: int) -> None: ...

    def close(self) -> None:
        self.closed = True


def channel(given: bytes = b"", sizes: list[int] | None = None) -> Channel:
    return Channel(Wire(given, sizes), "party-2")  # type: ignore[arg-type]


def frames(messages: list[tuple[int, bytes]]) -> bytes:
    return b"".join(FRAME.pack(kind, n, len(data)) + data for n, (kind, data) in enumerate(messages))


SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=5)
MESSAGES = st.lists(st.tuples(st.sampled_from([HELLO, DATA, BYE]), st.binary(max_size=60)), max_size=6)


@given(MESSAGES, SIZES, SIZES)
def test_what_is_sent_is_received_however_the_bytes_come(
    messages: list[tuple[int, bytes]], out: list[int], back: list[int]
) -> None:
    wire = Wire(sizes=out)
    sender = Channel(wire, "party-2")  # type: ignore[arg-type]
    for kind, payload in messages:
        sender.send(kind, payload, Deadline(PATIENCE))
    assert bytes(wire.taken) == frames(messages)
    receiver = channel(bytes(wire.taken), back)
    for kind, payload in messages:
        assert receiver.receive(kind, Deadline(PATIENCE)) == payload
    assert sender.bytes_sent == receiver.bytes_received == len(wire.taken)


def test_a_large_message_goes_in_pieces() -> None:
    payload = bytes(range(256)) * 5000
    wire = Wire(sizes=[100_000])
    Channel(wire, "party-2").send(DATA, payload, Deadline(PATIENCE))  # type: ignore[arg-type]
    assert channel(bytes(wire.taken), [70_001]).receive(DATA, Deadline(PATIENCE)) == payload


@given(st.binary(max_size=200))
def test_garbage_is_a_frame_or_an_aborted_session_and_nothing_else(garbage: bytes) -> None:
    try:
        payload = channel(garbage).receive(DATA, Deadline(PATIENCE), largest=1000)
    except SessionAborted as aborted:
        lost = aborted.lost
    else:
        lost = "party-2"
        assert garbage.startswith(FRAME.pack(DATA, 0, len(payload)) + payload)
    assert lost == "party-2"


@given(st.integers(0, 16 + 8), st.integers(1, 255))
def test_no_byte_of_a_header_can_change(place: int, flip: int) -> None:
    whole = bytearray(frames([(DATA, b"12345678")]))
    if place >= FRAME.size:
        return  # the payload's bytes are TLS's to keep
    whole[place] ^= flip
    receiver = channel(bytes(whole))
    with pytest.raises(SessionAborted, match="party-2"):
        _ = [receiver.receive(DATA, Deadline(PATIENCE), largest=1 << 10) for _ in range(2)]


@given(st.integers(0, FRAME.size + 7))
def test_a_message_that_is_cut_is_a_lost_peer(length: int) -> None:
    with pytest.raises(SessionAborted, match="party-2 closed the connection") as caught:
        channel(frames([(DATA, b"12345678")])[:length]).receive(DATA, Deadline(PATIENCE))
    assert caught.value.lost == "party-2"


@pytest.mark.parametrize("order", [[0, 0], [1], [0, 2], [1, 0]])
def test_frames_repeated_left_out_or_swapped_are_refused(order: list[int]) -> None:
    one = [FRAME.pack(DATA, number, 1) + bytes([number]) for number in range(3)]
    receiver = channel(b"".join(one[number] for number in order))
    with pytest.raises(SessionAborted, match=r"party-2 sent frame \d, not \d"):
        _ = [receiver.receive(DATA, Deadline(PATIENCE)) for _ in order]


def test_a_frame_of_another_kind_is_refused() -> None:
    with pytest.raises(SessionAborted, match="a frame of kind 1, not 2"):
        channel(frames([(HELLO, b"")])).receive(DATA, Deadline(PATIENCE))
    assert channel(frames([(BYE, b"")])).receive_any((DATA, BYE), Deadline(PATIENCE)) == (BYE, b"")


@pytest.mark.parametrize("length", [11, 2**40, 2**64 - 1])
def test_no_room_is_made_for_a_length_that_cannot_be(length: int) -> None:
    with pytest.raises(SessionAborted, match="which is too much"):
        channel(FRAME.pack(DATA, 0, length)).receive(DATA, Deadline(PATIENCE), largest=10)


@given(st.binary(max_size=900))
def test_a_reason_for_an_abort_is_text_of_one_line(reason: bytes) -> None:
    with pytest.raises(SessionAborted) as caught:
        channel(frames([(ABORT, reason)])).receive(DATA, Deadline(PATIENCE))
    said = str(caught.value)
    assert "party-2" in said
    assert "\n" not in said
    assert len(said) < 300


def test_time_that_is_over_ends_the_waiting() -> None:
    for work in (lambda c: c.send(DATA, b"x", Deadline(0)), lambda c: c.receive(DATA, Deadline(0))):
        with pytest.raises(SessionAborted, match="party-2 was silent for too long"):
            work(channel(frames([(DATA, b"x")])))


def test_a_step_never_outlasts_the_whole() -> None:
    whole = Deadline(0.5, step=60.0)
    assert whole.left() <= 0.5
    assert whole.step().left() <= 0.5
    assert Deadline(60.0, step=0.5).step().left() <= 0.5
    assert Deadline(-1).left() == 0


@pytest.mark.parametrize(
    ("address", "where"),
    [
        ("unix:/tmp/a:1", "/tmp/a:1"),
        ("host.example.org:7001", ("host.example.org", 7001)),
        ("[2001:db8::5]:7001", ("2001:db8::5", 7001)),
        ("127.0.0.1:1", ("127.0.0.1", 1)),
    ],
)
def test_addresses(address: str, where: Any) -> None:
    assert _parsed(address)[1] == where
