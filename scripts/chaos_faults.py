"""The faults of chaos.py: what each does to an actor of a federation, and what it takes to undo it."""

import contextlib
import errno
import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

from chaos_federation import Actor, Federation
from chaos_hosts import CUT, GOOD, Link

LOSSY = Link(delay=200.0, loss=0.05)
_HOUR = 3600

Undo = Callable[[], None]
"""Ends a fault."""
_Action = Callable[[Federation, Actor], Undo]

SECONDS = {"kill": 0.0, "freeze": 60.0, "cut": 60.0, "lossy": 60.0, "full": 45.0, "ahead": 60.0, "behind": 60.0}
"""How long a fault of each action lasts."""
ROLES = {
    "kill": ("site", "party", "dealer", "coordinator"),
    "freeze": ("site", "party", "dealer", "coordinator"),
    "cut": ("site", "party", "dealer", "coordinator"),
    "lossy": ("site", "party", "coordinator"),
    "full": ("site", "party", "coordinator"),
    "ahead": ("site", "party", "coordinator"),
    "behind": ("site", "coordinator"),
}
KINDS = [f"{action}-{role}" for action, roles in ROLES.items() for role in roles]


def inject(federation: Federation, kind: str, name: str) -> Undo:
    """Do a fault to an actor. Returns what undoes it. Raises ProcessLookupError when the actor is just not there."""
    actor = federation.actors[name]
    return _ACTIONS[kind.split("-")[0]](federation, actor)


def missing(kind: str, federation: Federation) -> str:
    """Return in words what this machine lacks for a kind of fault, empty when it can be done."""
    action = kind.split("-")[0]
    if action in ("cut", "lossy") and not federation.links.how:
        return "no right to make network namespaces"
    if action == "full" and not federation.disks:
        return "no right to mount a small disk"
    if action in ("ahead", "behind") and federation.coordinator.clock is None:
        return "no C compiler for a clock that can be set wrong"
    return ""


def in_turn(kinds: list[str], draw: random.Random) -> Iterator[str]:
    """Yield kinds for ever: all of them in a drawn order, then all of them in another."""
    while True:
        yield from draw.sample(kinds, len(kinds))


def below(process: int) -> list[int]:
    """Return a process and all that came of it."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    family = [process]
    for member in family:
        family += [child for child, parent in parents.items() if parent == member]
    return family


def _process(actor: Actor) -> int:
    if not actor.alive or actor.process is None:
        raise ProcessLookupError(f"{actor.name} does not run now")
    return actor.process.pid


def _kill(federation: Federation, actor: Actor) -> Undo:  # noqa: ARG001
    os.kill(_process(actor), signal.SIGKILL)
    return lambda: None


def _freeze(federation: Federation, actor: Actor) -> Undo:  # noqa: ARG001
    frozen = below(_process(actor))
    _signal(frozen, signal.SIGSTOP)
    return lambda: _signal(frozen, signal.SIGCONT)


def _signal(processes: list[int], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)


def _shaped(link: Link) -> _Action:
    def shape(federation: Federation, actor: Actor) -> Undo:
        federation.links.shape(actor.name, link)
        return lambda: federation.links.shape(actor.name, GOOD)

    return shape


def _fill(federation: Federation, actor: Actor) -> Undo:  # noqa: ARG001
    path = actor.disk / "filling"
    fill(path)
    return lambda: path.unlink(missing_ok=True)


def fill(path: Path) -> None:
    """Write a file until nothing more fits on its disk."""
    size = 1 << 20
    with path.open("ab", buffering=0) as file:
        while size:
            try:
                if file.write(bytes(size)) == size:
                    continue
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
            size //= 2


def _skew(seconds: int) -> _Action:
    def skew(federation: Federation, actor: Actor) -> Undo:  # noqa: ARG001
        _set_clock(actor, seconds)
        return lambda: _set_clock(actor, 0)

    return skew


def _set_clock(actor: Actor, seconds: int) -> None:
    assert actor.clock is not None
    new = actor.clock.with_suffix(".new")
    new.write_text(f"{seconds:+d}\n")
    new.replace(actor.clock)


_ACTIONS: dict[str, _Action] = {
    "kill": _kill,
    "freeze": _freeze,
    "cut": _shaped(CUT),
    "lossy": _shaped(LOSSY),
    "full": _fill,
    "ahead": _skew(_HOUR),
    "behind": _skew(-_HOUR),
}
