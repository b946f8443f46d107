"""What tuning shows, a dealer that spoils, material that is used twice, and a peer that fails in any exchange."""

import pickle
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from in_memory import InMemoryExchange, run_parties
from tuning_in_memory import Outcome, Site, made_up, tune

from nescient_fl.mpc.errors import MaterialError, SessionAborted
from nescient_fl.mpc.inference.fixed_point import from_wire
from nescient_fl.mpc.randomness import fresh_stream
from nescient_fl.mpc.tuning.material import Spool, TuningMaterial, deal_tuning
from nescient_fl.mpc.tuning.owners import tune_as_data_owner, tune_as_model_owner
from nescient_fl.mpc.tuning.plan import TuningPlan

PLAN = TuningPlan(images=20, sizes=(3, 2, 1), steps=1, rate=0.5, momentum=0.5, decay=0.01, sacrificed=1)
SITE = made_up((3, 2, 1), 20)
ROUNDS = 26
"""Exchanges of one step with one step given up: plans, coins, check, features, the step, and the opening."""


def test_every_exchange_is_within_the_range_that_these_tests_cover() -> None:
    assert [len(end.sent) for end in tune(PLAN, SITE).ends] == [ROUNDS, ROUNDS]


def chi_square(messages: list[bytes]) -> float:
    """Return how far the bytes are from uniform, in standard deviations of a chi-square of 255 degrees."""
    values = np.frombuffer(b"".join(messages), np.uint8)
    expected = len(values) / 256
    statistic = float(((np.bincount(values, minlength=256) - expected) ** 2 / expected).sum())
    return (statistic - 255) / np.sqrt(2 * 255)


@pytest.mark.parametrize("zeros", [True, False])
def test_all_that_travels_is_uniform_whatever_features_and_weights_are(zeros: bool) -> None:
    plan = TuningPlan(64, (64, 32, 1), 3, 0.5, 0.5, 0.01, 1)
    site = made_up(plan.sizes, 64)
    if zeros:
        weights = [np.zeros_like(part) for part in site.weights]
        site = Site(np.zeros_like(site.features), np.zeros(64), weights)
    outcome = tune(plan, site)
    for end in outcome.ends:
        # The first is the plan's digest, which is no secret.
        messages = end.sent[1:]
        assert sum(map(len, messages)) > 100_000
        assert chi_square(messages) < 6
        assert all(chi_square([message]) < 6 for message in messages if len(message) > 5000)


def test_the_check_of_what_travels_can_fail() -> None:
    assert chi_square([bytes(10_000)]) > 6
    assert chi_square([np.arange(1000).astype("<i8").tobytes()]) > 6


def test_the_data_owner_gets_nothing_at_the_end_and_the_model_owner_only_the_weights() -> None:
    outcome = tune(PLAN, SITE)
    owner, clinic = outcome.ends
    assert owner.sent[-1] == b""
    assert len(clinic.sent[-1]) == 8 * (2 * 4 + 1 * 3)
    assert outcome.counts[0].rounds == outcome.counts[1].rounds == len(owner.sent)
    assert outcome.counts[0].bytes_sent == outcome.counts[1].bytes_received == sum(map(len, owner.sent))


def test_the_features_are_shown_once_and_under_another_mask_in_each_session() -> None:
    plan = replace(PLAN, steps=4)
    shown = []
    for _ in range(2):
        clinic = tune(plan, SITE).ends[1]
        # Of one length are the features, the weights that go to the first layer never come from here.
        first = [message for message in clinic.sent if len(message) == 8 * 20 * 4]
        assert len(first) == 1
        shown.append(from_wire(first[0], (20, 4), 64))
    assert not (shown[0] == shown[1]).any()


def spoilt(corrections: bytes, at: int) -> bytes:
    changed = bytearray(corrections)
    changed[at] ^= 1
    return bytes(changed)


LENGTH = len(next(deal_tuning(PLAN, fresh_stream())[2]))


@pytest.mark.parametrize("at", [0, LENGTH // 5, LENGTH // 3, LENGTH // 2, LENGTH * 4 // 5, LENGTH - 1])
def test_a_dealer_whose_steps_are_all_wrong_is_found_out_whatever_it_spoils(at: int) -> None:
    seen: list[InMemoryExchange] = []

    def keeping(end: InMemoryExchange) -> InMemoryExchange:
        seen.append(end)
        return end

    with pytest.raises(MaterialError, match="does not fit together"):
        tune(PLAN, SITE, lambda _, step: spoilt(step, at), keeping)
    # Nothing that depends on a feature or weight was sent: plan, coins twice, seed and digest, verdict.
    assert all(len(end.sent) <= 5 and max(map(len, end.sent)) <= 64 for end in seen)


def test_both_parties_hear_of_a_bad_dealer() -> None:
    owners, clinics, steps = deal_tuning(PLAN, fresh_stream())
    pieces = {number: spoilt(step, 7) for number, step in enumerate(steps)}

    def party(end: InMemoryExchange) -> str:
        try:
            if end.rank == 0:
                tune_as_model_owner(end, SITE.weights, TuningMaterial(PLAN, owners, pieces))
            else:
                tune_as_data_owner(end, SITE.features, SITE.labels, TuningMaterial(PLAN, clinics, None))
        except MaterialError as error:
            return str(error)
        return ""

    first, second = run_parties(2, party)
    assert first == second != ""


def test_a_dealer_that_spoils_half_is_found_out_about_as_often_as_said() -> None:
    """Of 8 steps 4 are bad and 2 are given up: it passes with probability (4/8)(3/7) = 0.21."""
    plan, found = replace(PLAN, steps=6, sacrificed=2), 0
    for _ in range(60):
        try:
            tune(plan, SITE, lambda number, step: spoilt(step, 0) if number < 4 else step)
        except MaterialError:
            found += 1
    # 60 x 0.79 = 47; five standard deviations of 3.2.
    assert 31 <= found <= 60


def test_the_masks_of_other_features_are_found_out() -> None:
    """The dealer made products with another mask than the data owner's."""
    owners, clinics, steps = deal_tuning(PLAN, fresh_stream())
    pieces = dict(enumerate(steps))

    class Other(TuningMaterial):
        def features_mask(self) -> Any:
            return super().features_mask() + np.uint64(1)

    def party(end: InMemoryExchange) -> Any:
        if end.rank == 0:
            return tune_as_model_owner(end, SITE.weights, TuningMaterial(PLAN, owners, pieces))
        return tune_as_data_owner(end, SITE.features, SITE.labels, Other(PLAN, clinics, None))

    with pytest.raises(MaterialError, match="does not fit together"):
        run_parties(2, party)


@pytest.mark.parametrize("length", [0, 100, LENGTH - 1, LENGTH + 8])
def test_corrections_of_another_length_are_refused(length: int) -> None:
    plan = replace(PLAN, sacrificed=0)
    with pytest.raises(MaterialError, match=r"shorter|longer"):
        tune(plan, SITE, lambda _, step: (step + bytes(8))[:length])


def test_material_is_used_once_and_never_copied(tmp_path: Path) -> None:
    _, _, steps = deal_tuning(PLAN, fresh_stream())
    spool = Spool(tmp_path / "spool")
    for number, step in enumerate(steps):
        spool.add(number, step)
    assert stat.S_IMODE((tmp_path / "spool" / "step-0000.bin").stat().st_mode) == 0o600
    with pytest.raises(FileExistsError):
        spool.add(0, b"")
    material = TuningMaterial(PLAN, bytes(32), spool)
    assert len(material.open(0)[1]) == LENGTH
    assert not (tmp_path / "spool" / "step-0000.bin").exists()
    with pytest.raises(MaterialError, match="used before"):
        material.open(0)
    with pytest.raises(MaterialError, match="never dealt"):
        material.open(2)
    assert material.open(1)[0] != TuningMaterial(PLAN, bytes(32), {0: b""}).open(0)[0]
    with pytest.raises(MaterialError, match="not there"):
        TuningMaterial(PLAN, bytes(32), spool).open(0)
    with pytest.raises(TypeError, match="never copied"):
        pickle.dumps(material)
    assert "00" not in repr(material)
    with pytest.raises(MaterialError, match="another length"):
        TuningMaterial(PLAN, b"short", None)


def test_parties_with_different_plans_or_roles_do_not_begin() -> None:
    other = replace(PLAN, rate=0.25)

    def party(end: InMemoryExchange) -> Any:
        plan = PLAN if end.rank == 0 else other
        if end.rank == 0:
            return tune_as_model_owner(end, SITE.weights, TuningMaterial(plan, bytes(32), {}))
        return tune_as_data_owner(end, SITE.features, SITE.labels, TuningMaterial(plan, bytes(32), None))

    with pytest.raises(MaterialError, match="another plan"):
        run_parties(2, party)
    with pytest.raises(MaterialError, match="other party's"):
        run_parties(2, lambda end: tune_as_model_owner(end, SITE.weights, TuningMaterial(PLAN, bytes(32), None)))


class Misbehaving:
    """An end that sends something else in one exchange, or is gone in it."""

    parties = 2

    def __init__(self, end: InMemoryExchange, at: int, change: Any) -> None:
        self.rank, self._end, self._at, self._change = end.rank, end, at, change
        self._rounds = 0

    def exchange(self, payload: bytes) -> list[bytes]:
        self._rounds += 1
        if self._rounds == self._at + 1:
            payload = self._change(payload)
        answers = self._end.exchange(payload)
        answers[self.rank] = payload
        return answers


def gone(_: bytes) -> bytes:
    raise SessionAborted("the peer is gone", "peer")


CHANGES = {
    "longer": lambda payload: payload + b"x",
    "cut": lambda payload: payload[:-1] if payload else b"xyz",
    "gone": gone,
}


@pytest.mark.parametrize("how", CHANGES)
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("at", range(ROUNDS))
def test_a_peer_that_fails_in_any_exchange_leaves_a_typed_error_and_no_result(at: int, rank: int, how: str) -> None:
    results: list[Outcome] = []

    def wrap(end: InMemoryExchange) -> Any:
        return Misbehaving(end, at, CHANGES[how]) if end.rank == rank else end

    with pytest.raises((SessionAborted, MaterialError)):
        results.append(tune(PLAN, SITE, wrap=wrap))
    assert results == []
