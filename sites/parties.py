"""The compute parties' and the dealer's nodes: thin adapters between Flower's messages and ``nescient_fl.mpc``."""

from collections.abc import Callable

from flwr.app import RecordDict

from nescient_fl.mpc.dealer import serve_session
from nescient_fl.mpc.errors import HeaderError, MpcError, SessionAborted
from nescient_fl.mpc.keys import MemberKeys
from nescient_fl.mpc.party import aggregate
from nescient_fl.mpc.party_store import PartyStore
from nescient_fl.mpc.roster import Roster
from nescient_fl.mpc.session import Session
from nescient_fl.sealed_messages import (
    SUM,
    opened_content,
    read_sum,
    refusal_content,
)


def open_sum(content: RecordDict, keys: MemberKeys, roster: Roster, store: PartyStore) -> RecordDict:
    """Take a party's part in one sum. A refusal is an answer too: its kind, its reason and who was lost."""

    def work() -> RecordDict:
        request, copies = read_sum(content)
        session_id = bytes.fromhex(request.session)
        result = aggregate(request, copies, keys, roster, store, lambda: Session(keys, roster, session_id))
        return opened_content(result)

    return _or_refusal(work)


def deal(content: RecordDict, keys: MemberKeys, roster: Roster) -> RecordDict:
    """Serve one session of the parties with correlated randomness."""

    def work() -> RecordDict:
        try:
            session_id = bytes.fromhex(str(content.config_records[SUM]["session"]))
        except (KeyError, ValueError):
            raise HeaderError("the relay's question names no session") from None
        serve_session(keys, roster, session_id)
        return RecordDict()

    return _or_refusal(work)


def _or_refusal(work: Callable[[], RecordDict]) -> RecordDict:
    try:
        return work()
    except MpcError as error:
        lost = error.lost if isinstance(error, SessionAborted) else None
        return refusal_content(type(error).__name__, str(error), lost)
