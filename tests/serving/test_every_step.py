"""Every frame of a session that one role owes another, lost, held back or wrong: an error in time, and no score.

All three roles over real TLS, with a network of the lesion network's layers in small, so that a session takes the same
steps in milliseconds.
"""

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving.faulty_links import GONE, Frame, Links, watched_links
from serving.role_threads import Roles
from serving.small_models import SHAPE, small_images, small_model

from nescient_fl.mpc.channel import BYE, DATA, HELLO
from nescient_fl.mpc.errors import MpcError
from nescient_fl.serving import clinic, dealing, desk, owner
from nescient_fl.serving.plans import ServedModel

EXCHANGES = 47
"""Of the protocol: greeting, coins, check, weights, and the layers; tests/serving/test_abuse.py counts the lesion
network's."""
PATIENCE = 0.06
"""Seconds that a step waits for somebody who stalls; 20 in use."""
SOON = 30.0
CALLS = [("clinic", "owner"), ("clinic", "dealer"), ("owner", "dealer")]
"""Who connects to whom; who answers says of every connection that failed why it did."""
LINKS = [*CALLS, *((to, who) for who, to in CALLS)]


@pytest.fixture(scope="module")
def image() -> "np.ndarray[Any, np.dtype[np.float32]]":
    return small_images(1)


@pytest.fixture(scope="module")
def model(image: Any) -> ServedModel:
    return small_model(image)


class Early(AssertionError):
    """A session failed before the frame that was to go wrong: a busy machine was late with an honest step."""


class Stand:
    """Owner and dealer, standing; each session begins without any material, so that it takes the same steps."""

    def __init__(self, roles: Roles, links: Links, image: Any) -> None:
        self.roles, self.links, self._image = roles, links, image

    def session(self, fault: tuple[Frame, str] | None) -> float:
        """Have the image scored, and wait until nobody is served any more. Returns the seconds of all of it."""
        for folder in (self.roles.state("owner") / "material", self.roles.state("clinic"), self._waiting):
            shutil.rmtree(folder, ignore_errors=True)
        self.links.begin(fault)
        started = time.monotonic()
        try:
            scored = self.roles.score(self._image)
            assert len(scored.logits) == 1
        finally:
            while self.links.serving:
                assert time.monotonic() < started + SOON, f"somebody is served still: {fault}"
                time.sleep(0.001)
        return time.monotonic() - started

    @property
    def _waiting(self) -> Path:
        return self.roles.state("dealer") / "owner"

    def frames(self) -> list[Frame]:
        self.session(None)
        return list(self.links.frames)

    def finished(self) -> int:
        """Return how many sessions the owner has brought to their end."""
        log = self.roles.state("owner") / "sessions.jsonl"
        return len(log.read_text().splitlines()) if log.exists() else 0


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory, model: ServedModel, image: Any) -> Iterator[Stand]:
    roles = Roles(tmp_path_factory.mktemp("roles"))
    with pytest.MonkeyPatch.context() as patch, watched_links() as links:
        patch.setattr(clinic, "SHAPE", SHAPE)
        with roles.serving(model, limit=10**6):
            yield Stand(roles, links, image)


def patience(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (clinic, dealing, desk, owner):
        monkeypatch.setattr(module, "STEP_SECONDS", seconds)
    monkeypatch.setattr(desk, "_ARRIVAL_SECONDS", seconds)


def fails(stand: Stand, frame: Frame, how: str) -> None:
    """See that a frame that goes wrong is an error to whoever should have had it, and to all that wait for them."""
    finished, said = stand.finished(), len(stand.roles.said)
    # A clinic that misbehaves may learn what it can; its own error counts where it is the one that was failed.
    failed = (frame.who, frame.to) not in CALLS or (frame.who == "owner" and how in GONE)
    with pytest.raises(MpcError) if failed else contextlib.suppress(MpcError):
        stand.session((frame, how))
    where = f"{frame} {how}"
    if not stand.links.struck:
        raise Early(where)
    if (frame.who, frame.to) in CALLS and frame.kind != HELLO:
        complaints = [line for line in stand.roles.said[said:] if "images scored" not in line]
        assert any(line.startswith(f"{frame.who}: ") for line in complaints), where
    if frame.to == "owner":
        # With its last share an owner is done, whatever becomes of the clinic's farewell.
        assert stand.finished() - finished == int(frame.kind == BYE), where


def each(stand: Stand, who: str, to: str, how: str, chosen: Callable[[Frame], bool] = lambda _: True) -> int:
    """Let each chosen frame of a link be faulty once. Returns how many there were; a clean session is the last."""
    frames = [frame for frame in stand.frames() if (frame.who, frame.to) == (who, to) and chosen(frame)]
    for frame in frames:
        fails(stand, frame, how)
    stand.session(None)
    assert not any("Error:" in line for line in stand.roles.said), stand.roles.said
    return len(frames)


def test_a_session_takes_the_steps_that_these_tests_go_through(stand: Stand) -> None:
    frames = stand.frames()
    counts = {link: sum((frame.who, frame.to) == link for frame in frames) for link in LINKS}
    assert counts == {
        # Hello, four questions, the protocol, goodbye.
        ("clinic", "owner"): 1 + 4 + EXCHANGES + 1,
        # Hello, card, what is held, two batches' progress, what was dealt, go, the protocol.
        ("owner", "clinic"): 1 + 1 + 1 + 2 + 1 + 1 + EXCHANGES,
        # Hello, the order, goodbye; hello, what is dealt, the masks' seed, two batches, each its length and a part.
        ("owner", "dealer"): 3,
        ("dealer", "owner"): 1 + 1 + 1 + 2 * 2,
        # Twice: before and after the order. Hello, what is there, thanks, goodbye; hello, how many, two halves.
        ("clinic", "dealer"): 2 * 4,
        ("dealer", "clinic"): 2 * 2 + 2,
    }
    assert {frame.kind for frame in frames} == {HELLO, DATA, BYE}


@pytest.mark.parametrize(("who", "to"), LINKS)
def test_a_role_that_leaves_at_any_step(stand: Stand, who: str, to: str) -> None:
    assert each(stand, who, to, "leaves")
    assert each(stand, who, to, "leaves midway", lambda frame: frame.number % 5 == 1)


@pytest.mark.parametrize(("who", "to"), LINKS)
def test_a_role_that_stalls_at_any_step(stand: Stand, who: str, to: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for frame in [frame for frame in stand.frames() if (frame.who, frame.to) == (who, to)]:
        for seconds in (PATIENCE, 10 * PATIENCE, 100 * PATIENCE):
            patience(seconds, monkeypatch)
            with contextlib.suppress(Early):
                fails(stand, frame, "stalls midway" if frame.number % 5 == 1 else "stalls")
                break
        else:
            pytest.fail(f"{frame}: a step took longer than {seconds:.0f} s")
    patience(20.0, monkeypatch)
    stand.session(None)


@pytest.mark.parametrize(("who", "to"), LINKS)
def test_a_message_of_the_wrong_length_at_any_step(stand: Stand, who: str, to: str) -> None:
    # Of a goodbye nothing is read.
    assert each(stand, who, to, "a byte long", lambda frame: frame.kind != BYE)
    assert each(stand, who, to, "a byte short", lambda frame: frame.length > 0 and frame.number % 3 == 1)


@pytest.mark.parametrize("how", ["of another kind", "out of order", "boasts"])
@pytest.mark.parametrize(("who", "to"), LINKS)
def test_a_frame_of_the_wrong_kind_number_or_size(stand: Stand, who: str, to: str, how: str) -> None:
    assert each(stand, who, to, how, lambda frame: frame.number % 4 == 2)


GARBLED = st.one_of(
    st.binary(max_size=300).map(lambda other: lambda _: other),
    st.binary(min_size=1, max_size=300).map(lambda mask: lambda said: bytes(a ^ b for a, b in zip(said, cycle(mask)))),
    st.integers(0, 2**16).map(lambda cut: lambda said: said[: cut % (len(said) + 1)]),
)
"""Other bytes, bytes of the same length, and the beginning alone."""


@pytest.fixture(scope="module")
def frames(stand: Stand) -> list[Frame]:
    return stand.frames()


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 0.999), garbled=GARBLED)
def test_garbage_at_any_step_is_an_error_of_ours_or_a_score_and_never_a_defect(
    stand: Stand, frames: list[Frame], place: float, garbled: Callable[[bytes], bytes]
) -> None:
    stand.links.garbled = garbled
    with contextlib.suppress(MpcError):
        stand.session((frames[int(place * len(frames))], "garbled"))
    assert stand.links.struck
    assert not any("Error:" in line for line in stand.roles.said), stand.roles.said


@pytest.mark.parametrize(("who", "to"), [("dealer", "owner"), ("owner", "clinic")])
def test_who_was_lost_is_named_also_by_who_waits_for_somebody_who_waits(
    stand: Stand, who: str, to: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clinic waits for the owner while the owner waits for the dealer."""
    patience(1.0, monkeypatch)
    (frame,) = [frame for frame in stand.frames() if (frame.who, frame.to, frame.number) == (who, to, 3)]
    with pytest.raises(MpcError, match=f"{who} was silent for too long"):
        stand.session((frame, "stalls"))
