"""Reading along: every byte that the relay handles in a secure round, searched for what a site must not show.

A whole round runs through the coordinator's own code. Then every message is compared with the list of fields that
may be there at all; what a site says in clear is compared with what the relay told it; and every word of every
site's update and figures is looked for, at every offset, in the encodings that it might have.
"""

import json
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch

import numpy as np
from numpy.typing import NDArray

from nescient_fl.attacks.evidence import Finding, Trial
from nescient_fl.attacks.federation import Federation, Passing
from nescient_fl.attacks.victims import Scene, descend
from nescient_fl.lesion.counts import ScoreCounts
from nescient_fl.lesion.network import weights_sha256
from nescient_fl.messages import SiteReport, order_json, report_content
from nescient_fl.mpc.envelope import ReportHeader
from nescient_fl.mpc.shares import encode
from nescient_fl.mpc.terms import Terms, binding
from nescient_fl.sealed_vector import clip_update, flatten, metric_words
from nescient_fl.seeds import numpy_generator
from sites.sealing import Answer

ALLOWED = {
    ("relay", "site"): ("arrays/*", "order/protocol", "order/json", "secure/run", "secure/roster", "secure/terms"),
    ("site", "relay"): ("sealed/header", "sealed/signature", "sealed/envelope-*"),
    ("relay", "party"): (
        *("sum/json", "sum/order", "sum/reports"),
        *("report-*/header", "report-*/digests", "report-*/envelope", "report-*/signature"),
    ),
    ("relay", "dealer"): ("sum/session",),
    ("party", "relay"): ("opened/json", "opened/total"),
    ("dealer", "relay"): (),
}
"""Record and field of everything that may pass, by the roles of sender and receiver."""

_OPENED = {"sites", "excluded", "refused", "seconds", "bytes", "stored"}
_CHOSEN = {"report_id", "minimum"}
"""Fields of a report's header that the site sets: sixteen random bytes, and its own quorum."""


def attack_relay_bytes(scene: Scene, federation: Federation) -> Finding:
    """Search a plain and a secure round's messages for what the sites trained and counted."""
    order = scene.order(6)
    clip = federation.plan.clip
    answers = {name: _answer(scene, name, place, clip) for place, name in enumerate(federation.sites)}
    terms = federation.plan.terms(scene.weights, True)
    before = len(federation.passed)
    federation.take_round(order, scene.weights, answers)
    passed = federation.passed[before:]
    plain = b"".join(
        Passing(name, "relay", report_content(answer.report, answer.counts, answer.update)).wire
        for name, answer in answers.items()
    )
    # The orders go out before a site has done anything, and hold the public model.
    answered = [message for message in passed if _role(message.receiver) != "site"]
    # The opened sum is meant to be read; nothing else of a party's answer is left out.
    searched = b"".join(message.wire for message in answered if "opened" not in message.content)
    told = b"".join(
        str(message.content["opened"]["json"]).encode() for message in answered if "opened" in message.content
    )
    words, texts = secret_words(list(answers.values()), terms), secret_texts(list(answers.values()))
    unexpected = [f"{m.sender} to {m.receiver}: {field}" for m in passed for field in unexpected_fields(m)]
    expected = _expected_headers(scene, federation, order_json(order).encode(), terms)
    unexpected += [f"{site}: {field} in its header" for m in passed for site, field in _own_words(m, expected)]
    unexpected += _unequal_sizes(passed)
    found = {"plain": (matches(plain, words), _present(plain, texts))}
    found["secure"] = (matches(searched + told, words), _present(searched + told, texts))
    total = sum(len(message.wire) for message in passed)
    return Finding(
        key="relay_bytes",
        title="Read along at the relay",
        saw=f"Every byte of the {len(passed)} messages of a round.",
        plain=Trial(
            found["plain"][0] > 0 and len(found["plain"][1]) > 0,
            f"{found['plain'][0]:,} words and {len(found['plain'][1])} figures found",
            f"{found['plain'][0]:,} words of updates and counts, and {len(found['plain'][1])} of the sites' figures.",
            {"words": found["plain"][0], "texts": found["plain"][1], "bytes": len(plain)},
        ),
        secure=Trial(
            found["secure"][0] > 0 or bool(found["secure"][1]) or bool(unexpected),
            f"{found['secure'][0]:,} words and {len(found['secure'][1])} figures found",
            f"{found['secure'][0]} of {len(words):,} words in {total / 1e6:.1f} MB, {len(found['secure'][1])} figures, "
            f"{len(unexpected)} fields beyond the {sum(len(fields) for fields in ALLOWED.values())} allowed.",
            {
                "words": found["secure"][0],
                "searched_for": len(words),
                "texts": found["secure"][1],
                "bytes": total,
                "messages": len(passed),
                "unexpected": unexpected,
            },
        ),
    )


def unexpected_fields(message: Passing) -> list[str]:
    """Return what a message holds beyond the list, as record/field."""
    allowed = ALLOWED[_role(message.sender), _role(message.receiver)]
    fields = [f"{record}/{name}" for record, values in message.content.items() for name in values]
    found = [field for field in fields if not any(fnmatch(field, pattern) for pattern in allowed)]
    if "opened" in message.content:
        told = json.loads(str(message.content["opened"]["json"]))
        found += [f"opened/json/{name}" for name in told if name not in _OPENED]
    return found


def secret_words(answers: Sequence[Answer], terms: Terms) -> NDArray[np.uint64]:
    """Return every 8 bytes that would show a word of an update or a count, sorted, uint64 read little-endian.

    Updates, as they are and times the weight: float64, fixed point, and two neighbouring float32; counts, losses
    and the weight as int64; all in both byte orders. Zero is no secret.
    """
    found = []
    for answer in answers:
        report = answer.report
        assert answer.update is not None
        own, weight = flatten(answer.update, 1), min(report.images, terms.weight_max)
        singles = own.astype(np.float32)
        for values in (own, own * weight):
            found += [values, encode(values, terms.fraction_bits)]
            narrow = values.astype(np.float32)
            found.append(np.stack([narrow[:-1], narrow[1:]], axis=1)[singles[:-1] != 0])
        figures = np.array([report.loss, report.accuracy, answer.counts.loss_sum])
        sums = (report.loss * weight, report.accuracy * weight)
        found += [metric_words(answer.counts, *sums, terms.weight_max), np.array([weight])]
        found += [figures, figures * weight]
    words = [np.frombuffer(order.tobytes(), "<u8") for array in found for order in (array, array.byteswap())]
    joined: NDArray[np.uint64] = np.unique(np.concatenate(words)).astype(np.uint64)
    secrets: NDArray[np.uint64] = joined[joined != 0]
    return secrets


def secret_texts(answers: Sequence[Answer]) -> list[bytes]:
    """Return what would show in JSON: losses, accuracies and counts of images, and an update's largest weight."""
    found = []
    for answer in answers:
        report = answer.report
        assert answer.update is not None
        values = [report.loss, report.accuracy, answer.counts.loss_sum, float(np.abs(flatten(answer.update, 1)).max())]
        found += [repr(value).encode() for value in values]
        found += [f'"images": {report.images},'.encode()]
    return found


def matches(data: bytes, words: NDArray[np.uint64]) -> int:
    """Count the places, at any offset, where ``data`` holds one of the sorted 8-byte words."""
    mask = np.uint64((1 << 24) - 1)
    candidates = np.zeros(1 << 24, np.bool_)
    candidates[words & mask] = True  # rules out most places without a search
    found = 0
    for offset in range(8):
        count = (len(data) - offset) // 8
        if count <= 0:
            continue
        window = np.frombuffer(data, "<u8", count, offset)
        likely = window[candidates[window & mask]]
        places = np.searchsorted(words, likely).clip(max=len(words) - 1)
        found += int((words[places] == likely).sum())
    return found


def _answer(scene: Scene, name: str, place: int, clip: float) -> Answer:
    """Return a site's answer with figures that nobody would meet by accident, and an update that clipping leaves."""
    draw = numpy_generator(scene.seed, "audited figures", name)
    counts = ScoreCounts(draw.poisson(3.0, 384), draw.poisson(4.0, 384), float(draw.uniform(100, 200)))
    report = SiteReport(name, 301 + 13 * place, float(draw.uniform(0.5, 0.8)), float(draw.uniform(0.5, 0.9)), 1.5)
    return Answer(report, counts, clip_update(descend(scene, [place], steps=3), clip))


def _present(data: bytes, texts: Sequence[bytes]) -> list[str]:
    return [text.decode() for text in texts if text in data]


def _role(name: str) -> str:
    return name.split("-")[0]


def _expected_headers(scene: Scene, federation: Federation, order: bytes, terms: Terms) -> dict[str, object]:
    """Return what the relay can write into a site's header by itself, but for the site's name."""
    return {
        "protocol": 1,
        "run": federation.plan.run,
        "round": 6,
        "roster": federation.roster.digest,
        "model": binding(weights_sha256(scene.weights), order, terms),
        "parties": len(federation.parties),
        "dimension": terms.dimension,
        "fraction_bits": terms.fraction_bits,
    }


def _unequal_sizes(passed: Sequence[Passing]) -> list[str]:
    """Return envelopes whose size differs from site to site: a size must not depend on what was trained."""
    sealed = [message.content["sealed"] for message in passed if "sealed" in message.content]
    sizes: dict[str, set[int]] = {}
    for record in sealed:
        for name, value in record.items():
            if isinstance(value, bytes) and name.startswith("envelope"):
                sizes.setdefault(name, set()).add(len(value))
    return [f"{name} of {len(found)} sizes" for name, found in sizes.items() if len(found) > 1]


def _own_words(message: Passing, expected: dict[str, object]) -> Iterator[tuple[str, str]]:
    """Yield each field of a site's header that the relay did not know before."""
    if "sealed" not in message.content:
        return
    data = message.content["sealed"]["header"]
    assert isinstance(data, bytes)
    header = json.loads(ReportHeader.from_bytes(data).to_bytes())
    for name, value in header.items():
        if name not in _CHOSEN and value != {**expected, "site": message.sender}.get(name):
            yield message.sender, name
