"""What a study found, in sentences that a clinician can read, written from ``metrics.json`` alone.

The wording never says more than the figures do. Recall and false alarms are told at the operating point, in
whole images out of 100. Two arms are only said to differ when their 95% intervals do not overlap, and an arm
whose AUROC cannot be told from guessing is called near chance whatever its recall is.
"""

from collections.abc import Mapping
from typing import Any

from nescient_fl.study.report_values import (
    ARMS,
    NEAR_CHANCE,
    ArmName,
    Interval,
    read_arm,
    read_interval,
    real,
    score,
    section,
)

SUBJECT: dict[ArmName, str] = {
    "federated": "The federated model",
    "pooled": "The model trained on all data in one place",
    "local": "A model trained by one site alone",
}


def summarise(metrics: Mapping[str, Any]) -> list[str]:
    """Return the summary, a sentence or two an item, in reading order."""
    sentences = [data_sentence(metrics)]
    for name in ARMS:
        sentences += arm_sentences(metrics, name)
    sentences += [federation_cost(metrics), local_gap(metrics), privacy_sentence(metrics)]
    return [sentence for sentence in sentences if sentence]


def in_hundred(share: float) -> int:
    """Return a share as images out of 100; never 0 or 100 unless it is exactly that."""
    rounded = round(100 * share)
    if rounded == 0 and share > 0:
        return 1
    return 99 if rounded == 100 and share < 1 else rounded


def is_near_chance(auroc: Interval) -> bool:
    """Say whether an AUROC cannot be told from guessing: its interval, or alone its value, is below 0.55."""
    if auroc.low is not None:
        return auroc.low < NEAR_CHANCE
    return auroc.value is not None and auroc.value < NEAR_CHANCE


def data_sentence(metrics: Mapping[str, Any]) -> str:
    """Say what was scored and, for a phantom, that no patient was."""
    data = section(metrics, "data")
    images, lesions, patients = (
        real(data.get(key)) for key in ("test_images", "test_positives", "test_patients")
    )
    scored = ""
    if images is not None and lesions is not None and patients is not None:
        scored = (
            f"Every model was scored on the same {images:,.0f} held-out images of {patients:,.0f} patients, "
            f"{lesions:,.0f} of them with a lesion."
        )
    if data.get("synthetic"):
        note = "All images are synthetic: these figures say how the method behaves, nothing about patients."
        return f"{scored} {note}".strip()
    return scored


def arm_sentences(metrics: Mapping[str, Any], name: ArmName) -> list[str]:
    """Say how many lesions one arm found and at what cost; that it did not run is said too."""
    arm = read_arm(metrics, name)
    if arm is None:
        return [f"{SUBJECT[name]} is not part of this run."]
    who = SUBJECT[name] + (", on average," if name == "local" else "")
    recall = score(arm, "operating_point", "recall")
    alarms = score(arm, "operating_point", "specificity").complement()
    where = ""
    if recall.value is None and alarms.value is None:
        recall, alarms = score(arm, "half", "recall"), score(arm, "half", "specificity").complement()
        where = " at threshold 0.5"
    if recall.value is None:
        sentence = (
            f"{SUBJECT[name]} has no recall to report: recall is undefined without a lesion to find"
            " or a threshold to judge by."
        )
    else:
        sentence = f"{who} found {_of_hundred(recall)} lesions{where}"
        sentence += "." if alarms.value is None else f" and raised a false alarm on {_healthy(alarms)}."
    return [sentence, *_chance_sentence(name, arm)]


def _of_hundred(interval: Interval) -> str:
    assert interval.value is not None
    return f"{in_hundred(interval.value)} of 100{_between(interval)}"


def _healthy(alarms: Interval) -> str:
    assert alarms.value is not None
    return f"{in_hundred(alarms.value)} of 100 images without one{_between(alarms)}"


def _between(interval: Interval) -> str:
    if interval.bounds is None:
        return ""
    return f" (95% interval {in_hundred(interval.bounds[0])} to {in_hundred(interval.bounds[1])})"


def _chance_sentence(name: ArmName, arm: Mapping[str, Any]) -> list[str]:
    """Return the warning that an arm is near chance, with what guessing would have found; or nothing."""
    auroc = score(arm, "half", "auroc")
    if not is_near_chance(auroc) or auroc.value is None:
        return []
    text = f"{SUBJECT[name]} is near chance: its AUROC is {auroc.value:.2f}"
    if auroc.bounds is not None:
        low, high = auroc.bounds
        text += f" (95% interval {low:.2f} to {high:.2f})"
        if low <= 0.5 <= high:
            text += ", and the interval includes 0.5, which is what guessing gives"
        elif high < 0.5:
            text += ", which is worse than guessing"
        else:
            text += ", and the interval comes close to 0.5, which is what guessing gives"
    else:
        text += ", and guessing gives 0.5"
    flagged = _flagged_share(arm)
    if flagged is None:
        return [text + "."]
    return [
        f"{text}. Raising as many alarms blindly would find about {in_hundred(flagged)} of 100 lesions,"
        " so its recall is no evidence of skill."
    ]


def _flagged_share(arm: Mapping[str, Any]) -> float | None:
    """Return the share of images that an arm raised an alarm on: what blind alarms would find."""
    counts = section(arm, "confusion", "operating_point")
    parts = [real(counts.get(key)) for key in ("tp", "fp", "tn", "fn")]
    known = [part for part in parts if part is not None]
    if len(known) < 4 or sum(known) == 0:
        return None
    return (known[0] + known[1]) / sum(known)


def federation_cost(metrics: Mapping[str, Any]) -> str:
    """Say what federation cost in recall against pooling, and whether the run can tell."""
    federated, pooled = read_arm(metrics, "federated"), read_arm(metrics, "pooled")
    if federated is None or pooled is None:
        return "What federation cost against pooling cannot be said: this run has no such comparison."
    return _compare(federated, pooled, "Federation", "pooling the data in one place")


def local_gap(metrics: Mapping[str, Any]) -> str:
    """Say what federation changed against training alone, and whether the run can tell."""
    federated, local = read_arm(metrics, "federated"), read_arm(metrics, "local")
    if federated is None or local is None:
        return ""
    return _compare(federated, local, "Federation", "a site training alone")


def _compare(one: Mapping[str, Any], other: Mapping[str, Any], who: str, against: str) -> str:
    recalls = [score(arm, "operating_point", "recall") for arm in (one, other)]
    if not (recalls[0].known and recalls[1].known):
        return f"Against {against}: recall is undefined here, so there is nothing to compare."
    difference = _difference(recalls[0], recalls[1], "lesions", "found")
    text = f"Against {against}, {who.lower()} {difference} of 100; {_verdict(recalls[0], recalls[1])}."
    alarms = [score(arm, "operating_point", "specificity").complement() for arm in (one, other)]
    if alarms[0].known and alarms[1].known:
        gap = _difference(alarms[0], alarms[1], "false alarms", "raised")
        text += f" It {gap} in 100 images without a lesion; {_verdict(alarms[0], alarms[1])}."
    ranks = [score(arm, "half", "auroc") for arm in (one, other)]
    if ranks[0].value is not None and ranks[1].value is not None:
        text += (
            f" Its AUROC was {ranks[0].value:.3f} against {ranks[1].value:.3f};"
            f" {_verdict(ranks[0], ranks[1])}."
        )
    if any(is_near_chance(rank) for rank in ranks):
        text += " With a model near chance among the two, the comparison says little."
    return text


def _difference(one: Interval, other: Interval, what: str, verb: str) -> str:
    assert one.value is not None
    assert other.value is not None
    gap = in_hundred(one.value) - in_hundred(other.value)
    if gap == 0:
        return f"{verb} as many {what}"
    return f"{verb} {abs(gap)} {'more' if gap > 0 else 'fewer'} {what}"


def _verdict(one: Interval, other: Interval) -> str:
    overlap = one.overlaps(other)
    if overlap is None:
        return "without both intervals this run cannot say whether that is more than chance"
    if overlap:
        return "the intervals overlap, so this run cannot tell them apart"
    return "the intervals do not overlap"


def sites_sentence(metrics: Mapping[str, Any]) -> str:
    """Say at how many sites recall rose or fell between training alone and federation."""
    before = {row.get("site"): row for row in (read_arm(metrics, "local") or {}).get("sites") or []}
    after = {row.get("site"): row for row in (read_arm(metrics, "federated") or {}).get("sites") or []}
    gaps = []
    for name in before.keys() & after.keys():
        pair = [
            read_interval(section(rows[name], "operating_point").get("recall")) for rows in (before, after)
        ]
        if pair[0].value is not None and pair[1].value is not None:
            gaps.append(pair[1].value - pair[0].value)
    if not gaps:
        return ""
    up, down = sum(gap > 1e-9 for gap in gaps), sum(gap < -1e-9 for gap in gaps)
    return (
        f"Of {len(gaps)} {'site' if len(gaps) == 1 else 'sites'} with a recall under both, it rose at {up},"
        f" fell at {down} and stayed at {len(gaps) - up - down}. A site holds few lesions out, so a site's"
        " own figures move a lot by chance."
    )


def privacy_sentence(metrics: Mapping[str, Any]) -> str:
    """Say who could see what in this run."""
    if metrics.get("secure"):
        return "Updates were aggregated securely; the figures are under Privacy below."
    if section(metrics, "federation").get("aggregation") == "plain":
        return (
            "In federation no image leaves a site. Aggregation was plain here: the coordinator could see"
            " each site's update. Secure aggregation is not part of this run."
        )
    return ""
