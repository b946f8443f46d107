"""A federation for chaos.py: each role a process on a host, disk and clock of its own, kept up as services are.

A role that ends is started again after two seconds, as its service manager would; one that ended with status 2 has
said what to mend, and waits for its operator.
"""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from chaos_hosts import Hosts, hosts

from nescient_fl.deployment import reaper
from nescient_fl.deployment.certificates import issue_server_certificate
from nescient_fl.deployment.flower import free_port
from nescient_fl.deployment.layout import ActorPlace, lay_out
from nescient_fl.mpc.keys import load_keys
from nescient_fl.mpc.roster import sign_roster, write_signed
from nescient_fl.mpc.vault import Vault
from nescient_fl.study.run_folder import RunFolder, read_json
from nescient_fl.tether import start_tethered, stop

_RESTART_SECONDS = 2.0
_POLL_SECONDS = 0.1
_STOP_SECONDS = 10.0
_DISK = "256m"
"""A party's memory of sums grows by 1.6 MB a round with the default network; here for some 150 rounds."""
_PARTY_PORT, _LINK_PORT = 9100, 9092
_CLOCK_SOURCE = Path(__file__).with_name("chaos_clock.c")


@dataclass
class Actor:
    """One role's process, and what it stands on.

    Attributes:
        disk: the folder that all its files are written in, but for ``log``, what its service's journal would have.
        clock: the file that says how far its clock is from the true one; None where that cannot be told.
        stopped: what it said when it ended with status 2; empty while it runs.
        restarts: how often its service manager started it again.
        done: whether it ended as it should.
    """

    name: str
    role: str
    settings: Path
    disk: Path
    log: Path
    prefix: tuple[str, ...]
    environment: dict[str, str]
    clock: Path | None = None
    process: "subprocess.Popen[bytes] | None" = None
    again_at: float = 0.0
    stopped: str = ""
    restarts: int = 0
    done: bool = False

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None


class Federation:
    """A run and the actors of it. A context manager: inside of it the actors are kept up."""

    def __init__(self, run: RunFolder, actors: Sequence[Actor], links: Hosts, disks: bool, mark: str) -> None:
        self.run, self.links, self.disks = run, links, disks
        self.actors = {actor.name: actor for actor in actors}
        self._mark = mark
        self._over = threading.Event()
        # The kernel ties a tethered child to the thread that starts it, so one thread starts all of them.
        self._keeper = threading.Thread(target=self._keep, name="keeper")

    @property
    def coordinator(self) -> Actor:
        return self.actors["coordinator"]

    @property
    def ended(self) -> bool:
        return self.coordinator.done

    def named(self, role: str) -> list[str]:
        """Return the names of a role's actors, in order."""
        return sorted(name for name, actor in self.actors.items() if actor.role == role)

    def stopped(self) -> list[Actor]:
        """Return who waits for an operator."""
        return [actor for actor in self.actors.values() if actor.stopped]

    def start_again(self, actor: Actor) -> None:
        """Be the operator who starts an actor that had said what to mend."""
        actor.again_at, actor.stopped = 0.0, ""

    def __enter__(self) -> "Federation":
        self._keeper.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._keeper.join()
        for actor in self.actors.values():
            if actor.alive and actor.process is not None:
                actor.process.terminate()
        for actor in self.actors.values():
            if actor.process is not None:
                stop(actor.process, _STOP_SECONDS)
        reaper.end_all(self._mark)

    def _keep(self) -> None:
        while not self._over.is_set():
            for actor in self.actors.values():
                self._tend(actor)
            if self.ended or self._over.wait(_POLL_SECONDS):
                # The tether is this thread: it stays until all are stopped.
                self._over.wait()

    def _tend(self, actor: Actor) -> None:
        if actor.alive or actor.stopped or actor.done:
            return
        if actor.process is not None and actor.again_at == 0.0:
            status = actor.process.returncode
            if status == 0:
                actor.done = actor.role == "coordinator"
                return
            if status == 2:
                actor.stopped = last_words(actor.log)
                actor.process = None
                return
            actor.again_at = time.monotonic() + _RESTART_SECONDS
        elif time.monotonic() >= actor.again_at:
            actor.restarts += actor.process is not None
            actor.again_at = 0.0
            program = (sys.executable, "-m", f"nescient_fl.{actor.role}", "--config", actor.settings)
            environment = {**os.environ, **actor.environment, reaper.MARK: self._mark}
            actor.process = start_tethered(
                [*actor.prefix, *program], log=actor.log, environment=environment, cwd=actor.disk
            )


def last_words(log: Path) -> str:
    """Return the last line that an actor said that is no line of JSON, without the mark of an error."""
    lines = log.read_text(errors="replace").splitlines()
    said = [line for line in lines if line.strip() and not line.startswith("{")]
    return said[-1].removeprefix("error: ") if said else "it ended without a word"


def said_since(actor: Actor, size: int) -> list[str]:
    """Return what an actor's log says of trouble after so many bytes: reasons, problems, errors."""
    found = []
    data = actor.log.read_bytes()[size:] if actor.log.exists() else b""
    for line in data.decode(errors="replace").splitlines():
        try:
            told = json.loads(line)
            words = [str(told[key]) for key in ("reason", "problem") if told.get(key)]
            found += words
        except (ValueError, AttributeError, TypeError):
            if line.startswith("error: "):
                found.append(line.removeprefix("error: "))
    return found


def build_clock(folder: Path) -> Path | None:
    """Compile the library that sets a program's clock wrong. Returns its path, None where there is no C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    library = folder / "chaos_clock.so"
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", library, _CLOCK_SOURCE, "-ldl"], check=True)
    return library


def may_mount() -> bool:
    """Say whether this process may mount a disk of its own."""
    return os.geteuid() == 0 and shutil.which("mount") is not None and _tried_mount()


def _tried_mount() -> bool:
    folder = Path(f"/tmp/chaos-probe-{os.getpid()}")
    folder.mkdir()
    try:
        with _mounted(folder):
            return True
    except subprocess.CalledProcessError:
        return False
    finally:
        folder.rmdir()


@contextmanager
def _mounted(folder: Path) -> Iterator[None]:
    command: list[str | Path] = ["mount", "-t", "tmpfs", "-o", f"size={_DISK},mode=0700", "chaos", folder]
    subprocess.run(command, check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True, capture_output=True)


@contextmanager
def federation(folder: Path, options: list[str], say: Callable[[str], None]) -> Iterator[Federation]:
    """Found a run, give every actor its place, and keep the federation up while the context lasts."""
    disks, skewed = may_mount(), build_clock(folder)
    with ExitStack() as stack:

        def new_disk(name: str) -> Path:
            disk = folder / "disks" / name
            disk.mkdir(parents=True, mode=0o700)
            if disks:
                stack.enter_context(_mounted(disk))
            return disk

        run = _prepared(new_disk("coordinator") / "run", options)
        vault = Vault(Path(read_json(run.config)["secure"]["vault"]))
        stack.callback(vault.remove)
        names = ["coordinator", *(member.name for member in vault.roster().members)]
        links = stack.enter_context(hosts(names))
        _readdress(vault, links)
        places = lay_out(run, folder / "private", "cpu")
        superlink = f"{links.address['coordinator']}:{_port(links, _LINK_PORT)}"
        actors = [_actor(place, new_disk, links, superlink, skewed, folder) for place in places]
        _certify(actors[0], folder, links.address["coordinator"])
        say(f"{len(actors)} actors, links: {links.how or 'one loopback'}, disks of their own: {disks}")
        made = Federation(run, actors, links, disks, uuid.uuid4().hex)
        yield stack.enter_context(made)


def _prepared(out: Path, options: list[str]) -> RunFolder:
    command = [sys.executable, "-m", "nescient_fl.simulate", "--prepare-only", "--out", str(out), *options]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return RunFolder.open(out)


def _readdress(vault: Vault, links: Hosts) -> None:
    """Sign a roster whose parties listen at their hosts: a vault's own has sockets of one machine."""
    roster = vault.roster()
    members = tuple(
        member
        if member.address is None
        else replace(member, address=f"{links.address[member.name]}:{_port(links, _PARTY_PORT)}")
        for member in roster.members
    )
    authority = load_keys(vault.folder / "authority")
    vault.roster_path.unlink()
    write_signed(sign_roster(replace(roster, members=members), authority), vault.roster_path)


def _port(links: Hosts, usual: int) -> int:
    """Return the usual port where every actor has a host of its own, else one that is free on this one."""
    return usual if links.how else free_port()


def _certify(coordinator: Actor, folder: Path, address: str) -> None:
    made = issue_server_certificate(folder / "private" / "authority", [address], folder / "link")
    coordinator.environment |= {"NESCIENT_CERTIFICATE": str(made.certificate), "NESCIENT_KEY": str(made.key)}


def _actor(
    place: ActorPlace,
    new_disk: Callable[[str], Path],
    links: Hosts,
    superlink: str,
    skewed: Path | None,
    folder: Path,
) -> Actor:
    coordinator = place.role == "coordinator"
    disk = folder / "disks" / "coordinator" if coordinator else new_disk(place.name)
    environment = {
        "NESCIENT_STATE": str(disk / "state"),
        "NESCIENT_LISTEN" if coordinator else "NESCIENT_SUPERLINK": superlink,
        "OMP_NUM_THREADS": "1",
    }
    if place.role == "party":
        environment["NESCIENT_MEMORY"] = str(disk / "memory.sqlite")
    clock = None
    if skewed is not None:
        clock = folder / f"{place.name}.clock"
        clock.write_text("+0\n")
        environment |= {"LD_PRELOAD": str(skewed), "CHAOS_CLOCK": str(clock)}
    log = folder / "logs" / f"{place.name}.jsonl"
    return Actor(place.name, place.role, place.settings, disk, log, links.prefix[place.name], environment, clock)
