"""The table that a study ends with in the terminal."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nescient_fl.study.report_values import ARMS, MISSING, Interval, fixed, read_arm, real, score, section

if TYPE_CHECKING:
    from rich.table import Table


def terminal_table(metrics: Mapping[str, Any]) -> "Table":
    """Return recall, precision and AUROC of every arm, at 0.5 and at the operating point, for 80 columns."""
    from rich import box
    from rich.table import Table

    table = Table(
        title="Held-out patients, with 95% intervals",
        caption=_caption(metrics),
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        show_edge=False,
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("arm", no_wrap=True)
    table.add_column("threshold", no_wrap=True)
    for name in ("recall", "precision", "AUROC"):
        table.add_column(name, no_wrap=True)
    for name in ARMS:
        arm = read_arm(metrics, name)
        if arm is None:
            table.add_row(name, "did not run", MISSING, MISSING, MISSING, end_section=True)
            continue
        half = [cell(score(arm, "half", metric)) for metric in ("recall", "precision", "auroc")]
        table.add_row(name, "0.50", *half)
        point = [cell(score(arm, "operating_point", metric)) for metric in ("recall", "precision")]
        threshold = real(section(arm, "operating_point").get("threshold"))
        shown = "one a site" if threshold is None and name == "local" else fixed(threshold, 2)
        # AUROC depends on no threshold: it is not said twice.
        table.add_row("mean of sites" if name == "local" else "", f"{shown} *", *point, "", end_section=True)
    return table


def cell(interval: Interval) -> str:
    """Write ``0.91 0.86-0.95``."""
    if interval.value is None:
        return MISSING
    if interval.bounds is None:
        return f"{interval.value:.2f}"
    low, high = interval.bounds
    return f"{interval.value:.2f} {low:.2f}\u2013{high:.2f}"


def _caption(metrics: Mapping[str, Any]) -> str:
    data, target = section(metrics, "data"), real(metrics.get("target_recall"))
    aim = "" if target is None else f" for a recall of {target:.2f}"
    lines = [f"* operating point: threshold chosen on validation patients{aim}"]
    if read_arm(metrics, "local"):
        lines.append("local: mean of the site models, each scored on all held-out patients")
    if data.get("synthetic") is True:
        lines.append(f"SYNTHETIC DATA ({data.get('source')}): no patient's images")
    return "\n".join(lines)
