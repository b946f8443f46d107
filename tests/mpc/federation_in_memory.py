"""A small secure federation in one process: keys, reports, and all parties at one sum at a time."""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nescient_fl.mpc.envelope import PartyCopy, ReportHeader, SealedReport, copy_for, seal_report
from nescient_fl.mpc.material import MaterialRequest, deal
from nescient_fl.mpc.party import aggregate
from nescient_fl.mpc.randomness import fresh_seed
from nescient_fl.mpc.shares import encode, split
from nescient_fl.mpc.sums import PROTOCOL, SumRequest, SumResult
from nescient_fl.mpc.terms import Terms
from nescient_fl.mpc.vault import Vault, create_vault
from tests.mpc.in_memory import InMemoryExchange, run_parties

UPDATE, METRICS = 200, 6
TERMS = Terms(
    dimension=UPDATE + 1 + METRICS, update_words=UPDATE, fraction_bits=12, clip=8.0, weight_max=512, minimum=3
)


class Dealt(InMemoryExchange):
    """An exchange whose dealer is a function that both parties share."""

    def __init__(self, inner: InMemoryExchange, seed: bytes) -> None:
        self.__dict__ = inner.__dict__
        self._seed = seed

    def material(self, request: MaterialRequest) -> bytes:
        # All parties must get parts of one dealing: they draw it from the same seed.
        from nescient_fl.mpc.randomness import SecretStream

        return deal(request, self.parties, SecretStream(self._seed))[self.rank]


class Federation:
    """Sites with keys, parties with memories."""

    def __init__(self, folder: Path, sites: int = 5, parties: int = 2, minimum: int = 3) -> None:
        names = [f"site-{number}" for number in range(1, sites + 1)]
        self.vault: Vault = create_vault(folder / "vault", "test", names, parties, minimum)
        self.roster = self.vault.roster()
        self.sites = names

    def request(self, model: int = 1, terms: Terms = TERMS, **changes: Any) -> SumRequest:
        request = SumRequest("run", 1, f"{model:064x}", b"order", terms, os.urandom(32).hex())
        return replace(request, **changes)

    def header(self, site: str, request: SumRequest, **changes: Any) -> ReportHeader:
        header = ReportHeader(
            protocol=PROTOCOL,
            run=request.run,
            round=request.round,
            roster=self.roster.digest,
            model=request.binding,
            site=site,
            parties=len(self.roster.parties),
            dimension=request.terms.dimension,
            fraction_bits=request.terms.fraction_bits,
            minimum=3,
            report_id=fresh_seed()[:16].hex(),
        )
        return replace(header, **changes)

    def report(self, site: str, vector: NDArray[np.int64], request: SumRequest, **changes: Any) -> SealedReport:
        header = self.header(site, request, **changes)
        return seal_report(header, split(vector, header.parties), self.roster, self.vault.keys(site))

    def open(
        self,
        request: SumRequest,
        reports: Sequence[SealedReport],
        changed: Mapping[int, Callable[[list[PartyCopy]], list[PartyCopy]]] | None = None,
    ) -> list[SumResult]:
        """Have all parties open the sum; ``changed`` alters, by rank, what the relay hands them."""
        seed = fresh_seed()

        def party(end: InMemoryExchange) -> SumResult:
            name = self.roster.parties[end.rank].name
            copies = [copy_for(report, end.rank) for report in reports]
            copies = (changed or {}).get(end.rank, list)(copies)

            @contextmanager
            def session() -> Any:
                yield Dealt(end, seed)

            with self.vault.store(name) as store:
                return aggregate(request, copies, self.vault.keys(name), self.roster, store, session)

        return run_parties(len(self.roster.parties), party)


def vector_of(number: int, norm: float = 1.0, weight: int = 100) -> NDArray[np.int64]:
    """Return one site's honest words: an update of a norm, the weight, some counts."""
    values = np.sin(np.arange(UPDATE) * (number + 1.0))
    update = encode(values * (weight * norm / np.linalg.norm(values)), TERMS.fraction_bits)
    return np.concatenate([update, [weight], np.arange(METRICS) + number]).astype(np.int64)
