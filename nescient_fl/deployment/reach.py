"""How a member finds the coordinator's link: whether it answers over TLS, and what time it has."""

import email.utils
import http.client
import ssl
import time
from dataclasses import dataclass
from pathlib import Path

from nescient_fl.deployment.roles import host_and_port
from nescient_fl.errors import UserError

AHEAD_SECONDS = 4.0
"""How far a member's clock may be ahead of the link's: Flower takes no node whose signed time is 5 s in the future."""
BEHIND_SECONDS = 60.0
"""How far it may be behind. Flower takes up to 305 s; logs are read side by side."""
_REACH_SECONDS = 10.0


@dataclass(frozen=True)
class _Answer:
    version: str
    date: float | None


def describe_link(address: str, authority: Path) -> str:
    """Say how the link answers. Raises UserError saying why it does not."""
    return f"{address} answers over {_asked(address, authority, _REACH_SECONDS).version}"


def describe_clock(address: str, authority: Path, seconds: float = _REACH_SECONDS) -> str:
    """Say how near this clock is to the link's. Raises UserError when it is too far off, or not known."""
    date = _asked(address, authority, seconds).date
    if date is None:
        raise UserError(f"{address} does not say what time it is")
    apart = time.time() - date
    if not -BEHIND_SECONDS <= apart <= AHEAD_SECONDS:
        raise UserError(f"this clock is {apart:+.0f} s from the coordinator's: set one of them right (NTP)")
    return f"within {max(abs(apart), 1):.0f} s of the coordinator's"


def _asked(address: str, authority: Path, seconds: float) -> _Answer:
    """Ask the link for its health over TLS. Raises UserError saying why nothing came back."""
    host, port = host_and_port(address)
    try:
        context = ssl.create_default_context(cafile=str(authority))
    except (OSError, ssl.SSLError) as error:
        raise UserError(f"the authority's certificate {authority} cannot be read ({error})") from None
    connection = http.client.HTTPSConnection(host, port, timeout=seconds, context=context)
    try:
        connection.connect()
        tls = connection.sock.version() if isinstance(connection.sock, ssl.SSLSocket) else None
        connection.request("GET", "/health")
        said = connection.getresponse().headers.get("Date")
        parsed = None if said is None else email.utils.parsedate_to_datetime(said).timestamp()
        return _Answer(tls or "nothing", parsed)
    except ssl.SSLCertVerificationError as error:
        raise UserError(f"{address} has no certificate of {authority}: {error.verify_message}") from None
    except (OSError, http.client.HTTPException) as error:
        raise UserError(f"{address} cannot be reached: {error}") from None
    finally:
        connection.close()
