"""Cohort rules, on small tables where every answer can be counted by hand, and as properties."""

from typing import Literal

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from radiograph_samples import make_table

from nescient_fl.errors import UserError
from nescient_fl.radiographs.cohort import CohortRule, Uncertain, select_cohort
from nescient_fl.radiographs.table import patient_keys


def labelled(*patients: str, source: str = "made") -> pd.DataFrame:
    """A patient for each text, an image for each letter: Positive, Negated, Uncertain, Blank."""
    names = {"P": "positive", "N": "negated", "U": "uncertain", "B": "unmentioned"}
    rows = [
        {"image": f"{number}/{place}.jpg", "patient": str(number), "label": names[letter]}
        for number, letters in enumerate(patients)
        for place, letter in enumerate(letters)
    ]
    rest = {"study": "1", "view": "AP", "sex": "F", "age": 50, "devices": False, "source": source}
    return pd.DataFrame(rows).assign(**rest)


def chosen(table: pd.DataFrame, **options: object) -> dict[str, int]:
    cohort = select_cohort(table, CohortRule(**options))  # type: ignore[arg-type]
    return dict(zip(cohort.table["image"], cohort.table["target"], strict=True))


def test_blanks_of_a_patient_with_a_positive_image_are_no_negatives() -> None:
    table = labelled("PB", "P", "B", "B")
    assert chosen(table) == {"0/0.jpg": 1, "1/0.jpg": 1, "2/0.jpg": 0, "3/0.jpg": 0}


def test_all_negated_are_taken_whatever_the_balance() -> None:
    table = labelled("PN", "N", "N", "B")
    assert chosen(table) == {"0/0.jpg": 1, "0/1.jpg": 0, "1/0.jpg": 0, "2/0.jpg": 0}


def test_balance_counts_all_negatives() -> None:
    table = labelled("P", "P", "N", *["B"] * 20)
    assert sum(1 - target for target in chosen(table, balance=2.5).values()) == 5
    assert sum(1 - target for target in chosen(table, balance=0.0).values()) == 1


def test_too_few_blanks_are_all_taken_and_said() -> None:
    cohort = select_cohort(labelled("P", "P", "P", "B", "B"), CohortRule())
    assert cohort.images == 5
    assert len(cohort.notes) == 1
    assert "3 unmentioned images were wanted" in cohort.notes[0]
    assert "2 are there" in cohort.notes[0]


@pytest.mark.parametrize(
    ("uncertain", "expected"),
    [
        # The last patient's blank goes out with its uncertain image, once that is a positive.
        ("exclude", {"0/0.jpg": 1, "1/0.jpg": 0}),
        ("positive", {"0/0.jpg": 1, "1/0.jpg": 0, "2/0.jpg": 1}),
        ("negative", {"0/0.jpg": 1, "1/0.jpg": 0, "2/0.jpg": 0}),
    ],
)
def test_uncertain(uncertain: Uncertain, expected: dict[str, int]) -> None:
    assert chosen(labelled("P", "N", "UB"), uncertain=uncertain) == expected


def test_the_papers_cohort_calls_uncertain_negative_and_balances() -> None:
    table = labelled("PB", "P", "P", "U", "N", "N", *["B"] * 9)
    cohort = select_cohort(table, CohortRule("paper"))
    assert cohort.table["label"].value_counts().to_dict() == {"positive": 3, "unmentioned": 2, "uncertain": 1}
    assert (cohort.table["target"] == (cohort.table["label"] == "positive")).all()
    assert cohort.dropped["negated, which the paper's cohort leaves out"] == 2


def test_each_source_is_balanced_by_itself() -> None:
    rich = labelled("P", "P", *["B"] * 50)
    poor = labelled("P", *["B"] * 5, source="other")
    table = select_cohort(pd.concat([rich, poor]), CohortRule()).table
    assert table.groupby("source")["target"].mean().to_dict() == {"made": 0.5, "other": 0.5}


def test_one_class_alone_is_refused() -> None:
    with pytest.raises(UserError, match=r"no positive image .labels found: unmentioned 2"):
        select_cohort(labelled("B", "B"), CohortRule())
    with pytest.raises(UserError, match="no negative image"):
        select_cohort(labelled("PB"), CohortRule())
    with pytest.raises(UserError, match="no rows at all"):
        select_cohort(labelled("P").head(0), CohortRule())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"rule": "papers"}, "--cohort papers"),
        ({"uncertain": "maybe"}, "--uncertain maybe"),
        ({"balance": -1.0}, "--balance -1.0"),
        ({"balance": float("nan")}, "--balance nan"),
        ({"rule": "paper", "uncertain": "positive"}, "leave --uncertain out"),
        ({"rule": "paper", "balance": 2.0}, "leave --balance out"),
    ],
)
def test_bad_rules_are_refused(options: dict[str, object], says: str) -> None:
    with pytest.raises(UserError, match=says):
        CohortRule(**options)  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.text("PNUB", min_size=1, max_size=4), min_size=1, max_size=30),
    st.sampled_from(["exclude", "positive", "negative"]),
    st.floats(0, 3),
    st.integers(0, 3),
)
def test_properties(
    patients: list[str], uncertain: Literal["exclude", "positive", "negative"], balance: float, seed: int
) -> None:
    table = labelled(*patients)
    rule = CohortRule(uncertain=uncertain, balance=balance, seed=seed)
    try:
        cohort = select_cohort(table, rule)
    except UserError:
        return
    shuffled = table.sample(frac=1, random_state=seed)
    pd.testing.assert_frame_equal(select_cohort(shuffled, rule).table, cohort.table)
    assert cohort.images + sum(cohort.dropped.values()) == len(table)
    found = cohort.table
    ill = set(found["patient"][found["target"] == 1])
    assert not ill & set(found["patient"][found["label"] == "unmentioned"])
    assert (found["target"][found["label"] == "positive"] == 1).all()
    assert (found["target"][found["label"].isin(["negated", "unmentioned"])] == 0).all()
    negatives, positives = cohort.images - cohort.positives, cohort.positives
    sure = (found["label"] == "negated").sum() + (uncertain == "negative") * (found["label"] == "uncertain").sum()
    asked = max(int(np.floor(balance * positives + 0.5)), sure)
    assert negatives == asked or (negatives < asked and cohort.notes)


def test_another_seed_chooses_other_blanks() -> None:
    table = make_table(400)
    first, again, other = (select_cohort(table, CohortRule(balance=0.5, seed=seed)).table for seed in (1, 1, 2))
    pd.testing.assert_frame_equal(first, again)
    assert len(first) == len(other)
    assert set(first["image"]) != set(other["image"])
    assert patient_keys(first).nunique() < 400
