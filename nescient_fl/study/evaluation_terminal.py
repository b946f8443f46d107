"""The table that an evaluation ends with in the terminal."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nescient_fl.study.report_terminal import cell
from nescient_fl.study.report_values import count, fixed, number, read_interval, real, section, size

if TYPE_CHECKING:
    from rich.table import Table

_SHOWN = ("recall", "precision", "auroc")
_WAYS = {"plain": "in clear", "encrypted": "encrypted"}


def evaluation_table(figures: Mapping[str, Any]) -> "Table":
    """Return the figures at 0.5 and at the operating point, in clear and encrypted, for 80 columns."""
    from rich import box
    from rich.table import Table

    data = section(figures, "data")
    table = Table(
        title=f"{count(data.get('images'))} images of {count(data.get('patients'))} patients, "
        f"{count(data.get('positives'))} with a lesion; 95% intervals",
        caption="SYNTHETIC DATA: no patient's images" if data.get("synthetic") is True else None,
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        show_edge=False,
        title_justify="left",
        caption_justify="left",
    )
    for name in ("", "threshold", "recall", "precision", "AUROC"):
        table.add_column(name, no_wrap=True)
    for way, words in _WAYS.items():
        scores = section(figures, way)
        if not scores:
            continue
        half = section(scores, "half")
        table.add_row(words, "0.50", *(cell(read_interval(half.get(name))) for name in _SHOWN))
        point = section(scores, "operating_point")
        if point:
            # AUROC depends on no threshold: it is not said twice.
            shown = (cell(read_interval(point.get(name))) for name in _SHOWN[:2])
            table.add_row("", f"{fixed(point.get('threshold'), 2)} *", *shown, "", end_section=True)
    return table


def cost_lines(figures: Mapping[str, Any]) -> list[str]:
    """Say in a few lines what encryption changed and what it took; nothing where it was not asked for."""
    protocol = section(figures, "protocol")
    if not protocol:
        return []
    offline = section(protocol, "offline")
    memory = max((real(value) or 0.0 for value in section(protocol, "peak_memory").values()), default=0.0)
    checked = ["Every image was scored twice, and no two scores of one differ."]
    return [
        *(checked if figures.get("dealer_checked") is True else []),
        f"Encryption changed {count(protocol.get('flipped'))} of {count(protocol.get('images'))} decisions; a logit "
        f"by {protocol['max_abs_logit_error']:.1e} at most, {protocol['mean_abs_logit_error']:.1e} on average.",
        f"An image took {fixed(protocol.get('seconds_per_image'))} s, {number(protocol.get('rounds'))} rounds a batch "
        f"of {count(protocol.get('batch'))} and {size(protocol.get('bytes_per_party'))} sent by a party; before that, "
        f"{fixed(offline.get('seconds_per_image'))} s and {size(offline.get('bytes_per_image'))} of material.",
        f"No process held more than {size(memory)} of memory.",
    ]


def tuning_table(figures: Mapping[str, Any]) -> "Table":
    """Return what tuning changed for the patients that were held out, at threshold 0.5."""
    from rich import box
    from rich.table import Table

    how = "under encryption" if figures.get("encrypted") else "in clear"
    table = Table(
        title=f"Tuned {how} on {count(figures.get('images'))} images, scored on {count(figures.get('held_out'))} more",
        caption="SYNTHETIC DATA: no patient's images" if figures.get("synthetic") is True else None,
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        show_edge=False,
        title_justify="left",
        caption_justify="left",
    )
    for name in ("", "loss", "recall", "precision", "AUROC"):
        table.add_column(name, no_wrap=True)
    for when in ("before", "after"):
        scores = section(figures, when)
        shown = (cell(read_interval(section(scores, "half").get(name))) for name in _SHOWN)
        table.add_row(when, fixed(scores.get("loss"), 3), *shown)
    return table
