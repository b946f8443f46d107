"""Partitions and splits: by patient, in full, the same for a seed, and refused where they cannot be had."""

from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from radiograph_samples import make_cohort

from nescient_fl.errors import UserError
from nescient_fl.radiographs.partition import Kind, PartitionRule, assign_sites, partition_summary
from nescient_fl.radiographs.splits import SPLITS, NotEnough, allot, split_patients
from nescient_fl.radiographs.table import patient_keys

KINDS: tuple[Kind, ...] = ("iid", "dirichlet", "quantity", "setting", "source")


def cohort_of(kind: str, patients: int = 300, seed: int = 0) -> pd.DataFrame:
    if kind == "source":
        parts = [make_cohort(patients, seed), make_cohort(patients // 3, seed + 1, source="other")]
        return pd.concat(parts, ignore_index=True)
    return make_cohort(patients, seed)


def check(cohort: pd.DataFrame, frame: pd.DataFrame, rule: PartitionRule) -> None:
    """All that must hold for every partition."""
    assert frame["image"].tolist() == cohort["image"].tolist()
    assert frame["patient"].tolist() == cohort["patient"].tolist()
    assert frame["site"].nunique() == rule.clients
    assert set(frame["split"]) == set(SPLITS)
    keys = patient_keys(cohort)
    places = frame[["site", "split"]].groupby(keys.to_numpy()).nunique()
    assert (places == 1).all(axis=None)
    both = cohort.assign(site=frame["site"].to_numpy(), split=frame["split"].to_numpy())
    targets = both.groupby(["site", "split"])["target"].agg(["min", "max"])
    assert len(targets) == rule.clients * len(SPLITS)
    assert (targets["min"] == 0).all()
    assert (targets["max"] == 1).all()
    sites = both.groupby("site")["target"].agg(["size", "sum"])
    assert (sites["size"] >= rule.minimum_images).all()
    assert (sites["sum"] >= rule.minimum_positives).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("clients", [3, 5])
def test_every_kind(kind: Kind, clients: int) -> None:
    cohort = cohort_of(kind)
    rule = PartitionRule(kind, clients, seed=3)
    frame = assign_sites(cohort, rule)
    check(cohort, frame, rule)
    pd.testing.assert_frame_equal(assign_sites(cohort, rule), frame)
    other = assign_sites(cohort, PartitionRule(kind, clients, seed=4))
    assert not other.equals(frame)
    # The order of the rows, and their index, say nothing.
    shuffled = cohort.sample(frac=1, random_state=1)
    again = assign_sites(shuffled, rule)
    pd.testing.assert_frame_equal(again.loc[cohort.index], frame)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(["iid", "quantity", "setting", "source"]),
    st.integers(1, 8),
    st.integers(20, 150),
    st.integers(0, 2**31),
)
def test_no_patient_is_ever_in_two_places(kind: Kind, clients: int, patients: int, seed: int) -> None:
    cohort = cohort_of(kind, patients, seed)
    try:
        rule = PartitionRule(kind, clients, seed=seed, minimum_images=5, minimum_positives=3)
        frame = assign_sites(cohort, rule)
    except UserError:
        return
    check(cohort, frame, rule)


@pytest.mark.parametrize("alpha", [0.3, 1.0, 100.0])
def test_dirichlet_skews_labels_more_the_smaller_alpha_is(alpha: float) -> None:
    cohort = make_cohort(600)
    rule = PartitionRule("dirichlet", 4, alpha, seed=5, minimum_images=20, minimum_positives=5)
    frame = assign_sites(cohort, rule)
    check(cohort, frame, rule)
    shares = cohort["target"].groupby(frame["site"]).mean()
    if alpha == 100.0:
        assert shares.std() < 0.05
    else:
        assert shares.std() > 0.05


def test_iid_sites_are_alike() -> None:
    cohort = make_cohort(600)
    both = cohort.assign(site=assign_sites(cohort, PartitionRule("iid", 6))["site"])
    patients = both.groupby("site")["patient"].nunique()
    assert patients.max() - patients.min() <= 1
    ill = both[both["target"] == 1].groupby("site")["patient"].nunique()
    assert ill.max() - ill.min() <= 1


def test_quantity_follows_the_power_law() -> None:
    cohort = make_cohort(1000)
    for alpha in (0.0, 1.0, 1.5):
        frame = assign_sites(cohort, PartitionRule("quantity", 4, alpha))
        patients = frame.groupby("site")["patient"].nunique().to_numpy()
        expected = np.arange(1, 5) ** -alpha
        assert patients == pytest.approx(1000 * expected / expected.sum(), abs=2)


def test_setting_follows_the_majority_of_a_patients_images() -> None:
    cohort = make_cohort(400)
    cohort["devices"] = (cohort["view"] == "AP") & (cohort["patient"].str[-1] < "5")
    frame = assign_sites(cohort, PartitionRule("setting", 3))
    assert sorted(frame["site"].unique()) == ["icu-1", "outpatient-1", "ward-1"]
    for patient, rows in cohort.groupby("patient"):
        ap = int((rows["view"] == "AP").sum())
        icu = int((rows["devices"] & (rows["view"] == "AP")).sum())
        counts = {"icu": icu, "ward": ap - icu, "outpatient": len(rows) - ap}
        site = frame["site"][frame["patient"] == patient].iloc[0].rsplit("-", 1)[0]
        assert counts[site] == max(counts.values()), patient


def test_more_sites_than_settings_go_where_the_patients_are() -> None:
    cohort = make_cohort(900)
    frame = assign_sites(cohort, PartitionRule("setting", 8))
    counts = Counter(site.rsplit("-", 1)[0] for site in frame["site"].unique())
    patients = frame.assign(setting=frame["site"].str.rsplit("-", n=1).str[0]).groupby("setting")["patient"].nunique()
    assert counts.total() == 8
    assert all(abs(counts[name] - 8 * share / 900) < 1 for name, share in patients.items())


def test_source_keeps_datasets_apart() -> None:
    cohort = cohort_of("source")
    frame = assign_sites(cohort, PartitionRule("source", 4))
    assert sorted(frame["site"].unique()) == ["made-1", "made-2", "made-3", "other-1"]
    assert (frame["site"].str.rsplit("-", n=1).str[0] == cohort["source"]).all()


def test_names_sort_in_the_order_of_numbers() -> None:
    rule = PartitionRule("iid", 12, minimum_images=1, minimum_positives=1)
    sites = sorted(assign_sites(make_cohort(600), rule)["site"].unique())
    assert sites == [f"site-{number:02d}" for number in range(1, 13)]


def test_equal_patient_ids_of_two_sources_are_two_patients() -> None:
    cohort = cohort_of("source", 90)
    frame = assign_sites(cohort, PartitionRule("iid", 2))
    check(cohort, frame, PartitionRule("iid", 2))
    shared = frame["patient"].isin(cohort["patient"][cohort["source"] == "other"])
    assert (frame[shared].groupby("patient")["site"].nunique() == 2).any()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"kind": "randomly"}, "--partition randomly is unknown"),
        ({"clients": 0}, "--clients 0"),
        ({"kind": "setting", "clients": 2}, "--clients 2 is too few"),
        ({"kind": "dirichlet", "alpha": 0.0}, "--alpha 0"),
        ({"alpha": -1.0}, "--alpha -1.0"),
        ({"alpha": float("inf")}, "--alpha inf"),
        ({"minimum_images": -1}, "cannot be negative"),
    ],
)
def test_bad_rules_are_refused(options: dict[str, object], says: str) -> None:
    with pytest.raises(UserError, match=says):
        PartitionRule(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "clients", "says"),
    [
        ("iid", 21, "--clients 21 is more than the 20 patients"),
        (
            "iid",
            5,
            r"site-\d would have \d+ images, \d+ of them positive; each site needs 40 and 8; use fewer",
        ),
        ("quantity", 4, "site-4 would have .* an --alpha below 1"),
        ("dirichlet", 5, "draws gave no better; use fewer --clients than 5, an --alpha above 0.5"),
        ("setting", 3, "would have .* or --partition iid"),
        ("source", 3, "--partition source needs two datasets"),
    ],
)
def test_too_little_data_names_the_site_and_the_option(kind: Kind, clients: int, says: str) -> None:
    with pytest.raises(UserError, match=says):
        assign_sites(make_cohort(20), PartitionRule(kind, clients))


def test_settings_that_a_dataset_does_not_have() -> None:
    cohort = make_cohort(200).assign(devices=False)
    with pytest.raises(UserError, match=r"no patient of the cohort is mostly icu \(AP with support devices"):
        assign_sites(cohort, PartitionRule("setting", 3))


def test_fewer_clients_than_datasets() -> None:
    with pytest.raises(UserError, match="has 2 datasets, so --clients 1 is too few"):
        assign_sites(cohort_of("source"), PartitionRule("source", 1))


def test_a_site_whose_positives_are_two_patients() -> None:
    cohort = make_cohort(60)
    cohort["target"] = cohort["patient"].isin(["patient00001", "patient00002"]).astype("int64")
    rule = PartitionRule("iid", 1, minimum_positives=1)
    with pytest.raises(UserError, match=r"site-1 has 2 patients with a positive image.*need one each.*use"):
        assign_sites(cohort, rule)


# --- splits


def test_splits_are_seventy_ten_twenty_and_stratified() -> None:
    cohort = make_cohort(1000)
    frame = assign_sites(cohort, PartitionRule("iid", 2))
    ill = cohort["target"].groupby(cohort["patient"]).max()
    patients = frame.groupby("patient")[["site", "split"]].first().assign(ill=ill)
    for _, members in patients.groupby(["site", "ill"]):
        shares = members["split"].value_counts(normalize=True)
        assert shares["train"] == pytest.approx(0.7, abs=0.01)
        assert shares["validation"] == pytest.approx(0.1, abs=0.01)
        assert shares["test"] == pytest.approx(0.2, abs=0.01)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)).filter(lambda pair: sum(pair) > 0), max_size=25),
    st.integers(0, 99),
)
def test_a_split_is_found_whenever_there_is_one_each(patients: list[tuple[int, int]], seed: int) -> None:
    """``patients`` holds (positive, negative) images of each."""
    table = pd.DataFrame(patients, columns=["positives", "negatives"], dtype="int64")
    table["images"] = table["positives"] + table["negatives"]
    with_positive = int((table["positives"] > 0).sum())
    with_negative = int((table["negatives"] > 0).sum())
    try:
        splits = split_patients(table, np.random.default_rng(seed))
    except NotEnough:
        assert with_positive < 3 or with_negative < 3
        return
    sums = table.groupby(splits)[["positives", "negatives"]].sum()
    assert set(sums.index) == set(SPLITS)
    assert (sums > 0).all(axis=None)


@given(st.integers(0, 10_000), st.lists(st.floats(0.01, 10), min_size=1, max_size=30))
def test_allot_is_whole_and_close(total: int, shares: list[float]) -> None:
    parts = allot(total, np.array(shares))
    assert parts.sum() == total
    assert (np.abs(parts - total * np.array(shares) / sum(shares)) <= 1 + 1e-6).all()


# --- the summary


def test_summary_counts() -> None:
    cohort = make_cohort(200)
    frame = assign_sites(cohort, PartitionRule("setting", 4))
    summary = partition_summary(cohort.assign(site=frame["site"], split=frame["split"]))
    assert summary["split"].tolist() == [*SPLITS, "all"] * 4
    assert summary["site"].tolist() == sorted(summary["site"])
    whole = summary[summary["split"] == "all"]
    assert whole["images"].sum() == len(cohort)
    assert whole["patients"].sum() == 200
    assert whole["positives"].sum() == cohort["target"].sum()
    assert whole["ap"].sum() == (cohort["view"] == "AP").sum()
    assert whole["devices"].sum() == cohort["devices"].sum()
    assert (summary["ap"] + summary["pa"] == summary["images"]).all()
    parts = summary[summary["split"] != "all"].groupby("site")[["images", "patients", "positives"]].sum()
    assert (parts == whole.set_index("site")[parts.columns]).all(axis=None)
