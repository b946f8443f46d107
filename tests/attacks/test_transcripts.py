"""What passes the relay and reaches the parties says nothing of an update; and these tests would notice if it did."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from nescient_fl.attacks import distinguisher, relay_bytes
from nescient_fl.attacks.distinguisher import attack_transcripts, describe, guess
from nescient_fl.attacks.evidence import ALARM, better_than_chance, interval
from nescient_fl.attacks.federation import Federation, Passing
from nescient_fl.attacks.relay_bytes import attack_relay_bytes, matches, unexpected_fields
from nescient_fl.attacks.uniformity import attack_uniformity, byte_p_value, pair_p_value
from nescient_fl.attacks.victims import Scene
from nescient_fl.mpc.randomness import SecretStream
from nescient_fl.mpc.shares import Split, expand


def test_the_relay_reads_a_plain_round_and_nothing_of_a_secure_one(scene: Scene, federation: Federation) -> None:
    finding = attack_relay_bytes(scene, federation)
    assert finding.plain is not None
    assert finding.plain.figures["words"] > 100_000
    # Five sites' loss, accuracy, loss sum and count of images stand in the plain messages' text.
    assert len(finding.plain.figures["texts"]) == 20
    assert finding.secure.figures["words"] == 0
    assert finding.secure.figures["texts"] == []
    assert finding.secure.figures["unexpected"] == []
    assert finding.verdict == "held"
    # Order and answer of five sites; question and answer of two parties and the dealer.
    assert finding.secure.figures["messages"] == 16
    assert finding.secure.figures["bytes"] > 5 * 2 * 800_000


def test_a_field_that_is_not_on_the_list_is_found(scene: Scene, federation: Federation, monkeypatch: Any) -> None:
    def sealed(report: Any, shared: Any) -> RecordDict:  # noqa: ARG001
        content = original_content(report, None)
        content["extra"] = ConfigRecord({"images": 301})
        return content

    from nescient_fl.attacks import federation as made

    original_content = made.sealed_content
    monkeypatch.setattr(made, "sealed_content", sealed)
    finding = attack_relay_bytes(scene, federation)
    assert finding.verdict == "broken"
    assert "site-01 to relay: extra/images" in finding.secure.figures["unexpected"]


def test_an_update_that_leaks_into_a_header_or_an_envelope_is_found(
    scene: Scene, federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unmasked(ring: Any, parties: int) -> Split:
        return Split(tuple(bytes(32) for _ in range(parties - 1)), ring)

    class Unsealed:
        def encrypt(self, payload: bytes, public: Any, info: bytes) -> bytes:  # noqa: ARG002
            return bytes(32) + payload + bytes(16)

        def decrypt(self, data: bytes, private: Any, info: bytes) -> bytes:  # noqa: ARG002
            return data[32:-16]

    from nescient_fl.mpc import envelope

    monkeypatch.setattr("sites.sealing.split", unmasked)
    monkeypatch.setattr(envelope, "_SUITE", Unsealed())
    monkeypatch.setattr(envelope, "expand", lambda seed, count: np.zeros(count, np.int64))  # noqa: ARG005
    finding = attack_relay_bytes(scene, federation)
    assert finding.verdict == "broken"
    assert finding.secure.figures["words"] > 100_000


def test_a_header_says_nothing_that_the_relay_did_not_say_first() -> None:
    header = {
        "protocol": 1,
        "run": "r",
        "round": 6,
        "roster": "a" * 64,
        "model": "b" * 64,
        "site": "site-01",
        "parties": 2,
        "dimension": 10,
        "fraction_bits": 16,
        "minimum": 4,
        "report_id": "c" * 32,
    }
    expected: dict[str, object] = {key: header[key] for key in header if key not in ("site", "minimum", "report_id")}
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    message = Passing("site-01", "relay", RecordDict({"sealed": ConfigRecord({"header": text})}))
    assert list(relay_bytes._own_words(message, expected)) == []
    changed = text.replace(b'"dimension":10', b'"dimension":11')
    message = Passing("site-01", "relay", RecordDict({"sealed": ConfigRecord({"header": changed})}))
    assert list(relay_bytes._own_words(message, expected)) == [("site-01", "dimension")]


def test_envelopes_whose_size_tells_something_are_found() -> None:
    def sealed(size: int) -> Passing:
        return Passing("site-01", "relay", RecordDict({"sealed": ConfigRecord({"envelope-1": bytes(size)})}))

    assert relay_bytes._unequal_sizes([sealed(80), sealed(80)]) == []
    assert relay_bytes._unequal_sizes([sealed(80), sealed(88)]) == ["envelope-1 of 2 sizes"]


def test_a_party_may_only_say_what_belongs_to_the_sum() -> None:
    told = {"sites": [], "excluded": [], "refused": {}, "seconds": 1.0, "bytes": 2, "stored": False, "share": [1]}
    record = ConfigRecord({"json": json.dumps(told), "total": b""})
    assert unexpected_fields(Passing("party-1", "relay", RecordDict({"opened": record}))) == ["opened/json/share"]


@given(st.integers(0, 40), st.integers(1, 2**64 - 1))
def test_a_word_is_found_at_any_offset(offset: int, word: int) -> None:
    words = np.sort(np.array([word, 12345], np.uint64))
    data = bytes(offset) + word.to_bytes(8, "little") + bytes(9)
    assert matches(data, words) >= 1
    assert matches(bytes(60), words) == 0
    assert matches(b"short", words) == 0


def test_shares_and_envelopes_look_like_chance_and_updates_do_not(scene: Scene, federation: Federation) -> None:
    finding = attack_uniformity(scene, federation)
    assert finding.shown
    assert finding.verdict == "held"
    assert len(finding.secure.figures["p_values"]) == 6
    assert set(finding.secure.figures["repeated"].values()) == {0}


@pytest.mark.parametrize(
    "seed",
    [lambda: bytes(32), lambda: b"\x01" * 32],
    ids=["all zero", "always the same"],
)
def test_masks_used_twice_are_noticed(
    scene: Scene, federation: Federation, monkeypatch: pytest.MonkeyPatch, seed: Callable[[], bytes]
) -> None:
    monkeypatch.setattr("nescient_fl.mpc.shares.fresh_seed", seed)
    finding = attack_uniformity(scene, federation)
    assert finding.verdict == "broken"
    assert finding.secure.figures["repeated"]["party-1's share"] > 100_000


def test_chi_square_by_hand() -> None:
    even = bytes(range(256)) * 4
    assert byte_p_value(even) == 1.0
    # One byte only: chi-square is 255 times the length.
    assert byte_p_value(bytes(1000)) < 1e-300
    stream = SecretStream(b"\x07" * 32).take_bytes(1 << 20)
    assert byte_p_value(stream) > ALARM
    assert pair_p_value(stream) > ALARM
    # Bytes that are even by themselves but follow one another: pairs show it.
    assert pair_p_value(even * 512) < ALARM


def test_no_classifier_tells_two_updates_apart(
    scene: Scene, make: Callable[..., Federation], monkeypatch: pytest.MonkeyPatch
) -> None:
    widths: list[int] = []

    def watched(features: Any, labels: Any) -> distinguisher.Guesses:
        widths.append(features.shape[1])
        return guess(features, labels)

    monkeypatch.setattr(distinguisher, "guess", watched)
    finding = attack_transcripts(scene, make, transcripts=60)
    assert finding.plain is not None
    assert finding.plain.figures["right"] == 60
    assert finding.verdict == "held"
    assert set(finding.secure.figures["right"]) == {"the relay", "party-1", "party-2"}
    low, high = finding.secure.figures["interval"]
    # Plain words, the relay's envelopes, and each party's share with what it heard of each report in the session.
    plain, relay, *parties = widths
    assert plain == relay
    assert min(parties) >= 2 * relay
    assert low < max(finding.secure.figures["right"].values()) / 60 < high


def test_a_mask_that_is_too_short_is_told_apart(
    scene: Scene, make: Callable[..., Federation], monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(ring: Any, parties: int) -> Split:
        seeds = tuple(np.random.default_rng(int(abs(ring).sum())).bytes(32) for _ in range(parties - 1))
        masks = [expand(seed, len(ring)) & np.int64(2**10 - 1) for seed in seeds]
        return Split(seeds, ring - sum(masks))

    monkeypatch.setattr("sites.sealing.split", short)
    monkeypatch.setattr(
        "nescient_fl.mpc.envelope.expand", lambda seed, count: expand(seed, count) & np.int64(2**10 - 1)
    )
    finding = attack_transcripts(scene, make, transcripts=40)
    assert finding.verdict == "broken"
    assert finding.secure.figures["right"]["party-2"] == 40


def test_the_classifier_learns_what_there_is_to_learn() -> None:
    draw = np.random.default_rng(3)
    labels = draw.permutation(np.arange(200) % 2)
    noise = draw.normal(size=(200, 50))
    assert not guess(noise, labels).told_apart
    told = noise.copy()
    told[:, 7] += 3 * labels
    assert guess(told, labels).told_apart
    assert describe(np.zeros((3, 100), np.int64)).shape == (3, 64 * 64 + 256)


def test_chance_is_judged_by_its_exact_tail() -> None:
    # 17 of 17 coins: 2^-17 = 7.6e-6; 16 of 16: 1.5e-5.
    assert better_than_chance(17, 17, 0.5)
    assert not better_than_chance(16, 16, 0.5)
    assert not better_than_chance(0, 10, 0.5)
    low, high = interval(0, 10)
    assert low == 0.0
    # 0 of 10: the upper end p solves (1 - p)^10 = 0.0005.
    assert (1 - high) ** 10 == pytest.approx(0.0005)
    assert distinguisher.Guesses(17, 17).told_apart
