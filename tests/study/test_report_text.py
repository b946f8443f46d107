"""The summary of a study in words: never more than the figures say."""

from typing import Any

import pytest

from nescient_fl.study.report_values import Interval, duration, number, read_interval, size, with_bounds
from nescient_fl.study.summary_text import (
    arm_sentences,
    data_sentence,
    federation_cost,
    headline,
    in_hundred,
    is_near_chance,
    local_gap,
    privacy_sentence,
    sites_sentence,
    summarise,
)

Ends = tuple[float | None, float | None, float | None]


def interval(ends: Ends) -> dict[str, float | None]:
    return dict(zip(("value", "low", "high"), ends, strict=True))


def arm(
    recall: Ends = (0.9, 0.85, 0.95),
    specificity: Ends = (0.7, 0.65, 0.75),
    auroc: Ends = (0.88, 0.85, 0.91),
) -> dict[str, Any]:
    return {
        "test": {"recall": interval(recall), "auroc": interval(auroc)},
        "operating_point": {"recall": interval(recall), "specificity": interval(specificity)},
        "confusion": {"operating_point": {"tp": 90, "fn": 10, "fp": 30, "tn": 70}},
    }


def study(**arms: Any) -> dict[str, Any]:
    data = {"synthetic": False, "test_images": 400, "test_patients": 150, "test_positives": 200}
    names = ("federated", "pooled", "local")
    return {
        "data": data,
        "arms": {name: arms.get(name) for name in names},
        "federation": {"aggregation": "plain"},
        "secure": None,
    }


def test_overlapping_intervals_cannot_be_told_apart() -> None:
    metrics = study(federated=arm((0.88, 0.83, 0.92)), pooled=arm((0.91, 0.87, 0.95)))
    text = federation_cost(metrics)
    assert "found 3 fewer lesions of 100" in text
    assert "intervals overlap, so this run cannot tell them apart" in text
    assert "do not overlap" not in text
    assert "found 88 of 100 lesions" in headline(metrics)
    assert "pooling found 91" in headline(metrics)
    assert "cannot tell them apart" in headline(metrics)


def test_a_clear_gap_is_called_one() -> None:
    metrics = study(
        federated=arm((0.60, 0.55, 0.65), (0.5, 0.45, 0.55), (0.70, 0.67, 0.73)),
        pooled=arm((0.90, 0.86, 0.94)),
    )
    text = federation_cost(metrics)
    assert "found 30 fewer lesions of 100" in text
    assert "raised 20 more false alarms in 100 images" in text
    assert "On lesions found, false alarms and AUROC the intervals do not overlap" in text
    assert "cannot tell" not in text


def test_a_gap_on_one_measure_only_is_told_by_measure() -> None:
    metrics = study(federated=arm(), pooled=arm(specificity=(0.9, 0.87, 0.93)))
    text = federation_cost(metrics)
    assert "On false alarms the intervals do not overlap" in text
    assert "On lesions found and AUROC the intervals overlap" in text


def test_equal_arms_are_called_equal() -> None:
    assert "found as many lesions" in federation_cost(study(federated=arm(), pooled=arm()))


def test_without_intervals_nothing_is_claimed() -> None:
    bare = arm((0.9, None, None), (0.7, None, None), (0.88, None, None))
    text = federation_cost(study(federated=bare, pooled=arm()))
    assert "there are no intervals" in text
    assert "overlap" not in text
    assert "95%" not in " ".join(arm_sentences(study(federated=bare), "federated"))


@pytest.mark.parametrize(
    ("auroc", "said"),
    [
        ((0.52, 0.47, 0.57), "includes 0.5"),
        ((0.62, 0.53, 0.71), "comes close to 0.5"),
        ((0.40, 0.35, 0.45), "worse than guessing"),
        ((0.52, None, None), "where guessing gives 0.5"),
    ],
)
def test_near_chance_is_called_near_chance(auroc: Ends, said: str) -> None:
    metrics = study(federated=arm((0.95, 0.92, 0.98), auroc=auroc), pooled=arm())
    text = " ".join(arm_sentences(metrics, "federated"))
    assert "near chance" in text
    assert said in text
    assert "raised blindly would find about 60 of 100 lesions" in text
    assert "near chance" in headline(metrics)
    assert "found 95" not in headline(metrics)
    assert "near chance" in federation_cost(metrics)


def test_a_skilled_arm_is_not_called_near_chance() -> None:
    text = " ".join(summarise(study(federated=arm(), pooled=arm(), local=arm())))
    assert "chance" not in text
    assert not is_near_chance(Interval(0.7, 0.55, 0.8))
    assert not is_near_chance(Interval())


def test_arms_that_did_not_run_are_named() -> None:
    metrics = study(federated=arm())
    text = " ".join(summarise(metrics))
    assert "The model trained on all data in one place is not part of this run." in text
    assert federation_cost(metrics) == local_gap(metrics) == ""
    assert "no pooled arm to compare with" in headline(metrics)
    assert "no federated arm" in headline(study(pooled=arm()))
    assert "no federated arm" in headline({})


def test_an_undefined_recall_is_said_to_be_undefined() -> None:
    empty = arm((None, None, None), auroc=(None, None, None))
    metrics = study(federated=empty, pooled=arm(), local=empty)
    assert "recall is undefined" in " ".join(arm_sentences(metrics, "federated"))
    assert "undefined" in headline(metrics)
    assert "undefined" in federation_cost(metrics)
    assert "None" not in " ".join([headline(metrics), *summarise(metrics)])
    assert "undefined" in headline(study(federated=arm(), pooled=empty))


def test_the_local_arm_is_an_average() -> None:
    assert arm_sentences(study(local=arm()), "local")[0].startswith(
        "A model trained by one site alone, on average, found 90 of 100 lesions (95% interval 85 to 95)"
    )


def test_synthetic_data_is_no_patient() -> None:
    metrics = study()
    assert "400 held-out images of 150 patients, 200 of them with a lesion" in data_sentence(metrics)
    assert "synthetic" not in data_sentence(metrics)
    metrics["data"]["synthetic"] = True
    assert "nothing about patients" in data_sentence(metrics)


def test_plain_aggregation_is_not_called_private() -> None:
    metrics = study(federated=arm())
    assert "coordinator could see each site's update" in privacy_sentence(metrics)
    assert "Secure aggregation is not part of this run" in privacy_sentence(metrics)
    assert "plain" not in privacy_sentence(metrics | {"secure": {"parties": 2}})
    assert privacy_sentence(metrics | {"federation": None}) == ""


def test_sites_that_gain_and_lose_are_counted() -> None:
    def rows(*values: float | None) -> dict[str, Any]:
        sites = [
            {"site": f"s{index}", "operating_point": {"recall": {"value": value}}} for index, value in enumerate(values)
        ]
        return {"sites": sites}

    metrics = study(local=rows(0.5, 0.9, 0.7, None), federated=rows(0.8, 0.8, 0.7, 0.9))
    assert "Of 3 sites with a recall under both, it rose at 1, fell at 1 and stayed at 1." in sites_sentence(metrics)
    assert sites_sentence(study(federated=rows(0.8))) == ""


def test_a_rounded_share_is_never_all_or_none_unless_it_is() -> None:
    assert [in_hundred(share) for share in (0.0, 0.001, 0.5, 0.999, 1.0)] == [0, 1, 50, 99, 100]


def test_numbers_are_written_for_people() -> None:
    assert read_interval(None) == Interval()
    assert read_interval({"value": float("nan"), "low": 0.1}) == Interval(None, 0.1, None)
    assert with_bounds(Interval(0.9, 0.8, 0.95), 2) == "0.90 (0.80\u20130.95)"
    assert with_bounds(Interval()) == "\u2013"
    assert [duration(s) for s in (0.44, 59, 754, 7380, None)] == [
        "0.4 s",
        "59 s",
        "12 min 34 s",
        "2 h 3 min",
        "\u2013",
    ]
    assert [size(b) for b in (12, 415_020, 3_000_000)] == ["12 B", "415.02 kB", "3.00 MB"]
    assert number(1200) == "1,200"
