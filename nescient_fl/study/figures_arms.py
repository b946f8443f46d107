"""Figures that set the arms side by side: their scores with intervals, and their way there by round."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nescient_fl.study.figures_style import (
    COLOURS,
    DASHES,
    MARKERS,
    WIDTH,
    add_axes,
    legend_above,
    new_figure,
)
from nescient_fl.study.report_values import ARMS, ArmName, Json, Point, read_arm, real, score

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

POINT_METRICS = ("recall", "precision", "specificity", "accuracy")
RANK_METRICS = ("auroc", "auprc")
METRIC_NAMES = {
    "recall": "Recall",
    "precision": "Precision",
    "specificity": "Specificity",
    "accuracy": "Accuracy",
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "brier": "Brier score",
    "calibration_error": "Calibration error",
}


def present(metrics: Mapping[str, Any]) -> list[tuple[ArmName, Json]]:
    """Return the arms that ran, in the order they are always shown in."""
    found = [(name, read_arm(metrics, name)) for name in ARMS]
    return [(name, arm) for name, arm in found if arm is not None]


def arm_handle(name: ArmName, line: bool = True, text: str | None = None) -> Any:
    """Return an arm's entry in a legend."""
    from matplotlib.lines import Line2D

    return Line2D(
        [],
        [],
        color=COLOURS[name],
        marker=MARKERS[name],
        linestyle=DASHES[name] if line else "none",
        label=text or name,
    )


def forest(metrics: Mapping[str, Any], point: Point) -> "Figure":
    """Draw every arm's scores at one threshold as dots with 95% intervals."""
    arms = present(metrics)
    names = [*POINT_METRICS, *(RANK_METRICS if point == "half" else ())]
    pitch, gap = 0.21, 0.24
    block = pitch * len(arms) + gap
    height = 0.62 + 0.38 + block * len(names)
    figure = new_figure(height)
    axes = add_axes(figure, left=1.1, bottom=0.62, top=0.38)
    lowest = 1.0
    for row, metric in enumerate(names):
        for slot, (name, arm) in enumerate(arms):
            at = row * block + gap / 2 + (slot + 0.5) * pitch
            interval = score(arm, point, metric)
            if interval.value is None:
                continue
            if interval.bounds is not None:
                axes.plot(interval.bounds, [at, at], color=COLOURS[name], linewidth=2.2)
                lowest = min(lowest, interval.bounds[0])
            dot: dict[str, Any] = {"color": COLOURS[name], "marker": MARKERS[name], "clip_on": False}
            axes.plot([interval.value], [at], linestyle="none", **dot)
            lowest = min(lowest, interval.value)
        if row:
            axes.axhline(row * block, color=COLOURS["grid"], linewidth=0.8)
    axes.set_ylim(block * len(names), 0)
    left = max(0.0, int(min(lowest, 0.5) * 10 - 0.3) / 10)
    axes.set_xlim(left, 1.01)
    axes.set_yticks([(row + 0.5) * block for row in range(len(names))], [METRIC_NAMES[n] for n in names])
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("score, with 95% interval")
    if point == "half":
        _mark(axes, 0.5, names.index("auroc") * block, block, "guessing")
    else:
        target = real(metrics.get("target_recall"))
        if target is not None:
            _mark(axes, target, 0.0, block, "target")
    legend_above(axes, [arm_handle(name, line=False) for name, _ in arms])
    return figure


def _mark(axes: "Axes", x: float, top: float, block: float, text: str) -> None:
    """Draw a short reference line through one row."""
    axes.plot([x, x], [top, top + block], color=COLOURS["muted"], linewidth=1.2, linestyle=(0, (3, 2)))
    axes.annotate(
        text,
        (x, top),
        xytext=(-4, -3),
        textcoords="offset points",
        ha="right",
        va="top",
        fontsize=9,
        color=COLOURS["muted"],
    )


def by_round(metrics: Mapping[str, Any], metric: str) -> "Figure":
    """Draw one validation score of every arm by round, or by image passes when the arms' rounds differ."""
    from matplotlib.ticker import MaxNLocator

    arms = present(metrics)
    lasts = {max((row.get("round") or 0 for row in _history(arm)), default=0) for _, arm in arms}
    key = "round" if len(lasts) == 1 else "image_passes"
    figure = new_figure(3.3, WIDTH)
    axes = add_axes(figure, left=0.62, bottom=0.58, top=0.38)
    lows = []
    for name, arm in arms:
        points = [(real(row.get(key)), real(row.get(metric))) for row in _history(arm)]
        known = [(x, y) for x, y in points if x is not None and y is not None]
        if not known:
            continue
        lows.append(min(y for _, y in known))
        axes.plot(
            [x for x, _ in known],
            [y for _, y in known],
            color=COLOURS[name],
            linestyle=DASHES[name],
            marker=MARKERS[name],
            markersize=5 if len(known) <= 30 else 0,
            clip_on=False,
        )
    if metric == "auroc":
        axes.axhline(0.5, color=COLOURS["muted"], linewidth=1.0, linestyle=(0, (3, 2)))
        axes.set_ylim(min([0.45, *(low - 0.03 for low in lows)]), 1.01)
    else:
        axes.set_ylim(-0.01, 1.01)
    axes.set_xlabel("round" if key == "round" else "image passes")
    axes.set_ylabel(f"validation {METRIC_NAMES[metric] if metric == 'auroc' else metric + ' at 0.5'}")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    legend_above(axes, [arm_handle(name) for name, _ in arms])
    return figure


def _history(arm: Mapping[str, Any]) -> list[Json]:
    return list(arm.get("history") or [])
