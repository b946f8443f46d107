"""Figures with a row a site: what each holds, and what federation changed for it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nescient_fl.study.figures_arms import arm_handle
from nescient_fl.study.figures_style import (
    COLOURS,
    MARKERS,
    WIDTH,
    add_axes,
    house_style,
    label,
    legend_above,
    new_figure,
)
from nescient_fl.study.report_values import ArmName, read_arm, read_interval, section

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MANY = 25  # above this many sites a figure scrolls within the page
BarParts = tuple[tuple[str, Sequence[float]], tuple[str, Sequence[float]]]


def site_bars(sites: Sequence[str], parts: BarParts, unit: str = "images") -> "Figure":
    """Draw one bar a site (or whatever else the rows are), split in two."""
    figure = new_figure(_height(sites))
    axes = _site_axes(figure, sites, right=0.3)
    _bars(axes, sites, parts, unit)
    _name_rows(axes, sites)
    return figure


def _bars(axes: "Axes", sites: Sequence[str], parts: BarParts, unit: str = "images") -> None:
    from matplotlib.patches import Patch
    from matplotlib.ticker import MaxNLocator

    rows = range(len(sites))
    (first, strong), (second, soft) = parts
    edge: dict[str, Any] = {"edgecolor": COLOURS["strong"], "linewidth": 0.8}
    axes.barh(rows, strong, color=COLOURS["strong"], height=0.68, **edge)
    axes.barh(rows, soft, left=strong, color=COLOURS["soft"], height=0.68, **edge)
    axes.set_xlabel(unit)
    axes.grid(visible=False, axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    handles = [
        Patch(facecolor=COLOURS["strong"], label=first, **edge),
        Patch(facecolor=COLOURS["soft"], label=second, **edge),
    ]
    legend_above(axes, handles, from_edge=_left(sites) > 1.2)


def dumbbells(metrics: Mapping[str, Any], sites: Sequence[str], metric: str) -> "Figure":
    """Draw each site's score by its own model and by the federated one, joined by a line."""
    figure = new_figure(_height(sites))
    axes = _site_axes(figure, sites, right=0.2)
    before, after = (site_scores(metrics, arm, metric) for arm in ("local", "federated"))
    pairs = [(row, before.get(name), after.get(name)) for row, name in enumerate(sites)]
    joined = [(row, start, end) for row, start, end in pairs if start is not None and end is not None]
    rows, starts, ends = ([item[part] for item in joined] for part in range(3))
    axes.hlines(rows, starts, ends, color=COLOURS["muted"], linewidth=1.6, alpha=0.6, zorder=1)
    arms: tuple[tuple[ArmName, int], ...] = (("local", 1), ("federated", 2))
    for arm, part in arms:
        dots = [(float(item[part] or 0.0), item[0]) for item in pairs if item[part] is not None]
        x, y = [dot[0] for dot in dots], [dot[1] for dot in dots]
        size = 8.0 if arm == "local" else 6.0  # the one below is seen where the two agree
        axes.plot(x, y, color=COLOURS[arm], marker=MARKERS[arm], markersize=size, linestyle="none")
    known = [end for end in [*before.values(), *after.values()] if end is not None]
    axes.set_xlim(min([0.5, *known]) - 0.04, 1.03)
    axes.set_xlabel("AUROC" if metric == "auroc" else f"{metric} at the operating point")
    _name_rows(axes, sites)
    handles = [
        arm_handle("local", line=False, text="before: own model"),
        arm_handle("federated", line=False, text="after: federated"),
    ]
    legend_above(axes, handles, from_edge=_left(sites) > 1.2)
    return figure


def site_scores(metrics: Mapping[str, Any], arm: Any, metric: str) -> dict[str, float | None]:
    """Return one score of each site's own held-out patients; AUROC needs no threshold, the rest one."""
    part = "test" if metric in ("auroc", "auprc") else "operating_point"
    rows = (read_arm(metrics, arm) or {}).get("sites") or []
    return {str(row.get("site")): read_interval(section(row, part).get(metric)).value for row in rows}


def partition_picture(
    path: Path, sites: Sequence[str], labels: Sequence[tuple[int, int]], views: Sequence[tuple[int, int]]
) -> Path:
    """Draw who got what as one picture of two panels: lesions and views. SVG, PNG or PDF by the suffix.

    ``labels`` holds images with and without a lesion, ``views`` AP and PA images, a pair a site.
    """
    with house_style():
        figure = new_figure(_height(sites), WIDTH * 1.7)
        width, height = figure.get_size_inches()
        left, gap = _left(sites), 0.35
        panel = (width - left - gap - 0.3) / 2
        panels: tuple[BarParts, BarParts] = (
            (("with a lesion", [a for a, _ in labels]), ("without", [b for _, b in labels])),
            (("AP", [a for a, _ in views]), ("PA", [b for _, b in views])),
        )
        for index, parts in enumerate(panels):
            x = left + index * (panel + gap)
            axes = figure.add_axes((x / width, 0.58 / height, panel / width, (height - 0.96) / height))
            _bars(axes, sites, parts)
            _name_rows(axes, sites if index == 0 else [""] * len(sites))
        stamp = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(path, metadata=stamp, dpi=150)
    return path


def _site_axes(figure: "Figure", sites: Sequence[str], right: float) -> "Axes":
    """Add axes with a row a site; their scale stands on top when there are too many rows to see at once."""
    if len(sites) <= MANY:
        return add_axes(figure, left=_left(sites), bottom=0.58, right=right, top=0.38)
    axes = add_axes(figure, left=_left(sites), bottom=0.1, right=right, top=0.86)
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    axes.spines["bottom"].set_visible(False)
    axes.spines["top"].set_visible(True)
    return axes


def _pitch(sites: Sequence[str]) -> float:
    """Return the height of a row in inches: closer together when there are many."""
    return 0.3 if len(sites) <= 12 else 0.22 if len(sites) <= 40 else 0.17


def _height(sites: Sequence[str]) -> float:
    return 0.58 + 0.38 + max(2, len(sites)) * _pitch(sites) + 0.1


def _left(sites: Sequence[str]) -> float:
    """Return room for the longest name shown."""
    return 0.3 + 0.088 * max([4, *(len(label(name)) for name in sites)])


def _name_rows(axes: "Axes", sites: Sequence[str]) -> None:
    rows = max(2, len(sites))
    axes.set_ylim(rows - 0.4, -0.6)
    axes.set_yticks(range(len(sites)), [label(name) for name in sites])
    axes.tick_params(axis="y", length=0, labelsize=10 if len(sites) <= 40 else 9)
