"""Hosts for chaos.py: a network namespace for each actor, and links between them that can be cut and made bad.

A bridge joins the hosts and ``tc netem`` spoils their links where the kernel has it. Where it has not, each host gets
a TUN device, and a relay of ours, this file run as a program, carries every IPv4 packet between them: it holds
packets back and drops some, so that TCP itself finds out and sends them again. What is asked of a host's link holds
for both directions, so a ping between it and another takes twice the delay longer.
"""

import contextlib
import heapq
import os
import random
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from bench_links import has_discipline, ip, may_make_namespaces, open_tun

NETEM, RELAY = "tc netem", "a TUN relay of ours (this kernel has no netem)"
_SUBNET = "10.213.78"
_DEVICE, _HUB = "chaos0", "hub0"
_MTU = 1500


@dataclass(frozen=True)
class Link:
    """How a host is joined to the others: ms that a packet is held back, and the share of packets that is lost."""

    delay: float = 0.0
    loss: float = 0.0

    def __post_init__(self) -> None:
        if self.delay < 0 or not 0 <= self.loss <= 1:
            raise ValueError(f"a link has a delay of 0 ms or more and loses from 0 to 1 of its packets, got {self}")


GOOD, CUT = Link(), Link(loss=1.0)


@dataclass
class Hosts:
    """One host for each actor, in the order of ``names``.

    Attributes:
        how: what spoils links; empty when all share this machine's loopback and none can be.
        prefix: what the command line of each host's processes begins with.
        address: each host's own.
    """

    how: str
    prefix: dict[str, tuple[str, ...]]
    address: dict[str, str]
    _numbers: dict[str, int] = field(default_factory=dict)
    _namespaces: dict[str, str] = field(default_factory=dict)
    _hub: str = ""
    _relay: "subprocess.Popen[str] | None" = None

    def shape(self, name: str, link: Link) -> None:
        """Make a host's link so. Raises RuntimeError where no link can be spoilt."""
        if self._relay is not None and self._relay.stdin is not None:
            self._relay.stdin.write(f"{self._numbers[name]} {link.delay} {link.loss}\n")
            self._relay.stdin.flush()
        elif self._hub:
            _netem(self._namespaces[name], _DEVICE, link)
            _netem(self._hub, f"port{self._numbers[name]}", link)
        else:
            raise RuntimeError("all actors share the loopback interface: no link can be spoilt")


@contextmanager
def hosts(names: Sequence[str]) -> Iterator[Hosts]:
    """Make a host for each name, joined by good links; without the right to, they are all this machine."""
    if not may_make_namespaces():
        yield Hosts("", dict.fromkeys(names, ()), dict.fromkeys(names, "127.0.0.1"))
        return
    spaces = {name: f"chaos-{os.getpid()}-{number}" for number, name in enumerate(names, 1)}
    numbers = {name: number for number, name in enumerate(names, 1)}
    prefix: dict[str, tuple[str, ...]] = {name: ("ip", "netns", "exec", space) for name, space in spaces.items()}
    address = {name: f"{_SUBNET}.{number}" for name, number in numbers.items()}
    with ExitStack() as stack:
        for space in spaces.values():
            _make(stack, space)
        if has_discipline(next(iter(spaces.values())), ["netem", "loss", "1%"]):
            hub = f"chaos-{os.getpid()}-hub"
            _make(stack, hub)
            _join(hub, spaces, numbers)
            made = Hosts(NETEM, prefix, address, numbers, spaces, _hub=hub)
        else:
            relay = stack.enter_context(_relay(list(spaces.values())))
            made = Hosts(RELAY, prefix, address, numbers, spaces, _relay=relay)
        for name, space in spaces.items():
            ip("-n", space, "addr", "add", f"{address[name]}/24", "dev", _DEVICE)
            ip("-n", space, "link", "set", _DEVICE, "mtu", str(_MTU), "up")
        yield made


def _make(stack: ExitStack, space: str) -> None:
    ip("netns", "add", space)
    stack.callback(ip, "netns", "del", space)
    ip("-n", space, "link", "set", "lo", "up")


def _join(hub: str, spaces: dict[str, str], numbers: dict[str, int]) -> None:
    ip("-n", hub, "link", "add", _HUB, "type", "bridge")
    ip("-n", hub, "link", "set", _HUB, "up")
    for name, space in spaces.items():
        port = f"port{numbers[name]}"
        ip("-n", hub, "link", "add", port, "type", "veth", "peer", "name", _DEVICE, "netns", space)
        ip("-n", hub, "link", "set", port, "master", _HUB, "up")


def _netem(space: str, device: str, link: Link) -> None:
    command = ["ip", "netns", "exec", space, "tc", "qdisc", "replace", "dev", device, "root", "netem"]
    limits = ["delay", f"{link.delay}ms", "loss", f"{100 * link.loss}%"]
    subprocess.run([*command, *limits], check=True, capture_output=True)


@contextmanager
def _relay(spaces: Sequence[str]) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, __file__, *spaces]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as relay:
        assert relay.stdout is not None
        if relay.stdout.readline() != "ready\n":
            raise RuntimeError(f"the relay could not start: status {relay.wait()}")
        yield relay
        if relay.poll() is not None:
            raise RuntimeError(f"the relay ended with status {relay.returncode}")


class Relay:
    """Decides about packets: which are lost, and when the others arrive. Hosts are numbered from 1."""

    def __init__(self, count: int, draw: random.Random) -> None:
        self._links = [GOOD] * count
        self._draw = draw
        self._held: list[tuple[float, int, int, bytes]] = []
        self._taken = 0

    def shape(self, line: str) -> None:
        """Take over a line of host, delay in ms and loss."""
        host, delay, loss = line.split()
        self._links[int(host) - 1] = Link(float(delay), float(loss))

    def take(self, sender: int, packet: bytes, now: float) -> None:
        """Take a packet from a host; its receiver is the last byte of its IPv4 destination."""
        receiver = packet[19] if len(packet) >= 20 and packet[0] >> 4 == 4 else 0
        if not 0 < receiver <= len(self._links):
            return
        ends = (self._links[sender - 1], self._links[receiver - 1])
        if any(end.loss and self._draw.random() < end.loss for end in ends):
            return
        self._taken += 1
        due = now + sum(end.delay for end in ends) / 1000
        heapq.heappush(self._held, (due, self._taken, receiver, packet))

    def due(self, now: float) -> Iterator[tuple[int, bytes]]:
        """Yield every packet whose time has come, with its receiver."""
        while self._held and self._held[0][0] <= now:
            _, _, receiver, packet = heapq.heappop(self._held)
            yield receiver, packet

    def wait(self, now: float) -> float | None:
        """Return the seconds until the next packet is due, None when none is held."""
        return max(self._held[0][0] - now, 0.0) if self._held else None


def main() -> None:
    """Carry packets between the namespaces named until standard input, where links are shaped, is at its end."""
    tuns = [open_tun(space, _DEVICE) for space in sys.argv[1:]]
    # A fault is drawn from the campaign's seed; which packets it hits depends on time as it is.
    relay = Relay(len(tuns), random.Random(0))
    print("ready", flush=True)
    while True:
        ready, _, _ = select.select([0, *tuns], [], [], relay.wait(time.monotonic()))
        if 0 in ready:
            lines = os.read(0, 65536).decode()
            if not lines:
                return
            for line in lines.splitlines():
                relay.shape(line)
        for number, tun in enumerate(tuns, 1):
            if tun in ready:
                with contextlib.suppress(BlockingIOError):
                    for _ in range(64):
                        relay.take(number, os.read(tun, _MTU + 64), time.monotonic())
        for receiver, packet in relay.due(time.monotonic()):
            # A device whose queue is full loses the packet, as a host's would.
            with contextlib.suppress(OSError):
                os.write(tuns[receiver - 1], packet)


if __name__ == "__main__":
    main()
