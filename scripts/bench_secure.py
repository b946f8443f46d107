"""What secure aggregation costs, side by side with plain FedAvg of the same updates in one run.

    python scripts/bench_secure.py [--quick] [--sites N ...] [--repeats R] [--out FILE.json]

For each number of sites: made-up updates of the lesion network's size are clipped, encoded, shared, sealed and
signed as a site does, and opened by compute parties and a dealer in processes of their own, over TLS 1.3 on this
machine; then the same clipped updates are averaged in clear. A party's compute is its processor time, the rest of
its time is waiting for the others. Everybody shares this machine's processors, which makes waiting longer than
on hosts of their own. No check is left out.
"""

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from bench_common import Figures, Line
from flwr.app import RecordDict

from nescient_fl.lesion.counts import BINS, ScoreCounts
from nescient_fl.lesion.network import Weights, build_network, get_weights, weights_sha256
from nescient_fl.messages import RoundOrder, SiteReport, order_json, payload_bytes, report_content
from nescient_fl.mpc.envelope import copy_for
from nescient_fl.mpc.randomness import SecretStream, fresh_seed, fresh_stream
from nescient_fl.mpc.sums import SumRequest
from nescient_fl.mpc.vault import Vault, create_vault
from nescient_fl.sealed_messages import SecureOrder, opened_content, read_opened, read_sum, sealed_content, sum_content
from nescient_fl.sealed_vector import clip_update
from nescient_fl.sealed_vector import read_sum as decode_sum
from sites.sealing import Answer, SitePolicy, seal_answer
from strategies.averaging import Contribution, average, moved_by
from strategies.secure import SecurePlan

CLIP, WEIGHT_MAX, IMAGES = 8.0, 512, 300
ROUND_SECONDS = 30.0
MEGABYTE = 1e6


@dataclass(frozen=True)
class Helper:
    """What a party or the dealer took: seconds by the clock and of processor time, and bytes it sent."""

    seconds: float
    compute: float
    sent: int


@dataclass(frozen=True)
class Round:
    """One round over so many sites. Times are seconds; a site's are medians over sites."""

    sites: int
    site_seconds: float
    plain_site_seconds: float
    bytes_up: int
    plain_bytes_up: int
    relay_seconds: float
    plain_relay_seconds: float
    parties: tuple[Helper, ...]
    dealer: Helper
    error: float

    @property
    def party_seconds(self) -> float:
        return max(party.compute for party in self.parties)

    @property
    def overhead(self) -> float:
        """What a round takes longer than in clear: sites seal side by side, then the parties work."""
        waited = max(party.seconds for party in self.parties)
        sealing = self.site_seconds - self.plain_site_seconds
        return sealing + self.relay_seconds - self.plain_relay_seconds + waited


class Actors:
    """Two parties and a dealer, each a process that lives through all rounds; a context manager."""

    def __init__(self, folder: Path, sites: Sequence[str], parties: int = 2) -> None:
        self.vault = create_vault(folder / "vault", "bench", sites, parties, 3)
        self.roster = self.vault.roster()
        self._pools: dict[str, ProcessPoolExecutor] = {}

    def __enter__(self) -> "Actors":
        context = multiprocessing.get_context("spawn")
        for member in (*self.roster.parties, self.roster.dealer):
            self._pools[member.name] = ProcessPoolExecutor(1, mp_context=context)
        for started in [pool.submit(_warm_up) for pool in self._pools.values()]:
            started.result()
        return self

    def __exit__(self, *_: object) -> None:
        for pool in self._pools.values():
            pool.shutdown()

    def open(self, session: str, questions: Mapping[str, RecordDict]) -> tuple[list[RecordDict], list[Helper]]:
        """Have the sum opened. Returns each party's answer, and what each party and last the dealer took."""
        folder = self.vault.folder
        # What a party got long before the other is no waiting of its own: all start when all have their question.
        for given in [self._pools[name].submit(_take, question) for name, question in questions.items()]:
            given.result()
        jobs = [self._pools[name].submit(_be_party, folder, name) for name in questions]
        dealer = self.roster.dealer.name
        dealt = self._pools[dealer].submit(_be_dealer, folder, dealer, bytes.fromhex(session))
        done = [job.result() for job in jobs]
        return [answer for answer, _ in done], [*(helper for _, helper in done), dealt.result()]


def _warm_up() -> None:
    """Import what a party or dealer needs; a process does so once."""
    import nescient_fl.mpc.party  # noqa: F401

    torch.set_num_threads(1)


_QUESTION: list[RecordDict] = []
"""In a party's process: what it is asked next."""


def _take(question: RecordDict) -> None:
    _QUESTION[:] = [question]


def _be_party(folder: Path, name: str) -> tuple[RecordDict, Helper]:
    from nescient_fl.mpc.party import aggregate
    from nescient_fl.mpc.session import Session

    vault = Vault(folder)
    keys, roster = vault.keys(name), vault.roster()
    started, worked = time.perf_counter(), time.process_time()
    request, copies = read_sum(_QUESTION[0])
    with vault.store(name) as store:
        session_id = bytes.fromhex(request.session)
        result = aggregate(request, copies, keys, roster, store, lambda: Session(keys, roster, session_id))
    answer = opened_content(result)
    if result.excluded or result.refused:
        raise RuntimeError(f"honest reports were left out: {result.excluded} {result.refused}")
    return answer, Helper(time.perf_counter() - started, time.process_time() - worked, result.bytes)


def _be_dealer(folder: Path, name: str, session_id: bytes) -> Helper:
    from nescient_fl.mpc.dealer import serve_session

    vault = Vault(folder)
    keys, roster = vault.keys(name), vault.roster()
    started, worked = time.perf_counter(), time.process_time()
    summary = serve_session(keys, roster, session_id)
    return Helper(time.perf_counter() - started, time.process_time() - worked, summary.bytes_sent)


def made_up(number: int, like: Weights) -> Answer:
    """Return a site's answer: an update of a norm below the clip, drawn from the number; counts, figures."""
    stream = SecretStream(number.to_bytes(32, "little"))
    update = {}
    for name, value in like.items():
        words = stream.take_int64(value.numel()).astype(np.float64) / 2.0**63
        update[name] = torch.from_numpy(words * 0.02).float().reshape(value.shape)
    positives = stream.below(20, BINS)
    counts = ScoreCounts(positives, positives[::-1].copy(), float(positives.sum()))
    return Answer(SiteReport(_name(number), IMAGES - number % 50, 0.6, 0.7, 1.0), counts, update)


def measure_round(actors: Actors, number: int, weights: Weights) -> Round:
    """Take one round over all of the roster's sites, sealed and in clear."""
    plan = SecurePlan("bench", actors.roster, CLIP, WEIGHT_MAX, 3)
    order = RoundOrder(number, 100, 1, 0, "{}", True)
    order_bytes = order_json(order).encode()
    terms = plan.terms(weights, True)
    secure = SecureOrder(plan.run, actors.roster.digest, terms)
    names = [site.name for site in actors.roster.sites]
    answers = [made_up(1 + place, weights) for place in range(len(names))]
    policies = [SitePolicy(actors.vault.keys(name), actors.roster, 3) for name in names]
    sealing, packing, reports, contributions = [], [], [], []
    for answer, policy in zip(answers, policies, strict=True):
        started = time.perf_counter()
        reports.append(seal_answer(answer, order, order_bytes, weights, secure, policy))
        sealing.append(time.perf_counter() - started)
        started = time.perf_counter()
        in_clear = report_content(answer.report, answer.counts, answer.update)
        packing.append(time.perf_counter() - started)
        assert answer.update is not None
        contributions.append(Contribution(policy.keys.name, answer.report.images, clip_update(answer.update, CLIP)))
    started = time.perf_counter()
    session = fresh_seed().hex()
    request = SumRequest(plan.run, number, weights_sha256(weights), order_bytes, terms, session)
    questions = {
        party.name: sum_content(request, [copy_for(report, rank) for report in reports])
        for rank, party in enumerate(actors.roster.parties)
    }
    relaying = time.perf_counter() - started
    given, helpers = actors.open(session, questions)
    started = time.perf_counter()
    result = read_opened(given[0])
    opened = decode_sum(result.total, {name: tuple(weights[name].shape) for name in sorted(weights)}, terms)
    assert opened.update is not None
    averaged = moved_by(weights, opened.update, opened.weight)
    relaying += time.perf_counter() - started
    started = time.perf_counter()
    plain = average(weights, contributions)
    averaging = time.perf_counter() - started
    assert result.sites == tuple(names)
    return Round(
        sites=len(names),
        site_seconds=statistics.median(sealing),
        plain_site_seconds=statistics.median(packing),
        bytes_up=payload_bytes(sealed_content(reports[0], None)),
        plain_bytes_up=payload_bytes(in_clear),
        relay_seconds=relaying,
        plain_relay_seconds=averaging,
        parties=tuple(helpers[:-1]),
        dealer=helpers[-1],
        error=max(float((plain[name].double() - averaged[name].double()).abs().max()) for name in plain),
    )


def measure(sites: int, repeats: int) -> list[Round]:
    """Take ``repeats`` rounds over so many sites, after one that warms up."""
    start = get_weights(build_network(seed=1))
    with tempfile.TemporaryDirectory() as folder, Actors(Path(folder), [_name(1 + n) for n in range(sites)]) as actors:
        rounds = []
        for number in range(repeats + 1):
            weights = {name: value + number for name, value in start.items()}  # another model: another sum
            rounds.append(measure_round(actors, number + 1, weights))
    return rounds[1:]


def lines_of(rounds: Sequence[Round]) -> list[Line]:
    """Turn the rounds over one number of sites into figures."""
    sites = rounds[0].sites
    part, last = f"{sites} sites", rounds[-1]
    waits = statistics.median(max(party.seconds - party.compute for party in taken.parties) for taken in rounds)
    clock = statistics.median(max(party.seconds for party in taken.parties) for taken in rounds)

    def each(name: str, scale: float = 1.0) -> tuple[float, ...]:
        return tuple(getattr(taken, name) * scale for taken in rounds)

    return [
        Line(
            part,
            "upload of a site and round, secure",
            each("bytes_up", 1 / MEGABYTE),
            "MB",
            0.83,
            "most",
            f"plain {last.plain_bytes_up / MEGABYTE:.3f} MB, {last.bytes_up / last.plain_bytes_up:.2f} x",
        ),
        Line(
            part,
            "site: clip, encode, share, seal, sign",
            each("site_seconds", 1e3),
            "ms",
            5.0,
            "most",
            f"plain packs in {statistics.median(each('plain_site_seconds')) * 1e3:.2f} ms",
        ),
        Line(
            part,
            "party: compute",
            each("party_seconds"),
            "s",
            0.2,
            "most",
            f"waits {waits:.2f} s more, {clock:.2f} s by the clock; sends {last.parties[0].sent / MEGABYTE:.2f} MB",
        ),
        Line(
            part,
            "dealer: compute",
            tuple(taken.dealer.compute for taken in rounds),
            "s",
            note=f"{last.dealer.sent / MEGABYTE:.2f} MB to all parties",
        ),
        Line(
            part,
            "longer than in clear, of a 30 s round",
            each("overhead", 100 / ROUND_SECONDS),
            "%",
            3.0,
            "most",
            f"{statistics.median(each('overhead')):.2f} s, of which relay "
            f"{statistics.median(each('relay_seconds')) - statistics.median(each('plain_relay_seconds')):.3f} s",
        ),
        Line(part, "largest error of a weight, to plain FedAvg", each("error", 1e6), "1e-6", 1.0, "most"),
    ]


def measure_generator(repeats: int) -> Line:
    """How fast a tensor of secret words is filled."""
    tensor, found = torch.empty(8_000_000, dtype=torch.int64), []
    for _ in range(repeats + 1):
        stream = fresh_stream()
        started = time.perf_counter()
        stream.fill(tensor)
        found.append(8 * tensor.numel() / (time.perf_counter() - started) / 1e9)
    return Line("generator", "AES-256-CTR into an int64 tensor", tuple(found[1:]), "GB/s")


def _name(number: int) -> str:
    return f"site-{number:03}"


def main() -> None:
    """Measure, print the table, and end with status 1 when a target was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sites", type=int, nargs="+", default=[5, 20, 100], help="numbers of sites, 3 at least")
    parser.add_argument("--repeats", type=int, default=5, help="rounds of each")
    parser.add_argument("--quick", action="store_true", help="3 sites, one round: to see that it runs")
    parser.add_argument("--out", type=Path, help="write the figures as JSON too")
    arguments = parser.parse_args()
    sites, repeats = ([3], 1) if arguments.quick else (arguments.sites, arguments.repeats)
    if min(sites) < 3 or repeats < 1:
        parser.error("a sum takes 3 sites or more, and a figure one round or more")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    figures = Figures(arguments.quick, arguments.out)
    figures.add([measure_generator(repeats)])
    for number in sites:
        figures.add(lines_of(measure(number, repeats)))
    figures.end()


if __name__ == "__main__":
    main()
