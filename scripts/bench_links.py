"""Hosts on one machine with a network between them that is as slow as is asked for; for bench_encrypted.py.

Each host is a network namespace of our own. Where the kernel can, a bridge joins them and ``tc`` slows every host's
way out: by netem, or by a token bucket (tbf) where only the rate is limited. Where it cannot, each host gets a TUN
device, and a relay of ours takes every packet that a host sends, holds it back as the link would, and gives it to its
receiver. Both need the right to make namespaces; nothing but what was made here is touched, and all of it is removed
again.
"""

import argparse
import ctypes
import fcntl
import heapq
import os
import select
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

NETEM, TOKEN_BUCKET, RELAY = "tc netem", "tc tbf", "a delaying relay"
LOOPBACK = "loopback"

_MTU = 65000
_SUBNET = "10.213.77"
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_CLONE_NEWNET = 0x40000000
_DEVICE = "nescient0"
_QUEUE = 100_000
_BURST_BYTES = 1 << 17
"""What a token bucket lets through at once: two packets of the largest size."""
_QUEUE_SECONDS = 5


@dataclass(frozen=True)
class Condition:
    """A network: ms added to every packet one way, and the Mb/s that a host may send, None for no limit."""

    delay: float = 0.0
    rate: float | None = None

    @property
    def limited(self) -> bool:
        return self.delay > 0 or self.rate is not None

    def __str__(self) -> str:
        parts = [f"{self.delay:g} ms"] if self.delay else []
        if self.rate is not None:
            parts.append(f"{self.rate / 1000:g} Gb/s" if self.rate >= 1000 else f"{self.rate:g} Mb/s")
        return ", ".join(parts) or LOOPBACK


@dataclass(frozen=True)
class Host:
    """Where a process runs: what its command line begins with, its address, and the device of that address."""

    prefix: tuple[str, ...]
    address: str
    device: str | None


@dataclass(frozen=True)
class Network:
    """Some hosts, and how what lies between them was slowed."""

    hosts: tuple[Host, ...]
    how: str


def may_make_namespaces() -> bool:
    """Say whether this process may make network namespaces and the devices in them."""
    name = f"nescient-probe-{os.getpid()}"
    try:
        ip("netns", "add", name)
    except (OSError, subprocess.CalledProcessError):
        return False
    ip("netns", "del", name)
    return True


@contextmanager
def network(hosts: int, condition: Condition) -> Iterator[Network]:
    """Make so many hosts with ``condition`` between any two of them.

    Without a limit they are all this machine's loopback. Raises RuntimeError where namespaces cannot be made.
    """
    if not condition.limited:
        yield Network((Host((), "127.0.0.1", None),) * hosts, LOOPBACK)
        return
    if not may_make_namespaces():
        raise RuntimeError("a slower network needs the right to make network namespaces")
    names = [f"nescient-{os.getpid()}-{number}" for number in range(hosts)]
    with ExitStack() as stack:
        for name in names:
            ip("netns", "add", name)
            stack.callback(ip, "netns", "del", name)
            ip("-n", name, "link", "set", "lo", "up")
        made = tuple(
            Host(("ip", "netns", "exec", name), f"{_SUBNET}.{number}", _DEVICE) for number, name in enumerate(names, 1)
        )
        for how, discipline in _disciplines(condition).items():
            if has_discipline(names[0], discipline):
                _join_by_bridge(stack, names, discipline)
                yield Network(made, how)
                return
        relay = stack.enter_context(_relay(names, condition))
        yield Network(made, RELAY)
        if relay.poll() is not None:
            raise RuntimeError(f"the relay ended with status {relay.returncode}")


def ip(*arguments: str) -> None:
    """Run ip(8). Raises CalledProcessError."""
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def _disciplines(condition: Condition) -> dict[str, list[str]]:
    """Return what ``tc`` can make the condition of, the best first."""
    netem = ["netem", "delay", f"{condition.delay}ms", "limit", str(_QUEUE)]
    if condition.rate is None:
        return {NETEM: netem}
    rate = ["rate", f"{condition.rate}mbit"]
    found = {NETEM: [*netem, *rate]}
    if not condition.delay:
        found[TOKEN_BUCKET] = ["tbf", *rate, "burst", str(_BURST_BYTES), "latency", f"{_QUEUE_SECONDS}s"]
    return found


def has_discipline(name: str, discipline: Sequence[str]) -> bool:
    """Say whether ``tc`` and the kernel have a queueing discipline, tried in a namespace of ours."""
    try:
        done = subprocess.run(_tc(name, "add", "lo", *discipline), check=False, capture_output=True)
    except OSError:
        return False
    if done.returncode == 0:
        subprocess.run(_tc(name, "del", "lo"), check=True, capture_output=True)
    return done.returncode == 0


def _tc(name: str, action: str, device: str, *discipline: str) -> list[str]:
    return ["ip", "netns", "exec", name, "tc", "qdisc", action, "dev", device, "root", *discipline]


def _join_by_bridge(stack: ExitStack, names: Sequence[str], discipline: Sequence[str]) -> None:
    hub = f"{names[0]}-hub"
    ip("netns", "add", hub)
    stack.callback(ip, "netns", "del", hub)
    ip("-n", hub, "link", "add", "bridge0", "mtu", str(_MTU), "type", "bridge")
    ip("-n", hub, "link", "set", "bridge0", "up")
    for number, name in enumerate(names, 1):
        port = f"port{number}"
        ip("-n", hub, "link", "add", port, "type", "veth", "peer", "name", _DEVICE, "netns", name)
        ip("-n", hub, "link", "set", port, "mtu", str(_MTU), "master", "bridge0", "up")
        _address(name, number)
        subprocess.run(_tc(name, "add", _DEVICE, *discipline), check=True, capture_output=True)


def _address(name: str, number: int) -> None:
    ip("-n", name, "addr", "add", f"{_SUBNET}.{number}/24", "dev", _DEVICE)
    ip("-n", name, "link", "set", _DEVICE, "mtu", str(_MTU), "up")


@contextmanager
def _relay(names: Sequence[str], condition: Condition) -> Iterator["subprocess.Popen[str]"]:
    rate = [] if condition.rate is None else ["--rate", str(condition.rate)]
    command = [sys.executable, __file__, *names, "--delay", str(condition.delay), *rate]
    relay = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert relay.stdout is not None
        if relay.stdout.readline() != "ready\n":
            raise RuntimeError(f"the relay could not start: status {relay.wait()}")
        for number, name in enumerate(names, 1):
            _address(name, number)
        yield relay
    finally:
        relay.terminate()
        relay.wait()


def open_tun(name: str, device: str = _DEVICE) -> int:
    """Make a TUN device in a namespace and return the descriptor that its packets come from and go to."""
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    there = os.open(f"/var/run/netns/{name}", os.O_RDONLY)
    try:
        if libc.setns(there, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"cannot enter the namespace {name}")
        tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH", device.encode(), _IFF_TUN | _IFF_NO_PI))
    finally:
        libc.setns(home, _CLONE_NEWNET)
        os.close(home)
        os.close(there)
    return tun


def relay_packets(tuns: Sequence[int], delay: float, rate: float | None) -> None:
    """Carry IPv4 packets between the devices for ever, by the last byte of their destination, 1 for the first.

    ``delay`` is in seconds. A sender's packets leave one after another at ``rate`` bits a second, as on a wire.
    """
    held: list[tuple[float, int, int, bytes]] = []
    free = [0.0] * len(tuns)
    count = 0
    while True:
        now = time.monotonic()
        while held and held[0][0] <= now:
            _, _, to, packet = heapq.heappop(held)
            os.write(tuns[to], packet)
        # Waiting in the kernel is a millisecond exact; the last part of it is spent asking.
        wait = max(held[0][0] - now - 0.001, 0.0) if held else None
        ready, _, _ = select.select(tuns, [], [], wait)
        for tun in ready:
            sender = tuns.index(tun)
            packet = os.read(tun, _MTU + 64)
            to = packet[19] - 1 if packet[0] >> 4 == 4 else -1
            if not 0 <= to < len(tuns):
                continue
            free[sender] = max(time.monotonic(), free[sender]) + (0.0 if rate is None else 8 * len(packet) / rate)
            count += 1
            heapq.heappush(held, (free[sender] + delay, count, to, packet))


def main() -> None:
    """Be the relay between namespaces; ends when it is told to."""
    parser = argparse.ArgumentParser(description="the relay of bench_links.py")
    parser.add_argument("namespaces", nargs="+")
    parser.add_argument("--delay", type=float, default=0.0, help="ms")
    parser.add_argument("--rate", type=float, help="Mb/s")
    arguments = parser.parse_args()
    tuns = [open_tun(name) for name in arguments.namespaces]
    print("ready", flush=True)
    relay_packets(tuns, arguments.delay / 1000, None if arguments.rate is None else arguments.rate * 1e6)


if __name__ == "__main__":
    main()
