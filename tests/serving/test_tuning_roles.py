"""A tuning between three roles over TLS: the owner alone learns the layers, once; whoever fails ends with an error."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving.role_threads import Roles

from nescient_fl.mpc.channel import BYE, DATA, HELLO, Channel, Deadline
from nescient_fl.mpc.errors import EncodingError, MaterialError, MpcError, PlanError, SessionAborted
from nescient_fl.mpc.session import greeted, hello
from nescient_fl.mpc.tuning.owners import Floats
from nescient_fl.mpc.tuning.plain import tune_in_clear
from nescient_fl.mpc.tuning.plan import TuningPlan
from nescient_fl.serving import dealing, desk, tuning
from nescient_fl.serving.dealing import DealerDesk, fetch_tuning
from nescient_fl.serving.messages import (
    PURPOSE,
    AskCard,
    AskTuning,
    AskTuningDeal,
    AskTuningHalf,
    Go,
    TuningDealt,
    TuningTerms,
    decode,
    encode,
    hear,
    tell,
)
from nescient_fl.serving.pair import Pair
from nescient_fl.serving.tuning import TuningCost, TuningDesk, TuningOffer, give_to_tuning

STEP = 1.5
"""Seconds that a step waits in these tests; 20 in use."""
SOON = 20.0
FROZEN = "ab" * 32
STEPS = 4


def example() -> tuple[Floats, Floats, list[Floats]]:
    generator = np.random.default_rng(0)
    labels = (np.arange(30) % 2).astype(np.float64)
    features = generator.standard_normal((30, 6)) + labels[:, None]
    return features, labels, [generator.standard_normal((4, 7)) * 0.5, generator.standard_normal((1, 5)) * 0.5]


FEATURES, LABELS, WEIGHTS = example()
OFFER = TuningOffer(WEIGHTS, STEPS, 0.5, 0.01, FROZEN)


@dataclass
class Place:
    """Three roles, and what the owner kept."""

    roles: Roles
    kept: list[list[Floats]] = field(default_factory=list)
    costs: list[TuningCost] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def desk(self, offer: TuningOffer = OFFER) -> TuningDesk:
        def keep(tuned: list[Floats], cost: TuningCost) -> None:
            self.kept.append(tuned)
            self.costs.append(cost)

        return TuningDesk(self.roles.keys("owner"), self.roles.roster, offer, keep, self.roles.said.append, self.stop)

    def dealer(self) -> DealerDesk:
        return DealerDesk(self.roles.roster, self.roles.state("dealer"))

    def give(self, clinic: str = "clinic", features: Floats = FEATURES, labels: Floats = LABELS, **change: Any) -> int:
        images, say = change.get("images", len(features)), self.lines.append
        made = {change.get("layers", 2): (change.get("frozen", FROZEN), features)}
        return give_to_tuning(self.roles.keys(clinic), self.roles.roster, "owner", images, made, labels, say)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    for module in (tuning, dealing, desk):
        monkeypatch.setattr(module, "STEP_SECONDS", STEP)
    return Place(Roles(tmp_path))


def test_the_owner_gets_what_plain_tuning_would_give_and_the_clinic_nothing(place: Place) -> None:
    spool = place.roles.state("owner") / "spool"
    spool.mkdir(parents=True)
    (spool / "step-0000.bin").write_bytes(b"of an owner that was killed")
    with place.roles.standing("dealer", place.dealer()), place.roles.standing("owner", place.desk()):
        assert place.give() == STEPS
    assert not spool.exists()
    plain = tune_in_clear(OFFER.plan(30), FEATURES, LABELS, WEIGHTS)
    (tuned,) = place.kept
    assert max(np.abs(a - b).max() for a, b in zip(tuned, plain, strict=True)) <= 5e-4
    assert max(np.abs(a - b).max() for a, b in zip(tuned, WEIGHTS, strict=True)) > 0.05
    assert place.stop.is_set()
    assert f"step {STEPS} of {STEPS}" in place.lines
    assert f"clinic: step {STEPS} of {STEPS}" in place.roles.said
    (cost,) = place.costs
    assert (cost.clinic, cost.images) == ("clinic", 30)
    assert cost.offline_bytes > cost.bytes_sent > 10_000
    assert list(place.roles.state("dealer").rglob("*.seed")) == [], "the clinic's half is gone once it was fetched"
    assert '"owner": "owner"' in (place.roles.state("dealer") / "deliveries.jsonl").read_text()


def test_what_each_role_hears(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: dict[tuple[str, str], list[tuple[int, bytes]]] = {}
    receive = Channel.receive_any

    def listening(channel: Channel, kinds: Any, *rest: Any) -> tuple[int, bytes]:
        found = receive(channel, kinds, *rest)
        own = channel._connection.getsockname() or b""
        hearer = "clinic" if channel.peer in ("owner", "dealer") and not own else Path(str(own)).stem
        heard.setdefault((hearer, channel.peer), []).append(found)
        return found

    monkeypatch.setattr(Channel, "receive_any", listening)
    with place.roles.standing("dealer", place.dealer()), place.roles.standing("owner", place.desk()):
        place.give()
    by_dealer = [frame for (hearer, _), frames in heard.items() if hearer == "dealer" for frame in frames]
    assert {kind for kind, _ in by_dealer} == {HELLO, DATA, BYE}
    asked = [decode(payload, "x") for kind, payload in by_dealer if kind == DATA]
    assert [type(message) for message in asked] == [AskTuningDeal, AskTuningHalf]
    # The clinic's last word in the protocol are its shares of the weights; the owner's last is that it has them.
    by_owner = [payload for kind, payload in heard["owner", "clinic"] if kind == DATA]
    assert len(by_owner[-1]) == 8 * sum(part.size for part in WEIGHTS)
    by_clinic = [payload for kind, payload in heard["clinic", "owner"] if kind == DATA]
    assert by_clinic[-1] == encode(Go())
    assert by_clinic[-2] == b""


def test_a_second_clinic_is_refused_while_one_tunes_and_after(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (tuning, dealing, desk):
        monkeypatch.setattr(module, "STEP_SECONDS", SOON)
    begun, go_on = threading.Event(), threading.Event()
    honest = tuning.tune_as_data_owner

    def slow(*arguments: Any) -> Any:
        begun.set()
        assert go_on.wait(SOON)
        return honest(*arguments)

    monkeypatch.setattr(tuning, "tune_as_data_owner", slow)
    with place.roles.standing("dealer", place.dealer()), place.roles.standing("owner", place.desk()):
        first = threading.Thread(target=place.give)
        first.start()
        assert begun.wait(SOON)
        with pytest.raises(MaterialError, match="being tuned with another clinic"):
            place.give("other")
        go_on.set()
        first.join(SOON)
        with pytest.raises(MaterialError, match="were tuned with another clinic"):
            place.give("other")
    assert len(place.kept) == 1


def test_what_does_not_fit_is_refused_and_the_owner_stays_ready(place: Place) -> None:
    with place.roles.standing("dealer", place.dealer()), place.roles.standing("owner", place.desk()):
        with pytest.raises(MaterialError, match="from 20 to 4,096 images"):
            place.give(features=FEATURES[:10], labels=LABELS[:10])
        with pytest.raises(PlanError, match="another model"):
            place.give(frozen="cd" * 32)
        with pytest.raises(PlanError, match="says to tune 2 layers"):
            place.give(layers=1)
        with pytest.raises(PlanError, match="6 features of 30 images"):
            place.give(features=FEATURES[:, :5])
        with pytest.raises(EncodingError, match="3 images are beyond 64"):
            place.give(features=np.where(np.arange(30)[:, None] < 3, 100.0, FEATURES))
        with pytest.raises(EncodingError, match="labels"):
            place.give(labels=LABELS * 2)
        assert place.kept == []
        place.give()
    assert len(place.kept) == 1


def test_a_clinic_takes_no_tuning_whose_dealer_is_hardly_checked(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = TuningOffer.plan
    monkeypatch.setattr(TuningOffer, "plan", lambda offer, images: replace(honest(offer, images), sacrificed=5))
    with place.roles.standing("owner", place.desk()), pytest.raises(PlanError, match="5 steps to check the dealer"):
        place.give()


def test_weights_that_ran_away_are_told_to_the_owner_alone(place: Place) -> None:
    answers = place.desk(TuningOffer(WEIGHTS, STEPS, 100.0, 0.01, FROZEN))
    with place.roles.standing("dealer", place.dealer()), place.roles.standing("owner", answers):
        assert place.give() == STEPS
    assert place.kept == []
    assert answers.failed is not None
    assert "smaller rate" in answers.failed
    assert place.stop.is_set()


def test_a_dealer_that_spoils_its_material_is_found_out_by_both(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = dealing.deal_tuning

    def spoiling(*arguments: Any) -> Any:
        *seeds, steps = honest(*arguments)
        return *seeds, (bytes([step[0] ^ 1]) + step[1:] for step in steps)

    with place.roles.standing("dealer", place.dealer()), place.roles.standing("owner", place.desk()):
        with monkeypatch.context() as patch:
            patch.setattr(dealing, "deal_tuning", spoiling)
            with pytest.raises(MaterialError, match="does not fit together"):
                place.give()
        wait_for(lambda: any("does not fit together" in line for line in place.roles.said))
        assert place.kept == []
        place.give()


def test_a_half_is_handed_out_once_and_to_its_clinic_alone(place: Place) -> None:
    plan = OFFER.plan(30)
    roles, folder = place.roles, place.roles.folder / "spool"
    with roles.standing("dealer", place.dealer()):
        name, _, _ = dealing.order_tuning(roles.keys("owner"), roles.roster, "clinic", plan, folder)
        with pytest.raises(MaterialError, match="never dealt"):
            fetch_tuning(roles.keys("other"), roles.roster, "owner", name, plan)
        fetch_tuning(roles.keys("clinic"), roles.roster, "owner", name, plan)
        with pytest.raises(MaterialError, match="handed out before"):
            fetch_tuning(roles.keys("clinic"), roles.roster, "owner", name, plan)
        for folder in (roles.folder / "c", roles.folder / "d"):
            dealing.order_tuning(roles.keys("owner"), roles.roster, "clinic", plan, folder)
        assert len(list(roles.state("dealer").rglob("*.seed"))) == 1, "a half that nobody fetched goes with the next"
        with pytest.raises(MaterialError, match="no clinic"):
            dealing.order_tuning(roles.keys("owner"), roles.roster, "nobody", plan, folder.with_name("b"))
        with pytest.raises(MaterialError, match="no owner"):
            fetch_tuning(roles.keys("clinic"), roles.roster, "nobody", name, plan)


class Left(Exception):
    """The peer's process is gone."""


def leave(channel: Channel) -> None:
    channel.close()
    raise Left


def stall(channel: Channel) -> None:  # noqa: ARG001 - as the others
    time.sleep(2 * STEP)
    raise Left


def babble(channel: Channel) -> None:
    channel.send(DATA, b"\x00nonsense" * 3, Deadline(STEP))
    time.sleep(STEP / 3)
    raise Left


HOW: dict[str, Callable[[Channel], None]] = {"leaves": leave, "stalls": stall, "babbles": babble}


def faulty(at: int, how: str) -> type[Pair]:
    class Faulty(Pair):
        def exchange(self, payload: bytes) -> list[bytes]:
            if self.rounds == at:
                HOW[how](self._channel)
            return super().exchange(payload)

    return Faulty


FAULTS = [(0, "leaves"), (2, "babbles"), (14, "stalls"), (16, "leaves"), (25, "babbles"), (60, "leaves")]


@pytest.mark.parametrize(("at", "how"), FAULTS)
@pytest.mark.parametrize("who", ["clinic", "owner"])
def test_whoever_fails_in_an_exchange_ends_this_tuning_and_the_next_one_succeeds(
    place: Place, monkeypatch: pytest.MonkeyPatch, who: str, at: int, how: str
) -> None:
    honest, bad = tuning.Pair, faulty(at, how)

    def pair(channel: Channel, rank: int, timeout: float) -> Pair:
        return (bad if rank == ("owner", "clinic").index(who) else honest)(channel, rank, timeout)

    with place.roles.standing("dealer", place.dealer()), place.roles.standing("owner", place.desk()):
        with monkeypatch.context() as patch:
            patch.setattr(tuning, "Pair", pair)
            started = time.monotonic()
            with pytest.raises(Left if who == "clinic" else MpcError):
                place.give()
            # The next is refused until the owner has noticed, which takes a step at most.
            wait_for(lambda: any(line.startswith("clinic: ") and "asked for" not in line for line in place.roles.said))
            assert time.monotonic() - started < SOON
        assert place.kept == []
        assert not place.stop.is_set()
        wait_for(lambda: given(place))
    assert len(place.kept) == 1


def given(place: Place) -> bool:
    try:
        place.give()
    except MaterialError:
        return False
    return True


def wait_for(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + SOON
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.05)


def connected(place: Place, name: str, to: str) -> Channel:
    peer = next(member for member in place.roles.roster.members if member.name == to)
    return greeted(place.roles.keys(name), peer, hello(PURPOSE, place.roles.roster), Deadline(STEP))


PLAN = OFFER.plan(30).to_json()


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{}",
        encode(AskCard()),
        encode(Go()),
        b'{"kind": "AskTuning"}',
        b'{"kind": "AskTuning", "images": "30"}',
        b'{"kind": "AskTuning", "images": -1}',
        b'{"kind": "AskTuning", "images": 30, "more": 1}',
        encode(TuningTerms(PLAN, FROZEN)),
    ],
    ids=range(9),
)
def test_a_message_that_has_no_place_ends_the_connection(place: Place, payload: bytes) -> None:
    with place.roles.standing("owner", place.desk()):
        channel = connected(place, "clinic", "owner")
        channel.send(DATA, payload, Deadline(STEP))
        with pytest.raises(SessionAborted, match=r"gave up|closed"):
            hear(channel, Go, Deadline(SOON))
        channel.close()


@pytest.mark.parametrize("plan", ["", "{}", PLAN.replace("[6, 4, 1]", "[6, 100000, 1]"), PLAN.replace("30", "3e9")])
def test_a_plan_that_cannot_be_is_refused_by_the_dealer(place: Place, plan: str) -> None:
    assert plan != PLAN
    with place.roles.standing("dealer", place.dealer()):
        channel = connected(place, "owner", "dealer")
        tell(channel, AskTuningDeal("clinic", plan), Deadline(STEP))
        with pytest.raises(MaterialError):
            hear(channel, Go, Deadline(STEP))
        channel.close()


@pytest.mark.parametrize("lie", ["seed", "short", "early"])
def test_a_dealer_that_says_something_else_leaves_the_owner_with_an_error(place: Place, lie: str) -> None:
    class Liar:
        def answer(self, channel: Channel, message: Any) -> None:  # noqa: ARG002 - as a desk's
            tell(channel, Go(), Deadline(STEP))
            if lie == "early":
                tell(channel, TuningDealt("0" * 32), Deadline(STEP))
            channel.send(DATA, bytes(31 if lie == "seed" else 32), Deadline(STEP))
            raise SessionAborted("enough")

    liar: Any = Liar()
    roles = place.roles
    with roles.standing("dealer", liar), pytest.raises((SessionAborted, MaterialError)):
        dealing.order_tuning(roles.keys("owner"), roles.roster, "clinic", OFFER.plan(30), roles.folder / "spool")


def test_the_plan_is_one_that_travels() -> None:
    assert TuningPlan.from_json(decode(encode(TuningTerms(PLAN, FROZEN)), "x").plan) == OFFER.plan(30)  # type: ignore[union-attr]
    assert isinstance(decode(encode(AskTuning(30)), "x"), AskTuning)
