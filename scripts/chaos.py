"""Break a real federation while it works, and see whether it mends itself.

    python scripts/chaos.py [--minutes 5] [--clients 5] [--rounds 12] [--images 300] [--seed 0]
                            [--faults kill-site,cut-party,full-coordinator,...] [--keep FOLDER]

Runs coordinator, sites, parties and dealer, each with a network namespace, a disk and a clock of its own, kept up as
service managers would (chaos_federation.py), and injects one fault after another, drawn from the seed
(chaos_faults.py): ``kill`` is SIGKILL to a role, from which all below it die too; ``freeze`` is SIGSTOP to it and all
below it; ``cut`` loses every packet of its host, ``lossy`` 5% of them and holds the others back by 200 ms; ``full``
fills the disk that all its files are on, the coordinator's run folder too; ``ahead`` and ``behind`` set its clock an
hour wrong. All but the first are undone after about a minute. A role that stopped and said why (status 2) is started
again after that, as its operator would. The next fault comes when a round was finished after the last one and its
victim took part in one. When a run is done and time is left, the next federation begins; when the time is up, the
last one goes on undisturbed to its end.

All the while a thread reads rounds.jsonl and the checkpoint (chaos_watch.py). What a fault needs and this machine
lacks is said, and that fault is not counted.

Prints a table of faults, and JSON as its last line. ``same_sites`` says whether every site took part in every round:
then ``same_model`` must be true, the model the one of an undisturbed simulation. Exits with status 1 when a run did
not end, somebody did not come back, anything was unreadable at any moment, or a model differs although it must not.
"""

import argparse
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from chaos_faults import KINDS, SECONDS, in_turn, inject, missing
from chaos_federation import Actor, Federation, federation, said_since
from chaos_watch import Watch, newest_checkpoint
from rich.console import Console
from rich.table import Table

from nescient_fl.lesion.network import weights_sha256
from nescient_fl.study.run_folder import read_json, read_lines

_LONGEST = 600.0
"""Seconds without a finished round, or without its victim, after which a fault counts as not recovered from."""
_POLL_SECONDS = 0.1
_OPERATOR_SECONDS = 3.0


@dataclass
class Fault:
    """One fault, and what came of it.

    Attributes:
        run: number of the federation, from 1; ``round``: the last one finished before.
        held: seconds that it lasted.
        next_round: seconds from its end until a round was finished, None when none was.
        rejoined: seconds from its end until a round was finished that its victim took part in.
        restarts: how often service managers started roles again meanwhile.
        resumed: who stopped with a reason, and was started again by an operator.
        said: what was said of it, in the actor's, the coordinator's or the round's own words.
        ended: whether the run was over before it could be seen to recover.
    """

    kind: str
    actor: str
    run: int
    round: int
    held: float = 0.0
    next_round: float | None = None
    rejoined: float | None = None
    restarts: int = 0
    resumed: list[str] = field(default_factory=list)
    said: str = ""
    ended: bool = False

    @property
    def recovered(self) -> bool:
        return self.ended or self.rejoined is not None


@dataclass
class Verdict:
    """What became of one federation."""

    run: int
    ended: bool
    rounds: int
    looks: int
    problems: list[str]
    same_sites: bool | None = None
    same_model: bool | None = None

    @property
    def good(self) -> bool:
        return self.ended and not self.problems and self.same_model is not False


class Attack:
    """The faults of one federation after another; the time runs from the first round of the first."""

    def __init__(self, kinds: list[str], seed: int, minutes: float, console: Console) -> None:
        self.faults: list[Fault] = []
        self.skipped: dict[str, str] = {}
        self.how = ""
        self._kinds = kinds
        self._draw = random.Random(seed)
        self._turns: Iterator[str] | None = None
        self._seconds = 60 * minutes
        self._end = math.inf
        self._console = console

    @property
    def over(self) -> bool:
        return time.monotonic() > self._end

    def say(self, words: str) -> None:
        self._console.print(f"{time.strftime('%H:%M:%S')} {words}", highlight=False, soft_wrap=True, markup=False)

    def run(self, victim: Federation, watch: Watch, number: int) -> bool:
        """Attack one federation until the time is up, then see it to its end. Returns whether it came to it."""
        self.how = victim.links.how
        if self._turns is None:
            self.skipped = {kind: why for kind in self._kinds if (why := missing(kind, victim))}
            if not (kinds := [kind for kind in self._kinds if kind not in self.skipped]):
                raise SystemExit(f"error: this machine can do none of these faults: {self.skipped}")
            self._turns = in_turn(kinds, self._draw)
        if not self._until_round(victim, watch, 1):
            return False
        self._end = min(self._end, time.monotonic() + self._seconds)
        while not self.over and not victim.ended:
            time.sleep(self._draw.uniform(0, 8))
            kind = next(self._turns)
            name = self._draw.choice(victim.named(kind.split("-")[1]))
            if not self._fault(victim, watch, Fault(kind, name, number, watch.progress.round)):
                return False
        reached = -1
        while not victim.ended and reached != watch.progress.round:
            reached = watch.progress.round
            self._until_round(victim, watch, reached + 1)
        return victim.ended

    def _fault(self, victim: Federation, watch: Watch, fault: Fault) -> bool:
        """Inject one fault, undo it, and wait for the recovery. Returns whether there was one."""
        actor = victim.actors[fault.actor]
        heard = {each.name: each.log.stat().st_size for each in (actor, victim.coordinator) if each.log.exists()}
        restarts = sum(each.restarts for each in victim.actors.values())
        self.say(f"run {fault.run}, after round {fault.round}: {fault.kind} {fault.actor}")
        since = time.monotonic()
        try:
            undo = inject(victim, fault.kind, fault.actor)
        except ProcessLookupError:
            return True
        self.faults.append(fault)
        seconds = SECONDS[fault.kind.split("-")[0]] * self._draw.uniform(0.7, 1.3)
        while time.monotonic() < since + seconds and not victim.ended:
            time.sleep(_POLL_SECONDS)
        undo()
        fault.held = round(time.monotonic() - since, 1)
        self._recover(victim, watch, fault, time.monotonic())
        fault.restarts = sum(each.restarts for each in victim.actors.values()) - restarts
        fault.said = _said(victim, watch, fault, actor, heard)
        self.say(f"  {'recovered' if fault.recovered else 'NOT RECOVERED'}: {asdict(fault)}")
        return fault.recovered

    def _recover(self, victim: Federation, watch: Watch, fault: Fault, undone: float) -> None:
        wanted = watch.progress.round + 1
        site = fault.kind.endswith("-site")
        while time.monotonic() < undone + _LONGEST:
            finished = sorted(number for number in watch.progress.lines if number >= wanted)
            if finished and fault.next_round is None:
                fault.next_round = round(watch.progress.at[finished[0]] - undone, 1)
            with_victim = [n for n in finished if not site or fault.actor in watch.progress.lines[n]["sites"]]
            if with_victim and not victim.actors[fault.actor].stopped:
                fault.rejoined = round(watch.progress.at[with_victim[0]] - undone, 1)
                return
            if victim.ended:
                fault.ended = True
                return
            fault.resumed += _operate(victim)
            time.sleep(_POLL_SECONDS)

    def _until_round(self, victim: Federation, watch: Watch, wanted: int) -> bool:
        deadline = time.monotonic() + _LONGEST
        while watch.progress.round < wanted and not victim.ended:
            if time.monotonic() > deadline:
                return False
            _operate(victim)
            time.sleep(_POLL_SECONDS)
        return True


def _operate(victim: Federation) -> list[str]:
    """Start again, after a moment, whoever stopped and said why. Returns their names and words."""
    waiting = victim.stopped()
    if not waiting:
        return []
    time.sleep(_OPERATOR_SECONDS)
    words = [f"{actor.name}: {actor.stopped}" for actor in waiting]
    for actor in waiting:
        victim.start_again(actor)
    return words


def _said(victim: Federation, watch: Watch, fault: Fault, actor: Actor, heard: dict[str, int]) -> str:
    """Return the most telling line about a fault: why somebody stopped, was left out, or what the logs complain of."""
    if fault.resumed:
        return fault.resumed[-1]
    later = [line for number, line in sorted(watch.progress.lines.items()) if number > fault.round]
    for line in later:
        for failure in line.get("failures", []):
            if failure["site"] == fault.actor:
                return f"round {line['round']}: {failure['reason']}"
        if line.get("aborted"):
            return f"round {line['round']}: {line['aborted'][0]}"
    for each in (actor, victim.coordinator):
        if words := said_since(each, heard.get(each.name, 0)):
            return f"{each.name}: {words[-1]}"
    return ""


def judge(run: Path, watch: Watch, number: int, calm: str, *, ended: bool) -> Verdict:
    """Hold a federation that was attacked against the undisturbed model's SHA-256."""
    verdict = Verdict(number, ended, watch.progress.round, watch.looks, list(watch.problems))
    state = newest_checkpoint(run)
    if not ended or state is None:
        return verdict
    if not state.finished:
        verdict.problems.append("the run ended before its last model was validated")
    sites = read_json(run / "config.json")["sites"]
    lines = [line for line in read_lines(run / "rounds.jsonl") if line["round"] > 0]
    verdict.same_sites = all(line["sites"] == sites for line in lines)
    same = weights_sha256(state.weights) == calm
    # Without one of the sites a round rightly gives another model.
    verdict.same_model = same if verdict.same_sites or same else None
    return verdict


def _calm(folder: Path, options: list[str]) -> str:
    """Return the SHA-256 of the model that an undisturbed simulation makes."""
    command = [sys.executable, "-m", "nescient_fl.simulate", "--out", str(folder), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    return str(read_json(folder / "metrics.json")["federation"]["last_model_sha256"])


def make_table(faults: list[Fault]) -> Table:
    """Lay the faults out, one a line."""
    table = Table("fault", "actor", "run", "after round", "held s", "next round s", "rejoined s", "how", "said")
    for fault in faults:
        how = "an operator" if fault.resumed else "its service" if fault.restarts else "by itself"
        never = "run ended" if fault.ended else "never"
        times = [never if seconds is None else f"{seconds:.1f}" for seconds in (fault.next_round, fault.rejoined)]
        place = (str(fault.run), str(fault.round), f"{fault.held:.1f}")
        table.add_row(fault.kind, fault.actor, *place, *times, how if fault.recovered else "not at all", fault.said)
    return table


def summary(attack: Attack, verdicts: list[Verdict]) -> dict[str, Any]:
    """Return everything as JSON has it."""
    return {
        "faults": [asdict(fault) for fault in attack.faults],
        "injected": len(attack.faults),
        "recovered": sum(fault.recovered for fault in attack.faults),
        "runs": [asdict(verdict) for verdict in verdicts],
        "skipped": attack.skipped,
        "links": attack.how,
    }


def main() -> None:
    """Run the campaign and print what became of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--clients", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--faults", default=",".join(KINDS))
    parser.add_argument("--keep", type=Path, help="folder for the logs of a federation that did not do well")
    asked = parser.parse_args()
    # Asked to stop, it still undoes all mounts and namespaces.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    kinds = asked.faults.split(",")
    if unknown := sorted(set(kinds) - set(KINDS)):
        parser.error(f"unknown faults {', '.join(unknown)}: there are {', '.join(KINDS)}")
    options = [
        *("--clients", str(asked.clients), "--rounds", str(asked.rounds), "--local-epochs", "1"),
        *("--phantom-images", str(asked.images), "--partition", "iid", "--min-images", "10"),
        *("--min-positives", "3", "--device", "cpu", "--no-baselines"),
    ]
    console = Console(width=None if sys.stdout.isatty() else 200)
    verdicts: list[Verdict] = []
    with tempfile.TemporaryDirectory(prefix="chaos-", dir="/tmp") as name:
        os.environ["TMPDIR"] = name
        calm = _calm(Path(name) / "calm", options)
        attack = Attack(kinds, asked.seed, asked.minutes, console)
        while not verdicts or (verdicts[-1].good and not attack.over):
            number = len(verdicts) + 1
            folder = Path(name) / str(number)
            folder.mkdir()
            with federation(folder, options, attack.say) as victim:
                with Watch(victim.run) as watch:
                    ended = attack.run(victim, watch, number)
                verdicts.append(judge(victim.run.path, watch, number, calm, ended=ended))
                if asked.keep and not verdicts[-1].good:
                    ignored = shutil.ignore_patterns("*.socket", "private", "*.safetensors")
                    shutil.copytree(folder, asked.keep, ignore=ignored)
    console.print(make_table(attack.faults))
    for kind, why in attack.skipped.items():
        console.print(f"not injected: {kind}: {why}", highlight=False)
    if attack.how:
        console.print(f"links were cut and spoilt by {attack.how}", highlight=False)
    print(json.dumps(summary(attack, verdicts)))
    good = all(verdict.good for verdict in verdicts) and all(fault.recovered for fault in attack.faults)
    raise SystemExit(0 if good else 1)


if __name__ == "__main__":
    main()
