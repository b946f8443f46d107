"""What encrypted inference of the lesion network costs, against stock CrypTen measured in the same run.

    python scripts/bench_encrypted.py [--quick] [--only PART ...] [--out FILE.json]

Parts: ``loopback`` batches of 1, 8 and 32 on this machine's loopback; ``delay`` with 1, 20 and 50 ms added to every
packet one way; ``rate`` where a host sends 1 Gb/s or 100 Mb/s; ``many`` 10,000 synthetic radiographs and a trained
model: flipped decisions and wrap-around failures. The last alone takes a quarter of an hour or more.

Ours are the product's commands ``serve-model`` and ``deal`` and a clinic, over mutual TLS. Its seconds are those of
the protocol on material made ahead, as stock's are those after its model was encrypted; set-up and the making of
material are told beside them.

Stock is CrypTen 0.4.1 as it comes, its own modules, its own gloo, with its trusted first party (TFP) and its trusted
third party (TTP) in turn. Every role is a process of its own, with one thread. Slow networks are made of network
namespaces, with tc or else a relay of ours, which the output says; they need the right to make namespaces.

What is compared runs in turn; a figure is the median of the repeats. Runs at the same time on the machine spoil the
figures: the load average is shown.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench_common import Figures, Line, ratios
from bench_links import LOOPBACK, Condition, Network, may_make_namespaces, network
from bench_our_roles import write_roles

_LONGEST = 7200.0
"""Seconds that all roles of one measurement may take."""
_PORT = 29517


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    batches: tuple[int, ...]
    repeats: int
    delays: tuple[float, ...]
    rates: tuple[float, ...]
    slow_batch: int
    slow_repeats: int
    many: int
    phantom: int


FULL = Size((1, 8, 32), 3, (1.0, 20.0, 50.0), (1000.0, 100.0), 8, 1, 10_000, 2400)
QUICK = Size((1,), 1, (1.0,), (1000.0,), 1, 1, 6, 40)


@dataclass(frozen=True)
class Found:
    """What the image owner of one contestant measured: a batch's seconds by repeat, and its traffic."""

    batch: int
    seconds: tuple[float, ...]
    rounds: int
    bytes_sent: float
    errors: tuple[float, ...]
    note: str = ""
    ahead: tuple[float, ...] = ()

    @property
    def each(self) -> tuple[float, ...]:
        """Seconds an image."""
        return tuple(value / self.batch for value in self.seconds)

    @property
    def megabytes(self) -> float:
        """MB an image that a party sends."""
        return self.bytes_sent / self.batch / 1e6


Contestant = Callable[[Network, int, int, int], Found]
"""Measures batches in a network: network, batch, repeats, batches before those that are timed."""


def stock(provider: str) -> Contestant:
    """Return stock CrypTen with one of its providers as a contestant."""

    def measure(net: Network, batch: int, repeats: int, warm: int) -> Found:
        port = _free_port() if net.how == LOOPBACK else _PORT
        rendezvous = f"tcp://{net.hosts[0].address}:{port}"
        fixed: tuple[object, ...] = ("--rendezvous", rendezvous, "--provider", provider, "--batch", batch)
        fixed = (*fixed, "--repeats", repeats, "--warm", warm)
        processes = 3 if provider == "TTP" else 2
        roles = [("bench_stock_crypten.py", "--rank", rank, *fixed) for rank in range(processes)]
        found = run_roles(net, roles, answers=1)
        return Found(batch, tuple(found["seconds"]), found["rounds"], found["bytes_sent"], tuple(found["errors"]))

    return measure


def ours(net: Network, batch: int, repeats: int, warm: int) -> Found:
    """Measure the product's own roles."""
    with tempfile.TemporaryDirectory(prefix="nescient-bench-") as folder:
        owner, dealer = write_roles(Path(folder), _addresses(net))
        sizes = ("--batch", batch, "--repeats", repeats, "--warm", warm)
        found = run_roles(net, [owner, ("bench_our_roles.py", folder, *sizes), dealer], answers=1)
    offline = statistics.median(found["offline"]) / batch
    note = (
        f"; set-up {statistics.median(found['set_up']):.2f} s a session, material {offline:.3f} s and "
        f"{found['offline_bytes'] / 2 / batch / 1e6:.1f} MB an image ahead"
    )
    errors = tuple(found["errors"])
    return Found(
        batch, tuple(found["seconds"]), found["rounds"], found["bytes_sent"], errors, note, tuple(found["offline"])
    )


OURS = "ours"
CONTESTANTS: dict[str, Contestant] = {OURS: ours, "stock TFP": stock("TFP"), "stock TTP": stock("TTP")}


def _addresses(net: Network) -> dict[str, str]:
    def port(number: int) -> int:
        return _free_port() if net.how == LOOPBACK else _PORT + number

    return {"owner": f"{net.hosts[0].address}:{port(1)}", "dealer": f"{net.hosts[2].address}:{port(2)}"}


def run_roles(net: Network, roles: Sequence[Sequence[object]], answers: int) -> Any:
    """Run a role on each host and return the JSON that the role of index ``answers`` prints as its last line.

    A role is the name of a script beside this one, or ``-m`` and a module, and its arguments. When the one that
    answers has ended well, the others are ended.

    Raises RuntimeError with the end of what a role said when one fails or they take too long.
    """
    running: list[subprocess.Popen[str]] = []
    end = time.monotonic() + _LONGEST
    with tempfile.TemporaryDirectory(prefix="nescient-bench-") as folder:
        logs = [Path(folder) / f"{number}.txt" for number in range(2 * len(roles))]
        try:
            for number, (script, *arguments) in enumerate(roles):
                host = net.hosts[number]
                program = "-m" if script == "-m" else str(Path(__file__).with_name(str(script)))
                command = [*host.prefix, sys.executable, program]
                environment = {**os.environ, "OMP_NUM_THREADS": "1"}
                if host.device is not None:
                    environment["GLOO_SOCKET_IFNAME"] = host.device
                with logs[2 * number].open("w") as out, logs[2 * number + 1].open("w") as errors:
                    running.append(
                        subprocess.Popen(
                            [*command, *map(str, arguments)], env=environment, stdout=out, stderr=errors, text=True
                        )
                    )
            failed: list[int] = []
            while running[answers].poll() is None and not failed and time.monotonic() < end:
                failed = [number for number, role in enumerate(running) if role.poll()]
                time.sleep(0.02)
        finally:
            for role in running:
                role.kill()
                role.wait()
        for number in [*failed, answers]:
            if status := running[number].returncode:
                said = "".join(log.read_text()[-2000:] for log in logs[2 * number : 2 * number + 2])
                raise RuntimeError(f"{' '.join(map(str, roles[number][:2]))} ended with status {status}:\n{said}")
        return json.loads(logs[2 * answers].read_text().splitlines()[-1])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def measure_loopback(size: Size) -> list[Line]:
    """Every contestant on loopback, at every size of batch."""
    lines = []
    for batch in size.batches:
        with network(3, Condition()) as net:
            found = {name: run(net, batch, size.repeats, 1) for name, run in CONTESTANTS.items()}
        lines += described("loopback", f"batch {batch}", found, "")
    return lines


def measure_slow(part: str, conditions: Sequence[Condition], size: Size) -> list[Line]:
    """Every contestant in slower networks, one size of batch."""
    if not may_make_namespaces():
        return []
    lines = []
    for condition in conditions:
        with network(3, condition) as net:
            found = {name: run(net, size.slow_batch, size.slow_repeats, 0) for name, run in CONTESTANTS.items()}
            how = f"by {net.how}"
        lines += described(part, f"{condition}, batch {size.slow_batch}", found, how)
    return lines


def measure_many(size: Size) -> list[Line]:
    """Ours alone, on many radiographs: what encryption changed."""
    with network(3, Condition()) as net, tempfile.TemporaryDirectory(prefix="nescient-bench-") as folder:
        owner, dealer = write_roles(Path(folder), _addresses(net), trained_on=size.phantom)
        sizes = ("--batch", 32, "--many", size.many, "--phantom-images", size.phantom)
        found = run_roles(net, [owner, ("bench_our_roles.py", folder, *sizes), dealer], answers=1)
    where = f"{found['images']:,} radiographs, a trained model"
    note = f"{found['seconds'] / found['images']:.3f} s an image online, {found['wall']:.0f} s in all, batches of 32"
    return [
        Line("many", f"{where}: flipped decisions", (found["flipped"],), unit="", target=0, bound="most", note=note),
        Line("many", f"{where}: logits more than 0.1 off", (found["wrapped"],), unit="", target=0, bound="most"),
        Line("many", f"{where}: largest logit error", (found["largest_error"],), "", target=1e-3, bound="most"),
    ]


def described(part: str, where: str, found: dict[str, Found], how: str) -> list[Line]:
    """Return the contestants' figures as lines, and the targets where they hold: on loopback."""
    lines = []
    loopback = part == "loopback"
    for name, figures in found.items():
        note = f"{figures.rounds} rounds, {figures.megabytes:.1f} MB an image sent by a party"
        note = f"{note}, logit error {max(figures.errors):.1e}{figures.note}"
        told = f"{note}{how and f'; {how}'}"
        target = 0.1 if loopback and name == OURS and figures.batch > 1 else None
        lines.append(Line(part, f"{where}: {name}, an image", figures.each, "s", target, "most", told))
    own = found[OURS]
    target = 8.0 if loopback and own.batch == 8 else None
    for name in ("stock TFP", "stock TTP"):
        quicker = ratios(found[name].each, own.each)
        lines.append(Line(part, f"{where}: {name} / ours", quicker, target=target if "TFP" in name else None))
    # Stock makes its material as it goes: this is what comes of counting ours too.
    whole = [online + ahead / own.batch for online, ahead in zip(own.each, own.ahead, strict=True)]
    lines.append(Line(part, f"{where}: stock TFP / ours with its material", ratios(found["stock TFP"].each, whole)))
    if loopback:
        most: dict[str, Any] = {"unit": "", "bound": "most"}
        lines += [
            Line(part, f"{where}: ours, MB an image sent by a party", (own.megabytes,), target=3.0, **most),
            Line(part, f"{where}: ours, rounds", (own.rounds,), target=70, **most),
            Line(part, f"{where}: ours, largest logit error", (max(own.errors),), target=1e-3, **most),
        ]
    return lines


PARTS: dict[str, Callable[[Size], list[Line]]] = {
    "loopback": measure_loopback,
    "delay": lambda size: measure_slow("delay", [Condition(delay=ms) for ms in size.delays], size),
    "rate": lambda size: measure_slow("rate", [Condition(rate=rate) for rate in size.rates], size),
    "many": measure_many,
}


def main() -> None:
    """Measure every part, print the table, and end with status 1 when a target was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs; proves nothing")
    parser.add_argument("--only", choices=PARTS, nargs="+", default=list(PARTS), help="these parts alone")
    parser.add_argument("--out", type=Path, help="write the figures as JSON too")
    arguments = parser.parse_args()
    size = QUICK if arguments.quick else FULL
    figures = Figures(arguments.quick, arguments.out)
    for name in arguments.only:
        figures.measure(name, partial(PARTS[name], size), "no right to make network namespaces here")
    figures.end()


if __name__ == "__main__":
    main()
