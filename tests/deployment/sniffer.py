"""Everything that crosses a network namespace's interfaces, as tcpdump sees it: frames written to a file.

Run as a program with the file's path until it is terminated.
"""

import socket
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_EVERYTHING = 0x0003
_BUFFER = 64 << 20
_FORCE_RECEIVE_BUFFER = 33
_LENGTH = struct.Struct(">I")


@dataclass(frozen=True)
class Segment:
    """What one TCP segment carried, and between which ends."""

    source: tuple[str, int]
    target: tuple[str, int]
    payload: bytes


def main() -> None:
    """Write every frame, its length before it."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_EVERYTHING)) as wire:
        wire.setsockopt(socket.SOL_SOCKET, _FORCE_RECEIVE_BUFFER, _BUFFER)
        with Path(sys.argv[1]).open("wb", buffering=0) as file:
            while True:
                frame = wire.recv(1 << 17)
                file.write(_LENGTH.pack(len(frame)) + frame)


def frames(captured: bytes) -> Iterator[bytes]:
    """Yield the frames of a file that ``main`` wrote; a last one that was cut is left out."""
    place = 0
    while place + _LENGTH.size <= len(captured):
        (length,) = _LENGTH.unpack_from(captured, place)
        place += _LENGTH.size
        if place + length > len(captured):
            return
        yield captured[place : place + length]
        place += length


def segments(captured: bytes) -> Iterator[Segment]:
    """Yield every TCP segment over IPv4 that carried something, in the order seen."""
    for frame in frames(captured):
        if frame[12:14] != b"\x08\x00" or frame[23] != socket.IPPROTO_TCP:
            continue
        header = 4 * (frame[14] & 15)
        end = 14 + int.from_bytes(frame[16:18], "big")
        tcp = 14 + header
        payload = frame[tcp + 4 * (frame[tcp + 12] >> 4) : end]
        if payload:
            source, target = (socket.inet_ntoa(frame[start : start + 4]) for start in (26, 30))
            ports = struct.unpack_from(">HH", frame, tcp)
            yield Segment((source, ports[0]), (target, ports[1]), payload)


if __name__ == "__main__":
    main()
