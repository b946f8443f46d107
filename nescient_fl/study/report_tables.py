"""The tables of a report, as rows of text that the template only has to lay out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nescient_fl.study.figures_arms import METRIC_NAMES, POINT_METRICS
from nescient_fl.study.report_sites import SPLITS, SiteContent
from nescient_fl.study.report_values import (
    ARMS,
    MISSING,
    ArmName,
    Json,
    Point,
    count,
    duration,
    figure,
    fixed,
    plain,
    read_arm,
    read_interval,
    real,
    score,
    section,
    size,
)

ARM_NOTES: dict[ArmName, str] = {
    "federated": "sites train together, images stay put",
    "pooled": "all data in one place",
    "local": "mean of the sites' own models",
}
LOCAL_ROW = "local (mean of the site models)"
REJECTED_SHOWN = 100
SITE_METRICS = (("operating_point", "recall"), ("operating_point", "specificity"), ("test", "auroc"))


Cell = str | tuple[str, str]  # a text, or a figure and its interval


@dataclass(frozen=True)
class Table:
    """One table: the first cell of every row names the row."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Confusion:
    """One confusion matrix, in images (for the local arm a mean, so not whole)."""

    where: str
    cells: dict[str, str]
    shares: dict[str, float]


def arm_table(metrics: Mapping[str, Any], point: Point) -> Table:
    """Return every arm's scores at one threshold."""
    ranks = ("auroc", "auprc") if point == "half" else ()
    names = [*POINT_METRICS, *ranks]
    rows: list[list[Cell]] = []
    for name in ARMS:
        arm = read_arm(metrics, name)
        title = LOCAL_ROW if name == "local" else name
        if arm is None:
            rows.append([title, "not run", *[MISSING] * (len(names) + (point != "half") - 1)])
            continue
        cells: list[Cell] = [figure(score(arm, point, metric)) for metric in names]
        if point != "half":
            cells.insert(0, threshold_text(name, arm))
        rows.append([title, *cells])
    head = ["Arm", *(["Threshold"] if point != "half" else []), *(METRIC_NAMES[name] for name in names)]
    where = "at threshold 0.5" if point == "half" else "at the operating point"
    return Table(f"Scores {where}, with 95% intervals", head, rows)


def threshold_text(name: ArmName, arm: Mapping[str, Any]) -> str:
    """Return an arm's operating threshold; every site's own model has its own."""
    threshold = real(section(arm, "operating_point").get("threshold"))
    if threshold is None:
        return "one a site" if name == "local" else MISSING
    return fixed(threshold)


def calibration_table(metrics: Mapping[str, Any]) -> Table:
    """Return how far each arm's scores are from probabilities."""
    arms = [(name, read_arm(metrics, name)) for name in ARMS]
    rows = [
        [name, *(figure(score(arm, "half", key)) for key in ("brier", "calibration_error"))]
        for name, arm in arms
        if arm is not None
    ]
    return Table("Scores as probabilities: lower is better", ["Arm", "Brier score", "Calibration error"], rows)


def confusions(metrics: Mapping[str, Any]) -> list[tuple[str, list[Confusion]]]:
    """Return each arm's two confusion matrices, where it has them."""
    found = []
    for name in ARMS:
        arm, pair = read_arm(metrics, name), []
        for part, where in (("operating_point", "operating point"), ("half", "threshold 0.5")):
            counts = section(arm, "confusion", part)
            cells = {key: real(counts.get(key)) for key in ("tp", "fn", "fp", "tn")}
            known = {key: value for key, value in cells.items() if value is not None}
            if len(known) < 4:
                continue
            lesions, others = known["tp"] + known["fn"], known["fp"] + known["tn"]
            shares = {
                key: value / ((lesions if key in ("tp", "fn") else others) or 1.0) for key, value in known.items()
            }
            texts = {key: count(round(value) if value >= 100 else value) for key, value in known.items()}
            pair.append(Confusion(where, texts, shares))
        if pair:
            found.append((LOCAL_ROW if name == "local" else name, pair))
    return found


def contents_table(contents: Sequence[SiteContent], metrics: Mapping[str, Any]) -> Table:
    """Return who got what, and whether the site answered."""
    federation = section(metrics, "federation")
    answered = {str(row.get("name")): row for row in federation.get("sites") or []}
    rows = []
    for site in contents:
        row = answered.get(site.name, {})
        failures = row.get("failures") or []
        rows.append(
            [
                site.name,
                count(site.images),
                f"{count(site.positives)} ({_percent(site.positives, site.images)})",
                count(site.patients),
                *(count(site.splits[split]) for split in SPLITS),
                _percent(site.views.get("AP", 0), site.images),
                _percent(site.devices, site.images),
                _percent(site.female, site.female + site.male),
                fixed(site.median_age, 0),
                _answered(row, federation),
                count(len(failures)) if row else MISSING,
            ]
        )
    head = ["Site", "Images", "With a lesion", "Patients", "Train", "Validation", "Test"]
    head += ["AP", "Devices", "Female", "Median age", "Rounds answered", "Failures"]
    return Table("What each site holds, in images", head, rows)


def _answered(row: Mapping[str, Any], federation: Mapping[str, Any]) -> str:
    answered, rounds = real(row.get("rounds_answered")), real(row.get("rounds_asked"))
    rounds = real(federation.get("rounds")) if rounds is None else rounds
    if answered is None:
        return MISSING
    return count(answered) if rounds is None else f"{count(answered)} of {count(rounds)}"


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.0f}%" if whole else MISSING


def sites_table(metrics: Mapping[str, Any], names: Sequence[str]) -> Table:
    """Return each site's scores by its own model and by the federated one, as far as they ran."""
    times: dict[ArmName, str] = {"local": "before", "federated": "after"}
    scored = {arm: {str(row.get("site")): row for row in _sites(metrics, arm)} for arm in times}
    ran = [arm for arm in times if scored[arm]]
    rows = []
    for name in names:
        either = next((scored[arm][name] for arm in ran if name in scored[arm]), {})
        cells: list[Cell] = [name, count(either.get("images")), count(either.get("positives"))]
        for part, metric in SITE_METRICS:
            for arm in ran:
                cells.append(figure(read_interval(section(scored[arm].get(name), part).get(metric)), 2))
        rows.append(cells)
    head = ["Site", "Test images", "With a lesion"]
    head += [f"{METRIC_NAMES[metric]} {times[arm]}" for _, metric in SITE_METRICS for arm in ran]
    caption = "Each site's own held-out patients, before (its own model) and after (the federated model)"
    return Table(caption, head, rows)


def _sites(metrics: Mapping[str, Any], arm: Any) -> list[Json]:
    return list((read_arm(metrics, arm) or {}).get("sites") or [])


def rounds_table(lines: Sequence[Mapping[str, Any]], clients: int) -> Table:
    """Return what happened in every round."""
    rows = []
    for line in lines:
        validation = section(line, "validation")
        failures = [f"{row.get('site')}: {row.get('reason')}" for row in line.get("failures") or []]
        rows.append(
            [
                count(line.get("round")),
                f"{len(line['sites'])} of {clients}" if line.get("sites") or failures else MISSING,
                "; ".join(failures) or "none",
                fixed(line.get("train_loss")),
                *(fixed(validation.get(key)) for key in ("loss", "auroc", "recall")),
                duration(line.get("seconds")),
            ]
        )
    head = ["Round", "Sites answered", "Failures", "Training loss"]
    head += ["Validation loss", "Validation AUROC", "Validation recall", "Time"]
    return Table("Every round of the federation", head, rows)


def time_table(metrics: Mapping[str, Any]) -> Table:
    """Return where the time went."""
    names = {
        "data": "Preparing the data",
        "federated": "Federated arm",
        "pooled": "Pooled arm",
        "local": "Local arm",
        "scoring": "Scoring",
        "first_round": "Until the first round was through",
        "total": "Whole run",
    }
    timing, rows = section(metrics, "timing"), []
    for key, title in names.items():
        known = real(timing.get(key))
        rows.append([title, "not part of this run" if known is None else duration(known)])
    each = real(section(metrics, "federation").get("seconds_per_round"))
    if each is not None:
        rows.insert(-1, ["A round, on average", duration(each)])
    return Table("Time", ["Part", "Time"], rows)


def traffic_table(metrics: Mapping[str, Any]) -> Table | None:
    """Return what travelled, a site and round and in all."""
    federation = section(metrics, "federation")
    down, up = (real(federation.get(f"bytes_{way}_per_site_round")) for way in ("down", "up"))
    if down is None and up is None:
        return None
    answers = [real(row.get("rounds_answered")) for row in federation.get("sites") or []]
    total = sum(answer for answer in answers if answer is not None)
    rows = []
    for title, each in (("To a site", down), ("From a site", up)):
        rows.append([title, size(each), size(each * total) if each is not None and total else MISSING])
    return Table("Bytes that travelled", ["Direction", "A site and round", "All answers of the run"], rows)


def facts_table(caption: str, facts: Mapping[str, Any]) -> Table:
    """Return any flat section as names and values."""
    rows: list[list[str]] = []
    for key, value in facts.items():
        inner = value.items() if isinstance(value, Mapping) else [(None, value)]
        rows += [[words(key) + ("" if name is None else f": {name}"), plain(leaf)] for name, leaf in inner]
    return Table(caption, ["What", "Value"], rows)


def data_tables(data: Mapping[str, Any]) -> list[Table]:
    """Return what the data is, and what was left out of it and why."""
    kept = ("source", "cohort", "uncertain", "partition", "geometry")
    facts = {words(key): plain(data[key]) for key in kept if data.get(key) is not None}
    if real(data.get("rows_read")) is not None:
        facts["Rows read"] = count(data["rows_read"])
    rows = [[name, value] for name, value in facts.items()]
    sizes = []
    for name, prefix in (("In the study", ""), ("Held out", "test_")):
        sizes.append([name, *(count(data.get(prefix + key)) for key in ("images", "patients", "positives"))])
    found = [
        Table("Data", ["What", "Value"], rows),
        Table("Sizes", ["Part", "Images", "Patients", "With a lesion"], sizes),
    ]
    dropped = section(data, "dropped")
    if dropped:
        left = [[str(reason), count(many)] for reason, many in dropped.items()]
        found.append(Table("Rows left out", ["Reason", "Rows"], left))
    return found


def rejected_lines(rejected: object) -> list[str]:
    """Return a line for each file that could not be used; of very many, the first."""
    if isinstance(rejected, Mapping):
        lines = [f"{key}: {plain(value)}" for key, value in rejected.items()]
    elif isinstance(rejected, list | tuple):
        lines = [
            ": ".join(plain(part) for part in item.values()) if isinstance(item, Mapping) else plain(item)
            for item in rejected
        ]
    else:
        lines = [f"{count(rejected)} files"] if real(rejected) else []
    more = len(lines) - REJECTED_SHOWN
    return [*lines[:REJECTED_SHOWN], f"and {count(more)} more"] if more > 0 else lines


def words(key: str) -> str:
    """Turn a field's name into words."""
    text = str(key).replace("_", " ")
    return text[:1].upper() + text[1:]
