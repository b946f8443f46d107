"""A compute party's part of one round: check, agree, exclude, sum, add noise, open.

The shape is that of Prio (Corrigan-Gibbs and Boneh, NSDI 2017) and of the IETF's Distributed Aggregation
Protocol. The exact order:
  1. every report is checked by itself: roster, signature, header, terms, freshness, envelope; a bad one is left
     out, with the reason;
  2. over the session the parties say what they hold for this global model already. A sum that all of them
     committed to is opened from what they stored, whatever reports came with the question. Commitments that are
     not the same everywhere, or on other terms, are withdrawn if no share of them was ever released, and if one
     was, nothing else is opened for this model;
  3. they compare the reports that each accepted, byte for byte by digest; the common ones are the set S, and
     each signs S;
  4. the reports that this party accepted are marked as seen: from here on they are good for this session only;
  5. quorum is checked; the norm check leaves out what is beyond the bound, and quorum is checked again, with strict
     membership also the distance to the last set;
  6. the shares are summed, and each party adds its noise to its own share of the sum;
  7. set and share of the sum are committed to disk, and all parties say so;
  8. the commitment is marked as released, if it still stands, and only then does the share leave the party: the
     sum is opened.
"""

import hashlib
import json
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from cryptography.exceptions import InvalidSignature
from numpy.typing import NDArray

from nescient_fl.mpc.crypten_bridge import crypten_party
from nescient_fl.mpc.envelope import PartyCopy, ReportHeader, open_copy, verify_copy
from nescient_fl.mpc.errors import (
    AlreadyOpenedError,
    HeaderError,
    MembershipError,
    MpcError,
    QuorumError,
    ReplayError,
    SessionAborted,
    SetMismatchError,
)
from nescient_fl.mpc.keys import MemberKeys
from nescient_fl.mpc.material import Material, MaterialRequest
from nescient_fl.mpc.noise import discrete_gaussian
from nescient_fl.mpc.norm_check import NormBound, check_norms, material_for
from nescient_fl.mpc.party_store import PartyStore, StoredSum
from nescient_fl.mpc.randomness import fresh_stream
from nescient_fl.mpc.roster import Roster
from nescient_fl.mpc.sums import BEYOND_BOUND, PROTOCOL, SumRequest, SumResult
from nescient_fl.mpc.terms import Terms

T = TypeVar("T")


class PartySession(Protocol):
    """What a party needs of the session with its peers and the dealer."""

    rank: int
    parties: int

    def exchange(self, payload: bytes) -> list[bytes]: ...

    def material(self, request: MaterialRequest) -> bytes: ...


OpenSession = Callable[[], AbstractContextManager[PartySession]]


@dataclass(frozen=True)
class _Report:
    header: ReportHeader
    digest: str
    share: NDArray[np.int64]


def aggregate(
    request: SumRequest,
    copies: Sequence[PartyCopy],
    keys: MemberKeys,
    roster: Roster,
    store: PartyStore,
    open_session: OpenSession,
) -> SumResult:
    """Take one party's part in opening the sum of a set of reports; all parties call this at the same time.

    Raises QuorumError, MembershipError, SetMismatchError, AlreadyOpenedError, MaterialError or SessionAborted;
    nothing was opened then, or what may have been opened is stored and comes with the next try.
    """
    started = time.perf_counter()
    rank = [party.name for party in roster.parties].index(keys.name)
    reports, refused = _accept(request, copies, keys, roster, rank, store)
    with open_session() as session:
        stored = _settle_stored(request, roster, session, store)
        if stored is None:
            chosen, lacking = _agree(request, reports, keys, roster, session)
            refused = {**lacking, **refused}
            store.remember([report.header.report_id for report in reports.values()], request.session)
            minimum = _minimum(request, roster, chosen)
            _check_quorum(chosen, minimum, refused)
            stored = _sum(request, chosen, minimum, refused, session)
            if request.terms.strict_membership:
                _check_membership(set(stored.sites), store, minimum)
            store.commit(stored)
            _all_say(b"committed", roster, session)
        store.release(stored)
        total = _open(stored, session)
        store.opened(stored, total)
        sent = getattr(session, "bytes_sent", 0)
    return SumResult(
        total,
        stored.sites,
        stored.excluded,
        refused,
        time.perf_counter() - started,
        sent,
        stored.session != request.session,
    )


def _accept(
    request: SumRequest,
    copies: Sequence[PartyCopy],
    keys: MemberKeys,
    roster: Roster,
    rank: int,
    store: PartyStore,
) -> tuple[dict[str, _Report], dict[str, str]]:
    """Check each report by itself. Returns the good ones by site, and reasons for the others."""
    good: dict[str, _Report] = {}
    refused: dict[str, str] = {}
    twice: set[str] = set()
    for index, copy in enumerate(copies):
        name = f"report {index}"
        try:
            # The name that it claims, until the signature proves it: somebody must be told which report it was.
            name = ReportHeader.from_bytes(copy.header).site
            header = verify_copy(copy, roster, rank)
            _check_header(header, request, roster)
            if store.seen(header.report_id):
                raise ReplayError("its report was used before")
            share = open_copy(copy, header, keys, rank, request.terms.dimension)
        except MpcError as error:
            refused[name] = f"{type(error).__name__}: {error}"
            continue
        if name in good:
            twice.add(name)
        good[name] = _Report(header, _report_digest(copy), share)
    for name in twice:
        del good[name]
        refused[name] = "ReplayError: two reports in its name came for one round"
    return good, refused


def _check_header(header: ReportHeader, request: SumRequest, roster: Roster) -> None:
    expected: dict[str, Any] = {
        "protocol": PROTOCOL,
        "run": request.run,
        "round": request.round,
        "roster": roster.digest,
        "model": request.binding,
        "parties": len(roster.parties),
        "dimension": request.terms.dimension,
        "fraction_bits": request.terms.fraction_bits,
    }
    for name, value in expected.items():
        if getattr(header, name) != value:
            raise HeaderError(f"its report is for another {name}")


def _report_digest(copy: PartyCopy) -> str:
    """Digest what all parties see of a report alike: its header, envelope digests and signature."""
    whole = b"\x1f".join([copy.header, *copy.digests, copy.signature])
    return hashlib.sha256(whole).hexdigest()


@dataclass(frozen=True)
class _Held:
    """What a party says that it holds for a model."""

    sum: tuple[str, ...]
    binding: str
    released: bool
    kept: bool

    @classmethod
    def of(cls, entry: StoredSum) -> "_Held":
        return cls((entry.session, entry.reports, *entry.sites), entry.binding, entry.released, entry.kept)

    @classmethod
    def read(cls, value: Any) -> "_Held | None":
        if value is None:
            return None
        return cls(
            tuple(str(part) for part in value["sum"]),
            str(value["binding"]),
            bool(value["released"]),
            bool(value["kept"]),
        )


def _settle_stored(request: SumRequest, roster: Roster, session: PartySession, store: PartyStore) -> StoredSum | None:
    """Find out whether all parties hold one sum for this model already.

    Raises AlreadyOpenedError when a share of another sum, or of one on other terms, was released somewhere.
    """
    mine = store.sum_for(request.model)
    state = None if mine is None else asdict(_Held.of(mine))
    answers = session.exchange(json.dumps(state).encode())
    states = [_read(party.name, answer, _Held.read) for party, answer in zip(roster.parties, answers, strict=True)]
    return _settled(mine, states, request.binding, store)


def _settled(
    mine: StoredSum | None, states: Sequence[_Held | None], wanted: str, store: PartyStore
) -> StoredSum | None:
    """Return the sum that all parties hold on these terms; None, and nothing is held here, when there is none."""
    held = [entry for entry in states if entry is not None]
    if not held:
        return None
    alike = len(held) == len(states) and len({entry.sum for entry in held}) == 1
    if alike and all(entry.binding == wanted for entry in held):
        if not all(entry.kept for entry in held):
            raise AlreadyOpenedError(
                "the sum over this global model was opened too long ago to be told again; go on from a newer copy "
                "of the run"
            )
        return mine
    if any(entry.released for entry in held):
        if alike:
            raise AlreadyOpenedError(
                "a sum over this global model was opened before on other terms; start from another seed"
            )
        raise AlreadyOpenedError("one party opened a sum for this model that another knows nothing of")
    if mine is not None:
        store.withdraw(mine)
    return None


def _read(party: str, answer: bytes, reader: Callable[[Any], T]) -> T:
    """Read what a party said. Raises SessionAborted naming it when that is no sense."""
    try:
        return reader(json.loads(answer))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise SessionAborted(f"{party} said what cannot be read", party) from None


def _agree(
    request: SumRequest,
    reports: Mapping[str, _Report],
    keys: MemberKeys,
    roster: Roster,
    session: PartySession,
) -> tuple[dict[str, _Report], dict[str, str]]:
    """Return the reports that all parties accepted alike, and why others were left out."""
    mine = {name: report.digest for name, report in reports.items()}
    answers = session.exchange(json.dumps(mine).encode())
    theirs = [_read(party.name, answer, _digests) for party, answer in zip(roster.parties, answers, strict=True)]
    chosen = {name: reports[name] for name in sorted(mine) if all(d.get(name) == mine[name] for d in theirs)}
    lacking = {
        name: "SetMismatchError: the parties did not all accept the same report of it"
        for held in theirs
        for name in held
        if name not in chosen
    }
    statement = b"\x1f".join(
        [b"nescient/set/1", request.session.encode(), request.binding.encode()]
        + [f"{name}={report.digest}".encode() for name, report in chosen.items()]
    )
    signatures = session.exchange(keys.signing.sign(statement))
    for party, signature in zip(roster.parties, signatures, strict=True):
        try:
            roster.signing_public(party.name, "party").verify(signature, statement)
        except InvalidSignature:
            raise SetMismatchError(f"{party.name} signed another set of reports") from None
    return chosen, lacking


def _digests(value: Any) -> dict[str, str]:
    if not all(isinstance(digest, str) for digest in value.values()):
        raise TypeError("a digest is a text")
    return dict(value)


def _minimum(request: SumRequest, roster: Roster, chosen: Mapping[str, _Report]) -> int:
    """The strictest of what the roster, the round's terms and each site ask for."""
    asked = [report.header.minimum for report in chosen.values()]
    return max([roster.minimum_sites, request.terms.minimum, *asked])


def _check_quorum(sites: Collection[str], minimum: int, left_out: Mapping[str, str]) -> None:
    if len(sites) < minimum:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in sorted(left_out.items()))
        raise QuorumError(
            f"{len(sites)} sites are in the sum, {minimum} are needed" + (f" ({reasons})" if reasons else "")
        )


def _check_membership(chosen: set[str], store: PartyStore, minimum: int) -> None:
    last = store.last_opened()
    if last is None:
        return
    changed = len(chosen ^ set(last.sites))
    if 0 < changed < minimum:
        raise MembershipError(
            f"the set would change by {changed} sites since the last sum: by none, or by {minimum} or more"
        )


def _sum(
    request: SumRequest,
    chosen: Mapping[str, _Report],
    minimum: int,
    refused: Mapping[str, str],
    session: PartySession,
) -> StoredSum:
    terms = request.terms
    names = list(chosen)
    shares = [chosen[name].share for name in names]
    needed = material_for(len(names))
    material = Material.from_blob(needed, session.rank, session.parties, session.material(needed))
    bound = NormBound(terms.bound, terms.update_words, terms.weight_max)
    with crypten_party(session, material):
        within = check_norms(session, shares, bound, material)
    kept = [name for name, good in zip(names, within, strict=True) if good]
    excluded = [name for name in names if name not in kept]
    _check_quorum(kept, minimum, {**refused, **dict.fromkeys(excluded, BEYOND_BOUND)})
    share = _noise(terms)
    for site, good in zip(shares, within, strict=True):
        if good:
            share += site
    reports = _set_digest(chosen[name].digest for name in names)
    return StoredSum(request.model, request.binding, request.session, reports, tuple(kept), tuple(excluded), share)


def _set_digest(digests: Iterable[str]) -> str:
    return hashlib.sha256("\x1f".join(digests).encode()).hexdigest()


def _noise(terms: Terms) -> NDArray[np.int64]:
    """Draw this party's own noise: full variance at every party, so that one honest party is enough."""
    noise = np.zeros(terms.dimension, np.int64)
    stream = fresh_stream()
    metrics = terms.update_words + 1
    if terms.update_noise and terms.update_words:
        noise[: terms.update_words] = discrete_gaussian(stream, terms.update_noise, terms.update_words)
    if terms.metrics_noise and metrics < terms.dimension:
        noise[metrics:] = discrete_gaussian(stream, terms.metrics_noise, terms.dimension - metrics)
    return noise


def _all_say(word: bytes, roster: Roster, session: PartySession) -> None:
    for party, answer in zip(roster.parties, session.exchange(word), strict=True):
        if answer != word:
            raise SessionAborted(f"{party.name} did not say that it {word.decode()}", party.name)


def _open(stored: StoredSum, session: PartySession) -> NDArray[np.int64]:
    """Open the committed share with CrypTen's additive sharing: every party learns the sum."""
    import torch
    from crypten.mpc.primitives import ArithmeticSharedTensor

    with crypten_party(session):
        share = ArithmeticSharedTensor.from_shares(torch.from_numpy(stored.share.copy()), precision=0)
        total: NDArray[np.int64] = share.reveal().numpy()
    return total
