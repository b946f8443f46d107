"""What is said in a secure round: sealed reports to the relay, copies of them to the parties, sums back.

The relay reads headers, sizes and names, nothing else; ``messages.py`` has what both kinds of round share.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, RecordDict
from numpy.typing import NDArray

from nescient_fl.actions import AGGREGATE as AGGREGATE
from nescient_fl.actions import DEAL as DEAL
from nescient_fl.mpc.envelope import PartyCopy, SealedReport
from nescient_fl.mpc.errors import HeaderError
from nescient_fl.mpc.sums import SumRequest, SumResult
from nescient_fl.mpc.terms import Terms

SECURE = "secure"
SEALED = "sealed"
SHARED = "shared"
SUM = "sum"
OPENED = "opened"
REFUSED = "refused"

_VALIDATION = {"images", "loss", "auroc", "recall"}


@dataclass(frozen=True)
class SecureOrder:
    """What joins the order of a secure round.

    Attributes:
        run: the run's identity, which reports are bound to.
        roster: digest of the roster that the coordinator holds; a site with another one refuses.
        terms: the terms of the sum.
    """

    run: str
    roster: str
    terms: Terms


@dataclass(frozen=True)
class SharedMetrics:
    """What a site tells the coordinator in clear, only if its own configuration says so.

    Attributes:
        images: training images; loss and accuracy are means over them in the last local epoch.
        validation: images, loss, auroc and recall at 0.5 of the model as it came.
        seconds: time the site worked on this round.

    Raises TypeError for values of another kind.
    """

    site: str
    images: int
    loss: float
    accuracy: float
    validation: Mapping[str, Any]
    seconds: float

    def __post_init__(self) -> None:
        figures = (self.loss, self.accuracy, self.seconds, *self.validation.values())
        if not all(value is None or type(value) in (int, float) for value in figures):
            raise TypeError("a figure is a number or unknown")
        if type(self.site) is not str or type(self.images) is not int or set(self.validation) != _VALIDATION:
            raise TypeError(f"validation figures are {', '.join(sorted(_VALIDATION))}")


def add_secure_order(content: RecordDict, order: SecureOrder) -> RecordDict:
    """Add the terms of a secure round to an order."""
    content[SECURE] = ConfigRecord({"run": order.run, "roster": order.roster, "terms": order.terms.to_json()})
    return content


def read_secure_order(content: RecordDict) -> SecureOrder | None:
    """Read the terms of a secure round, None when the round is not secure. Raises HeaderError, BoundError."""
    if SECURE not in content.config_records:
        return None
    record = content.config_records[SECURE]
    try:
        run, roster, terms = (str(record[name]) for name in ("run", "roster", "terms"))
    except KeyError as missing:
        raise HeaderError(f"the order of a secure round has no {missing}") from None
    return SecureOrder(run, roster, Terms.from_json(terms))


def sealed_content(report: SealedReport, shared: SharedMetrics | None) -> RecordDict:
    """Pack a site's sealed answer, and what it chose to share."""
    fields: dict[str, Any] = {"header": report.header, "signature": report.signature}
    for rank, ciphertext in enumerate(report.ciphertexts):
        fields[f"envelope-{rank}"] = ciphertext
    content = RecordDict({SEALED: ConfigRecord(fields)})
    if shared is not None:
        content[SHARED] = ConfigRecord({"json": json.dumps({**asdict(shared), "validation": shared.validation})})
    return content


def read_sealed(content: RecordDict) -> tuple[SealedReport, SharedMetrics | None]:
    """Unpack a site's sealed answer, unchecked: the parties check it. Raises KeyError, TypeError, ValueError."""
    record = content.config_records[SEALED]
    envelopes: list[bytes] = []
    while (key := f"envelope-{len(envelopes)}") in record:
        envelopes.append(_bytes(record[key]))
    report = SealedReport(_bytes(record["header"]), tuple(envelopes), _bytes(record["signature"]))
    shared = None
    if SHARED in content.config_records:
        values = _object(content.config_records[SHARED]["json"])
        if not isinstance(values["validation"], dict):
            raise TypeError("validation figures go by their names")
        shared = SharedMetrics(**values)
    return report, shared


def sum_content(request: SumRequest, copies: Sequence[PartyCopy]) -> RecordDict:
    """Pack the question to one party: open the sum of these reports."""
    values = {
        "run": request.run,
        "round": request.round,
        "model": request.model,
        "session": request.session,
        "terms": request.terms.to_json(),
    }
    content = RecordDict(
        {SUM: ConfigRecord({"json": json.dumps(values), "order": request.order, "reports": len(copies)})}
    )
    for index, copy in enumerate(copies):
        content[f"report-{index}"] = ConfigRecord(
            {
                "header": copy.header,
                "digests": b"".join(copy.digests),
                "envelope": copy.ciphertext,
                "signature": copy.signature,
            }
        )
    return content


def read_sum(content: RecordDict) -> tuple[SumRequest, list[PartyCopy]]:
    """Unpack a question to a party. Raises HeaderError when it cannot be read."""
    try:
        record = content.config_records[SUM]
        values = _object(record["json"])
        terms = Terms.from_json(values.pop("terms"))
        request = SumRequest(**values, order=_bytes(record["order"]), terms=terms)
        copies = []
        for index in range(int(str(record["reports"]))):
            fields = content.config_records[f"report-{index}"]
            digests = _bytes(fields["digests"])
            copies.append(
                PartyCopy(
                    _bytes(fields["header"]),
                    tuple(digests[start : start + 32] for start in range(0, len(digests), 32)),
                    _bytes(fields["envelope"]),
                    _bytes(fields["signature"]),
                )
            )
    except (KeyError, TypeError, ValueError) as error:
        raise HeaderError(f"the relay's question cannot be read ({type(error).__name__})") from None
    return request, copies


def opened_content(result: SumResult) -> RecordDict:
    """Pack a party's answer."""
    values = {
        "sites": result.sites,
        "excluded": result.excluded,
        "refused": dict(result.refused),
        "seconds": result.seconds,
        "bytes": result.bytes,
        "stored": result.stored,
    }
    total = result.total.astype("<i8").tobytes()
    return RecordDict({OPENED: ConfigRecord({"json": json.dumps(values), "total": total})})


def read_opened(content: RecordDict) -> SumResult:
    """Unpack a party's answer. Raises KeyError, TypeError or ValueError when it cannot be read."""
    record = content.config_records[OPENED]
    values = _object(record["json"])
    total: NDArray[np.int64] = np.frombuffer(_bytes(record["total"]), "<i8").astype(np.int64)
    return SumResult(
        total,
        tuple(str(name) for name in values["sites"]),
        tuple(str(name) for name in values["excluded"]),
        {str(name): str(reason) for name, reason in dict(values["refused"]).items()},
        float(values["seconds"]),
        int(values["bytes"]),
        bool(values["stored"]),
    )


def refusal_content(kind: str, reason: str, lost: str | None) -> RecordDict:
    """Pack why a party or the dealer did not do what it was asked to."""
    return RecordDict({REFUSED: ConfigRecord({"kind": kind, "reason": reason, "lost": lost or ""})})


def read_refusal(content: RecordDict) -> tuple[str, str, str | None] | None:
    """Return kind, reason and who was lost, or None when the answer is no refusal."""
    if REFUSED not in content.config_records:
        return None
    record = content.config_records[REFUSED]
    return str(record["kind"]), str(record["reason"]), str(record["lost"]) or None


def _object(value: Any) -> dict[str, Any]:
    """Read a JSON object. Raises ValueError, also for what is nested too deep."""
    try:
        values = json.loads(str(value))
    except RecursionError:
        raise ValueError("nested too deep") from None
    if not isinstance(values, dict):
        raise ValueError("no object")
    return values


def _bytes(value: Any) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError("not bytes")
    return value
