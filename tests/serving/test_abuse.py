"""A peer that stalls, leaves, or talks nonsense at any step: a typed error in time, and the others are served on."""

import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving.faulty_links import Frame, watched_links
from serving.role_threads import Roles
from serving.saved_models import write_model
from serving.test_every_step import EXCHANGES

from nescient_fl.mpc.channel import BYE, DATA, Channel, Deadline
from nescient_fl.mpc.errors import MaterialError, MpcError, QueryLimitError, SessionAborted
from nescient_fl.mpc.session import greeted, hello
from nescient_fl.serving import clinic, dealing, desk, messages, owner
from nescient_fl.serving.messages import (
    PURPOSE,
    AskCard,
    AskDeal,
    AskOrder,
    AskParcel,
    AskScore,
    AskStock,
    Card,
    Dealt,
    Go,
    Held,
    Parcel,
    Progress,
    Refusal,
    decode,
    encode,
    hear,
    tell,
)
from nescient_fl.serving.model import load_model
from nescient_fl.serving.pair import BUFFERED
from nescient_fl.serving.plans import ServedModel, compile_model

STEP = 1.5
"""Seconds that a step waits in these tests; 20 in use."""
SOON = 20.0


@pytest.fixture(scope="module")
def images() -> "np.ndarray[Any, np.dtype[np.float32]]":
    return np.random.default_rng(3).standard_normal((1, 1, 320, 390)).astype(np.float32)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, images: Any) -> ServedModel:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    write_model(path)
    return compile_model(load_model(path), images)


@pytest.fixture
def roles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Roles:
    for module in (clinic, dealing, desk, owner):
        monkeypatch.setattr(module, "STEP_SECONDS", STEP)
    return Roles(tmp_path)


# The first exchanges of large messages, which go one after the other: masked weights, masked image, the pool.
WEIGHTS, IMAGE, POOL = 5, 6, 7
LARGE = [
    ("clinic", "owner", 5 + IMAGE, "stalls midway"),
    ("clinic", "owner", 5 + POOL, "leaves midway"),
    ("owner", "clinic", 7 + WEIGHTS, "leaves midway"),
    ("owner", "clinic", 7 + POOL, "stalls midway"),
]


@pytest.mark.parametrize(("who", "to", "number", "how"), LARGE)
def test_a_peer_that_fails_amid_a_large_message_ends_its_session_and_no_other(
    roles: Roles, model: ServedModel, images: Any, who: str, to: str, number: int, how: str
) -> None:
    """tests/serving/test_every_step.py has every frame of a network whose messages are all small."""
    with watched_links() as links, roles.serving(model):
        links.begin((Frame(who, to, number, DATA, 0), how))
        started = time.monotonic()
        with pytest.raises(SessionAborted, match=None if who == "clinic" else "silent|closed"):
            roles.score(images)
        wait_for(lambda: not links.serving)
        assert time.monotonic() - started < SOON
        assert links.struck
        assert links.frames[-1].length > BUFFERED or links.frames[-2].length > BUFFERED
        if who == "clinic":
            assert any(line.startswith("clinic: clinic ") for line in roles.said)
        assert not (roles.state("owner") / "sessions.jsonl").exists()
        links.begin(None)
        assert len(roles.score(images, "other").logits) == 1
    assert not any("Error:" in line for line in roles.said), roles.said


def test_every_exchange_is_one_of_those_that_are_made_to_fail(roles: Roles, model: ServedModel, images: Any) -> None:
    with watched_links() as links, roles.serving(model):
        roles.score(images)
    said = [frame.length for frame in links.frames if (frame.who, frame.to) == ("clinic", "owner")]
    # Hello and four questions before, goodbye after.
    assert len(said) == 5 + EXCHANGES + 1
    heard = [frame.length for frame in links.frames if (frame.who, frame.to) == ("owner", "clinic")]
    assert min(heard[7 + WEIGHTS], said[5 + IMAGE], heard[7 + POOL], said[5 + POOL]) > BUFFERED


def wait_for(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + SOON
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.01)


def connected(roles: Roles, name: str, to: str) -> Channel:
    peer = next(member for member in roles.roster.members if member.name == to)
    return greeted(roles.keys(name), peer, hello(PURPOSE, roles.roster), Deadline(STEP))


NONSENSE = [
    b"",
    b"\xff\xfe",
    b"{}",
    b'{"kind": "AskCard", "more": 1}',
    b'{"kind": "Card"}',
    b'{"kind": "AskOrder", "plan": "' + b"0" * 64 + b'", "images": 100000, "batches": 1}',
    b'{"kind": "AskOrder", "plan": "' + b"0" * 64 + b'", "images": true, "batches": 1}',
    b'{"kind": "AskScore", "plan": "' + b"0" * 64 + b'", "delivery": "../../etc", "images": 1}',
    b'{"kind": "AskDeal", "clinic": "clinic", "plan": "{}", "images": 1, "batches": -1}',
    b"[" * 100_000,
]


@pytest.mark.parametrize("payload", NONSENSE, ids=range(len(NONSENSE)))
def test_a_message_that_is_none_ends_the_connection_with_a_reason(
    roles: Roles, model: ServedModel, payload: bytes
) -> None:
    with roles.serving(model):
        for to in ("owner", "dealer"):
            channel = connected(roles, "clinic", to)
            channel.send(DATA, payload, Deadline(STEP))
            with pytest.raises(SessionAborted, match="cannot be read"):
                hear(channel, Card, Deadline(SOON))
            channel.close()


def test_what_is_not_for_it_to_say_is_refused(roles: Roles, model: ServedModel) -> None:
    plan = model.plans[0]
    wrong: list[tuple[str, str, messages.Message]] = [
        ("clinic", "dealer", AskDeal("clinic", plan.to_json(), 1, 1)),
        ("owner", "dealer", AskParcel("owner")),
        ("clinic", "owner", Go()),
        ("dealer", "owner", AskCard()),
    ]
    with roles.serving(model):
        for name, to, message in wrong[:3]:
            channel = connected(roles, name, to)
            tell(channel, message, Deadline(STEP))
            with pytest.raises(SessionAborted, match="not for it to say"):
                hear(channel, Card, Deadline(SOON))
            channel.close()


def test_a_refusal_is_an_answer_and_the_connection_goes_on(roles: Roles, model: ServedModel) -> None:
    digest = model.plans[0].digest
    with roles.serving(model, limit=2):
        channel = connected(roles, "clinic", "owner")
        refused: list[tuple[messages.Message, type[MpcError], str]] = [
            (AskOrder("0" * 64, 1, 1), messages.PlanError, "ask for its card again"),
            (AskScore(digest, "0" * 32, 1), MaterialError, "used up, or was never here"),
        ]
        for message, kind, words in refused:
            tell(channel, message, Deadline(STEP))
            with pytest.raises(kind, match=words):
                hear(channel, Go, Deadline(SOON))
        tell(channel, AskStock(digest), Deadline(STEP))
        assert hear(channel, Held, Deadline(SOON)).deliveries == ()
        channel.send(BYE, b"", Deadline(STEP))
        channel.close()


def test_who_connects_and_says_nothing_is_let_go_and_holds_nobody_up(
    roles: Roles, model: ServedModel, images: Any
) -> None:
    address = next(member.address for member in roles.roster.members if member.name == "owner")
    assert address is not None
    with roles.serving(model):
        silent = [socket.socket(socket.AF_UNIX) for _ in range(3)]
        for one in silent:
            one.connect(address.removeprefix("unix:"))
        greeted_only = connected(roles, "other", "owner")
        assert len(roles.score(images).logits) == 1
        with pytest.raises(SessionAborted, match=r"silent for too long|closed"):
            greeted_only.receive_any((DATA,), Deadline(SOON))
        for one in silent:
            one.close()


def test_a_dealer_that_is_away_or_goes_away_is_named(roles: Roles, model: ServedModel, images: Any) -> None:
    with roles.standing("owner", roles.owner_desk(model)), pytest.raises(SessionAborted, match="dealer"):
        roles.score(images)


def test_a_dealer_that_sends_less_or_other_material_is_refused(
    roles: Roles, model: ServedModel, images: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = dealing.deal_batch

    def other_number(plan: Any, delivery: Any, seed: bytes, number: int, stream: Any) -> Any:
        return honest(plan, delivery, seed, (number + 1) % 2, stream)

    monkeypatch.setattr(dealing, "deal_batch", other_number)
    with roles.serving(model), pytest.raises(MaterialError, match="another batch"):
        roles.score(images)

    def gone(*_: Any) -> Any:
        raise SessionAborted("the dealer's disk is full")

    monkeypatch.setattr(dealing, "deal_batch", gone)
    with roles.serving(model), pytest.raises(SessionAborted):
        roles.score(images)


hexadecimal = st.text("0123456789abcdef", min_size=32, max_size=32)
digest = st.text("0123456789abcdef", min_size=64, max_size=64)
few = st.integers(1, 64)
valid = st.one_of(
    st.builds(AskCard),
    st.builds(Go),
    st.builds(AskStock, digest),
    st.builds(AskOrder, digest, few, few),
    st.builds(AskScore, digest, hexadecimal, few),
    st.builds(AskDeal, st.text(max_size=40), st.text(), few, few),
    st.builds(AskParcel, st.text(max_size=40)),
    st.builds(Parcel, few),
    st.builds(Progress, few),
    st.builds(Dealt, hexadecimal, digest, few, few, st.integers(0, 2**60)),
    st.builds(Held, st.lists(st.tuples(hexadecimal, few, st.lists(few).map(tuple)), max_size=5).map(tuple)),
    st.builds(Refusal, st.text(), st.text(max_size=1000)),
    st.builds(
        Card,
        st.lists(st.text(), min_size=1, max_size=4).map(tuple),
        st.sampled_from(["paper", "upright"]),
        st.booleans(),
        st.none() | st.floats(0, 1),
        st.text("0123456789abcdef", min_size=16, max_size=16),
        few,
    ),
)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)


@given(message=valid)
def test_a_message_comes_back_as_it_was(message: messages.Message) -> None:
    assert decode(encode(message), "peer") == message


@settings(max_examples=400)
@given(payload=st.binary(max_size=300))
def test_bytes_of_any_kind_are_refused_in_one_way(payload: bytes) -> None:
    with pytest.raises(SessionAborted, match="cannot be read"):
        decode(payload, "peer")


@settings(max_examples=400)
@given(message=valid, data=st.data())
def test_a_changed_message_is_refused_or_a_message_of_valid_parts(message: messages.Message, data: Any) -> None:
    values = json.loads(encode(message))
    key = data.draw(st.sampled_from(sorted(values)))
    values[key] = data.draw(anything)
    try:
        found = decode(json.dumps(values).encode(), "peer")
    except SessionAborted:
        return
    # Whatever passes is made of parts that were checked, and says itself the same again.
    assert decode(encode(found), "peer") == found


def test_a_refusal_of_unknown_kind_or_with_control_characters_is_told_plainly() -> None:
    assert isinstance(Refusal("QueryLimitError", "no").raised("owner"), QueryLimitError)
    told = Refusal("KeyboardInterrupt", "a\x1b[31mred\nline").raised("owner")
    assert isinstance(told, SessionAborted)
    assert str(told) == "owner refused: a [31mred line"
