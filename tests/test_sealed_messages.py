"""Messages of a secure round come back as they were sent; anything else is an error that is meant."""

import contextlib
import json
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from nescient_fl.mpc.envelope import PartyCopy, SealedReport
from nescient_fl.mpc.errors import HeaderError, MpcError
from nescient_fl.mpc.sums import SumRequest, SumResult
from nescient_fl.mpc.terms import Terms
from nescient_fl.sealed_messages import (
    SEALED,
    SECURE,
    SHARED,
    SUM,
    SecureOrder,
    SharedMetrics,
    add_secure_order,
    opened_content,
    read_opened,
    read_refusal,
    read_sealed,
    read_secure_order,
    read_sum,
    refusal_content,
    sealed_content,
    sum_content,
)

TERMS = Terms(dimension=300, update_words=200, fraction_bits=12, clip=8.0, weight_max=512, minimum=3)
REPORT = SealedReport(b"header", (b"first", b"second"), b"signature")
VALIDATION = {"images": 7, "loss": 0.5, "auroc": None, "recall": 0.25}
METRICS = SharedMetrics("site-1", 40, 0.3, 0.9, VALIDATION, 1.5)
REQUEST = SumRequest("run", 3, "a" * 64, b"order", TERMS, "b" * 64)
COPIES = [PartyCopy(b"h%d" % n, (b"d" * 32, b"e" * 32), b"c%d" % n, b"s") for n in range(3)]
UNREADABLE = (KeyError, TypeError, ValueError, MpcError)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
VALUES = st.binary(max_size=40) | st.text(max_size=20) | st.integers(-(2**60), 2**60) | JSON.map(json.dumps)


def copied(content: RecordDict) -> RecordDict:
    return RecordDict({key: ConfigRecord(dict(record)) for key, record in content.config_records.items()})


def test_an_order_comes_back() -> None:
    order = SecureOrder("run", "r" * 64, TERMS)
    assert read_secure_order(add_secure_order(RecordDict(), order)) == order
    assert read_secure_order(RecordDict()) is None


@pytest.mark.parametrize("shared", [None, METRICS])
@pytest.mark.parametrize("envelopes", [2, 3])
def test_a_sealed_answer_comes_back(shared: SharedMetrics | None, envelopes: int) -> None:
    report = replace(REPORT, ciphertexts=tuple(b"e%d" % n for n in range(envelopes)))
    read, metrics = read_sealed(sealed_content(report, shared))
    for field in fields(SealedReport):
        assert getattr(read, field.name) == getattr(report, field.name)
    assert metrics == shared


def test_a_sealed_answer_says_nothing_but_header_envelopes_and_signature() -> None:
    content = sealed_content(REPORT, None)
    assert list(content) == [SEALED]
    assert set(content.config_records[SEALED]) == {"header", "signature", "envelope-0", "envelope-1"}


def test_a_question_comes_back() -> None:
    request, copies = read_sum(sum_content(REQUEST, COPIES))
    assert request == REQUEST
    assert copies == COPIES
    assert read_sum(sum_content(REQUEST, []))[1] == []


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=30), st.dictionaries(st.text(), st.text(), max_size=3))
def test_an_answer_comes_back(words: list[int], refused: dict[str, str]) -> None:
    sent = SumResult(np.array(words, np.int64), ("a", "b"), ("c",), refused, 0.25, 12, True)
    read = read_opened(opened_content(sent))
    np.testing.assert_array_equal(read.total, sent.total)
    assert replace(read, total=sent.total) == sent or (read.sites, read.refused) == (sent.sites, refused)


def test_a_refusal_comes_back_and_an_answer_is_none() -> None:
    assert read_refusal(refusal_content("QuorumError", "too few", None)) == ("QuorumError", "too few", None)
    assert read_refusal(refusal_content("SessionAborted", "gone", "party-2")) == ("SessionAborted", "gone", "party-2")
    assert read_refusal(RecordDict()) is None


MESSAGES: dict[str, tuple[RecordDict, Callable[[RecordDict], Any]]] = {
    "order": (add_secure_order(RecordDict(), SecureOrder("run", "r" * 64, TERMS)), read_secure_order),
    "sealed": (sealed_content(REPORT, METRICS), read_sealed),
    "question": (sum_content(REQUEST, COPIES), read_sum),
    "answer": (opened_content(SumResult(np.arange(5), ("a",), ())), read_opened),
}


@pytest.mark.parametrize("name", MESSAGES)
@given(data=st.data())
def test_a_changed_message_is_read_or_unreadable_and_nothing_else(name: str, data: st.DataObject) -> None:
    whole, read = MESSAGES[name]
    content = copied(whole)
    key = data.draw(st.sampled_from(sorted(content)))
    field = data.draw(st.sampled_from(sorted(content.config_records[key])))
    if data.draw(st.booleans()):
        del content.config_records[key][field]
    else:
        content.config_records[key][field] = data.draw(VALUES)
    with contextlib.suppress(*UNREADABLE):
        read(content)


@pytest.mark.parametrize("name", MESSAGES)
@pytest.mark.parametrize("text", ["[" * 100_000, "5", "[]", "null", '{"a": 1}', ""])
def test_json_of_another_kind_is_unreadable(name: str, text: str) -> None:
    whole, read = MESSAGES[name]
    content = copied(whole)
    for record in content.config_records.values():
        for field in {"json", "terms"} & set(record):
            record[field] = text
    with pytest.raises(UNREADABLE):
        read(content)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("run", 5),
        ("round", "3"),
        ("round", True),
        ("model", "A" * 64),
        ("model", "a" * 63),
        ("session", "b" * 65),
        ("session", "z" * 64),
        ("order", "order"),
    ],
)
def test_a_question_of_another_kind_is_refused(field: str, value: Any) -> None:
    with pytest.raises(HeaderError):
        replace(REQUEST, **{field: value})


def test_a_question_that_lacks_a_report_is_refused() -> None:
    for change in ({"reports": 4}, {"reports": 10**15}, {"reports": "many"}):
        content = sum_content(REQUEST, COPIES)
        content.config_records[SUM].update(change)
        with pytest.raises(HeaderError, match="cannot be read"):
            read_sum(content)


def test_an_order_without_terms_is_refused_by_the_site() -> None:
    content = add_secure_order(RecordDict(), SecureOrder("run", "r" * 64, TERMS))
    del content.config_records[SECURE]["terms"]
    with pytest.raises(HeaderError, match="has no 'terms'"):
        read_secure_order(content)


@pytest.mark.parametrize(
    "change",
    [
        {"site": 5},
        {"images": "40"},
        {"loss": "low"},
        {"seconds": [1]},
        {"validation": 5},
        {"validation": {}},
        {"validation": VALIDATION | {"patients": 3}},
        {"validation": VALIDATION | {"auroc": "good"}},
        {"more": 1},
    ],
    ids=str,
)
def test_shared_figures_of_another_kind_are_unreadable(change: dict[str, Any]) -> None:
    content = sealed_content(REPORT, METRICS)
    record = content.config_records[SHARED]
    record["json"] = json.dumps(json.loads(str(record["json"])) | change)
    with pytest.raises((TypeError, ValueError)):
        read_sealed(content)
