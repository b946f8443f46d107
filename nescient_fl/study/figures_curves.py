"""ROC, precision-recall and calibration curves of the arms."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nescient_fl.study.figures_arms import arm_handle, present
from nescient_fl.study.figures_style import COLOURS, DASHES, MARKERS, add_axes, legend_above, new_figure
from nescient_fl.study.report_values import Json, Point, real, score, section

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def roc(metrics: Mapping[str, Any]) -> "Figure":
    """Draw the ROC curves, with each arm's two thresholds marked."""
    figure, axes = _square("false alarms (1 \u2212 specificity)", "recall")
    axes.plot([0, 1], [0, 1], color=COLOURS["muted"], linewidth=1.0, linestyle=(0, (3, 2)))
    _curves(axes, metrics, "roc")
    for name, arm in present(metrics):
        for point in ("half", "operating_point"):
            spot = score(arm, point, "specificity").complement()
            _spot(axes, name, point, spot.value, score(arm, point, "recall").value)
    return figure


def precision_recall(metrics: Mapping[str, Any]) -> "Figure":
    """Draw the precision-recall curves, with each arm's two thresholds marked."""
    figure, axes = _square("recall", "precision")
    data = section(metrics, "data")
    images, lesions = real(data.get("test_images")), real(data.get("test_positives"))
    if images and lesions is not None:
        axes.axhline(lesions / images, color=COLOURS["muted"], linewidth=1.0, linestyle=(0, (3, 2)))
    _curves(axes, metrics, "pr")
    for name, arm in present(metrics):
        for point in ("half", "operating_point"):
            spot = score(arm, point, "recall")
            _spot(axes, name, point, spot.value, score(arm, point, "precision").value)
    return figure


def calibration(metrics: Mapping[str, Any]) -> "Figure":
    """Draw how often a score of that size was a lesion; a dot's area tells how many images it stands for."""
    figure, axes = _square("mean score given", "share with a lesion")
    axes.plot([0, 1], [0, 1], color=COLOURS["muted"], linewidth=1.0, linestyle=(0, (3, 2)))
    for name, arm in present(metrics):
        rows = _known_bins(arm)
        if not rows:
            continue
        most = max(count for _, _, count in rows) or 1.0
        x, y = [row[0] for row in rows], [row[1] for row in rows]
        axes.plot(x, y, color=COLOURS[name], linestyle=DASHES[name], linewidth=1.2)
        areas = [10 + 60 * row[2] / most for row in rows]
        axes.scatter(x, y, s=areas, color=COLOURS[name], marker=MARKERS[name], linewidths=0, clip_on=False)
    legend_above(axes, [arm_handle(name) for name, _ in present(metrics)])
    return figure


def _known_bins(arm: Mapping[str, Any]) -> list[tuple[float, float, float]]:
    rows = []
    for row in section(arm, "curves").get("calibration") or []:
        values = [real(row.get(key)) for key in ("mean_score", "observed", "count")]
        known = [value for value in values if value is not None]
        if len(known) == 3 and known[2] > 0:
            rows.append((known[0], known[1], known[2]))
    return rows


def _square(x: str, y: str) -> tuple["Figure", "Axes"]:
    figure = new_figure(4.6)
    axes = add_axes(figure, left=0.62, bottom=0.58, top=0.38)
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.02)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return figure, axes


def _curves(axes: "Axes", metrics: Mapping[str, Any], kind: str) -> None:
    """Draw each arm's curves; the local arm's, one a site, thin and pale behind the others."""
    handles = {}
    # The dashed line goes over the solid one, so that both are seen where they meet.
    order = ("local", "federated", "pooled")
    for name, arm in sorted(present(metrics), key=lambda item: order.index(item[0])):
        curves: list[Json] = section(arm, "curves").get(kind) or []
        many = len(curves) > 1
        for curve in curves:
            pairs = list(zip(curve.get("x") or [], curve.get("y") or [], strict=False))
            pairs = _thinned(pairs, max(100, 800 // len(curves)))
            points = [(real(a), real(b)) for a, b in pairs]
            known = [(a, b) for a, b in points if a is not None and b is not None]
            axes.plot(
                [a for a, _ in known],
                [b for _, b in known],
                color=COLOURS[name],
                linestyle="-" if many else DASHES[name],
                linewidth=0.9 if many else 1.8,
                alpha=max(0.25, 0.75 - len(curves) * 0.02) if many else 1.0,
            )
        handles[name] = arm_handle(name, text=f"{name}, {len(curves)} models" if many else None)
    legend_above(axes, [handles[name] for name, _ in present(metrics)])


def _thinned(points: list[tuple[Any, Any]], most: int) -> list[tuple[Any, Any]]:
    """Keep as many points of a curve as a figure can show, both ends among them."""
    if len(points) <= most:
        return points
    step = (len(points) - 1) / (most - 1)
    return [points[round(index * step)] for index in range(most)]


def _spot(axes: "Axes", name: Any, point: Point, x: float | None, y: float | None) -> None:
    """Mark a threshold: filled at the operating point, hollow at 0.5."""
    if x is None or y is None:
        return
    filled = point == "operating_point"
    axes.plot(
        [x],
        [y],
        marker=MARKERS[name],
        markersize=10 if filled else 9,
        markerfacecolor=COLOURS[name] if filled else COLOURS["surface"],
        markeredgecolor=COLOURS["surface"] if filled else COLOURS[name],
        markeredgewidth=1.2 if filled else 1.6,
        linestyle="none",
        zorder=5,
        clip_on=False,
    )
