"""The record of what left a site: to whom, what kind, how many bytes, and a digest of them."""

import hashlib
from datetime import UTC, datetime
from pathlib import Path

from flwr.app import RecordDict

from nescient_fl.messages import RoundOrder, payload_bytes
from nescient_fl.sealed_messages import SEALED
from nescient_fl.study.run_folder import append_line


def record_departure(
    transcript: Path, site: str, order: RoundOrder | None, content: RecordDict, seal_seconds: float | None = None
) -> None:
    """Append a line to a transcript before a message leaves. Raises OSError when it cannot.

    Without an order the message answers the question which site this is; ``seal_seconds`` is what sharing,
    sealing and signing took, null for a message in clear.
    """
    kind = "name" if order is None else "update" if order.train else "scores"
    kind = f"sealed {kind}" if SEALED in content.config_records else kind
    append_line(
        transcript,
        {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "site": site,
            "to": "coordinator",
            "round": 0 if order is None else order.round,
            "kind": kind,
            "records": sorted(content),
            "seal_seconds": None if seal_seconds is None else round(seal_seconds, 6),
            "bytes": payload_bytes(content),
            "sha256": content_sha256(content),
        },
    )


def content_sha256(content: RecordDict) -> str:
    """Return the SHA-256 of a message's arrays and configuration values, by record and name."""
    digest = hashlib.sha256()
    for key, record in sorted(content.items()):
        for name, value in sorted(record.items()):
            digest.update(f"{key}/{name}:".encode())
            if isinstance(value, bytes):
                digest.update(value)
            else:
                digest.update(value.data if hasattr(value, "data") else str(value).encode())
    return digest.hexdigest()
