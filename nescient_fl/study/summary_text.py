"""What a study found, in sentences that a clinician can read, written from ``metrics.json`` alone.

The wording never says more than the figures do. Recall and false alarms are told at the operating point, in
whole images out of 100. Two arms are only said to differ when their 95% intervals do not overlap, and an arm
whose AUROC cannot be told from guessing is called near chance whatever its recall is.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from nescient_fl.study.report_values import (
    ARMS,
    NEAR_CHANCE,
    ArmName,
    Interval,
    fixed,
    read_arm,
    read_interval,
    real,
    score,
    section,
    with_bounds,
)

SUBJECT: dict[ArmName, str] = {
    "federated": "The federated model",
    "pooled": "The model trained on all data in one place",
    "local": "A model trained by one site alone",
}


def headline(metrics: Mapping[str, Any]) -> str:
    """Return the answer in one or two sentences: what federation found, and what it cost against pooling."""
    federated, pooled = read_arm(metrics, "federated"), read_arm(metrics, "pooled")
    if federated is None:
        return "This run has no federated arm, so it says nothing about what federation costs."
    if is_near_chance(score(federated, "half", "auroc")):
        ranks = [score(arm, "half", "auroc") for arm in (federated, pooled)]
        auroc = with_bounds(ranks[0], 2)
        text = f"The federated model is near chance, AUROC {auroc}: nothing here shows that it finds lesions."
        return text + (f" Pooling reached AUROC {with_bounds(ranks[1], 2)}." if ranks[1].known else "")
    recall, alarms = _at_operating_point(federated)
    if recall.value is None:
        return "Recall is undefined in this run, so it cannot say what federation costs."
    found = f"Federation found {in_hundred(recall.value)} of 100 lesions"
    if alarms.value is not None:
        found += f" with {in_hundred(alarms.value)} false alarms in 100 images without one"
    if pooled is None:
        return f"{found}. This run has no pooled arm to compare with."
    pairs = _pairs(federated, pooled)
    if "lesions found" not in pairs:
        return f"{found}. The pooled arm's recall is undefined, so there is nothing to compare."
    found += f"; pooling found {in_hundred(pairs['lesions found'][1].value or 0.0)}"
    if "false alarms" in pairs:
        found += f" with {in_hundred(pairs['false alarms'][1].value or 0.0)}"
    if "AUROC" in pairs:
        found += f". AUROC was {fixed(pairs['AUROC'][0].value)} against {fixed(pairs['AUROC'][1].value)}"
    return f"{found}. {_verdict(pairs)}"


def summarise(metrics: Mapping[str, Any]) -> list[str]:
    """Return the rest of the summary, a sentence or two an item, in reading order."""
    sentences = [data_sentence(metrics)]
    for name in ARMS:
        sentences.append(" ".join(arm_sentences(metrics, name)))
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
    images, lesions, patients = (real(data.get(key)) for key in ("test_images", "test_positives", "test_patients"))
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
    recall, alarms = _at_operating_point(arm)
    if recall.value is None:
        sentence = (
            f"{SUBJECT[name]} has no recall to report: recall is undefined without a lesion to find"
            " or a threshold to judge by."
        )
    else:
        who = SUBJECT[name] + (", on average," if name == "local" else "")
        sentence = f"{who} found {in_hundred(recall.value)} of 100 lesions{_between(recall)}"
        if alarms.value is not None:
            sentence += f" and raised a false alarm on {in_hundred(alarms.value)} of 100 images without one"
            sentence += _between(alarms)
        sentence += "."
    untrained = name == "federated" and real(section(metrics, "federation").get("best_round")) == 0
    note = ["No round was better on validation than the weights it began with: this is the untrained model."]
    return [sentence, *(note if untrained else []), *_chance_sentence(arm)]


def _at_operating_point(arm: Mapping[str, Any]) -> tuple[Interval, Interval]:
    """Return recall and false-alarm rate at the operating point."""
    specificity = score(arm, "operating_point", "specificity")
    return score(arm, "operating_point", "recall"), specificity.complement()


def _between(interval: Interval) -> str:
    if interval.bounds is None:
        return ""
    return f" (95% interval {in_hundred(interval.bounds[0])} to {in_hundred(interval.bounds[1])})"


def _chance_sentence(arm: Mapping[str, Any]) -> list[str]:
    """Return the warning that an arm is near chance, with what guessing would have found; or nothing."""
    auroc = score(arm, "half", "auroc")
    if not is_near_chance(auroc) or auroc.value is None:
        return []
    text = f"It is near chance: its AUROC is {fixed(auroc.value, 2)}"
    if auroc.bounds is None:
        text += ", where guessing gives 0.5."
    else:
        low, high = auroc.bounds
        text += f" (95% interval {low:.2f} to {high:.2f}), "
        if low <= 0.5 <= high:
            text += "which includes 0.5, what guessing gives."
        elif high < 0.5:
            text += "worse than guessing, which gives 0.5."
        else:
            text += "which comes close to 0.5, what guessing gives."
    flagged = _flagged_share(arm)
    if flagged is None:
        return [text]
    return [f"{text} As many alarms raised blindly would find about {in_hundred(flagged)} of 100 lesions."]


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
    return _compare(metrics, "pooled", "pooling the data in one place")


def local_gap(metrics: Mapping[str, Any]) -> str:
    """Say what federation changed against training alone, and whether the run can tell."""
    return _compare(metrics, "local", "a site training alone")


def _compare(metrics: Mapping[str, Any], other: ArmName, against: str) -> str:
    """Set federation beside another arm: the gaps in figures, then which of them the run can tell."""
    federated, compared = read_arm(metrics, "federated"), read_arm(metrics, other)
    if federated is None or compared is None:
        return ""
    pairs = _pairs(federated, compared)
    if "lesions found" not in pairs:
        return f"Against {against}: recall is undefined here, so there is nothing to compare."
    gaps = [f"found {_gap(pairs['lesions found'], 'lesions')} of 100"]
    if "false alarms" in pairs:
        gaps.append(f"raised {_gap(pairs['false alarms'], 'false alarms')} in 100 images without one")
    if "AUROC" in pairs:
        one, two = pairs["AUROC"]
        gaps.append(f"had an AUROC of {fixed(one.value)} against {fixed(two.value)}")
    text = f"Against {against}, federation {_listed(gaps)}. {_verdict(pairs)}"
    near = [is_near_chance(score(arm, "half", "auroc")) for arm in (federated, compared)]
    if any(near):
        who = "Both are" if all(near) else "One of the two is"
        text += f" {who} near chance, so the comparison of their recall says little."
    return text


Pairs = dict[str, tuple[Interval, Interval]]


def _pairs(one: Mapping[str, Any], other: Mapping[str, Any]) -> Pairs:
    """Return the measures that both arms have."""
    recalls, alarms = zip(_at_operating_point(one), _at_operating_point(other), strict=True)
    ranks = score(one, "half", "auroc"), score(other, "half", "auroc")
    pairs = {"lesions found": recalls, "false alarms": alarms, "AUROC": ranks}
    return {name: pair for name, pair in pairs.items() if pair[0].known and pair[1].known}


def _gap(pair: tuple[Interval, Interval], what: str) -> str:
    """Return the difference of the whole numbers that the reader sees elsewhere."""
    gap = in_hundred(pair[0].value or 0.0) - in_hundred(pair[1].value or 0.0)
    return f"as many {what}" if gap == 0 else f"{abs(gap)} {'more' if gap > 0 else 'fewer'} {what}"


def _verdict(pairs: Pairs) -> str:
    """Say on which measures the run can tell two arms apart: where their intervals do not overlap."""
    groups: dict[bool | None, list[str]] = {True: [], False: [], None: []}
    for name, (one, other) in pairs.items():
        groups[one.overlaps(other)].append(name)
    together, apart, unknown = groups[True], groups[False], groups[None]
    if together and not apart and not unknown:
        where = "On each of these the" if len(together) > 1 else "The"
        return f"{where} intervals overlap, so this run cannot tell them apart."
    sentences = []
    if apart:
        sentences.append(
            f"On {_listed(apart)} the intervals do not overlap: the gap is more than the choice of"
            " held-out patients explains."
        )
    if together:
        sentences.append(f"On {_listed(together)} the intervals overlap, so this run cannot tell them apart.")
    if unknown:
        sentences.append(
            f"On {_listed(unknown)} there are no intervals, so this run cannot say whether the gap is more than chance."
        )
    return " ".join(sentences)


def _listed(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def sites_sentence(metrics: Mapping[str, Any]) -> str:
    """Say at how many sites recall rose or fell between training alone and federation."""
    before = {row.get("site"): row for row in (read_arm(metrics, "local") or {}).get("sites") or []}
    after = {row.get("site"): row for row in (read_arm(metrics, "federated") or {}).get("sites") or []}
    gaps = []
    for name in before.keys() & after.keys():
        pair = [read_interval(section(rows[name], "operating_point").get("recall")) for rows in (before, after)]
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
