"""How every figure looks, and how matplotlib's SVG becomes one that a page can hold.

Figures are drawn in the colours of the light theme. In a report the same colours become CSS variables, so
that a figure follows the reader's theme; as a file of its own a figure keeps plain colours on white.
"""

import re
import unicodedata
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from nescient_fl.study.report_values import ArmName

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {
    "ink": "#1b2430",
    "muted": "#586474",
    "grid": "#dfe4ea",
    "surface": "#ffffff",
    "federated": "#0063a3",
    "pooled": "#b84a00",
    "local": "#0a7a5a",
    "strong": "#4b3f8f",
    "soft": "#b9b3de",
}
MARKERS: dict[ArmName, str] = {"federated": "o", "pooled": "s", "local": "^"}
DASHES: dict[ArmName, Any] = {"federated": "-", "pooled": (0, (5, 2)), "local": (0, (1.5, 1.5))}
FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
WIDTH = 5.1  # inches, so 367 units of an SVG: legible on a phone, and two side by side on a desktop
UNITS_PER_INCH = 72

_SVG = "http://www.w3.org/2000/svg"
_XLINK = "http://www.w3.org/1999/xlink"
_LONG_DECIMALS = {digits: re.compile(rf"(-?\d+\.\d{{{digits}}})\d+") for digits in (1, 2)}
_LONG_PATH = 1000


@dataclass(frozen=True)
class Picture:
    """A drawn figure: as a file of its own, and as an element of a page that follows the page's theme."""

    name: str
    title: str
    alt: str
    file: str
    inline: str


@contextmanager
def house_style() -> Iterator[None]:
    """Draw in the house style, leaving the caller's matplotlib settings as they were."""
    import matplotlib

    ink, muted, grid = COLOURS["ink"], COLOURS["muted"], COLOURS["grid"]
    settings: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": "nescient_fl",
        "text.parse_math": False,
        "font.family": "sans-serif",
        "font.size": 11,
        "text.color": ink,
        "axes.edgecolor": muted,
        "axes.labelcolor": ink,
        "axes.labelsize": 11,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.linewidth": 0.8,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": grid,
        "grid.linewidth": 0.8,
        "xtick.color": muted,
        "ytick.color": muted,
        "xtick.labelcolor": ink,
        "ytick.labelcolor": ink,
        "xtick.labelsize": 10,
        "ytick.labelsize": 10,
        "lines.linewidth": 1.8,
        "lines.markersize": 6.5,
        "legend.frameon": False,
        "legend.fontsize": 10,
        "legend.handlelength": 2.4,
        "figure.facecolor": COLOURS["surface"],
        "axes.facecolor": "none",
        "savefig.facecolor": COLOURS["surface"],
    }
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        # A name in a script that matplotlib's own font lacks is written as text all the same.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def new_figure(height: float, width: float = WIDTH) -> "Figure":
    """Return an empty figure with no global state behind it."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height))


def add_axes(figure: "Figure", left: float, bottom: float, right: float = 0.15, top: float = 0.15) -> "Axes":
    """Add axes with margins in inches."""
    width, height = figure.get_size_inches()
    return figure.add_axes(
        (left / width, bottom / height, (width - left - right) / width, (height - bottom - top) / height)
    )


def draw(name: str, title: str, alt: str, make: Callable[[], "Figure"]) -> Picture:
    """Draw one figure and return it as both kinds of SVG. The same input gives the same bytes."""
    with house_style():
        return to_picture(name, title, alt, make())


def to_picture(name: str, title: str, alt: str, figure: "Figure") -> Picture:
    """Turn a figure into SVG; call it within ``house_style``."""
    from io import StringIO

    stream = StringIO()
    bare = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(stream, format="svg", metadata=bare)
    text = stream.getvalue()
    return Picture(name, title, alt, _rewrite(text, name, alt, themed=False), _rewrite(text, name, alt, True))


def _rewrite(text: str, name: str, alt: str, themed: bool) -> str:
    """Name, clean and (for a page) theme matplotlib's SVG."""
    root = ElementTree.fromstring(text)
    _drop_styles(root)
    used = set(re.findall(r"(?:#)([\w.:-]+)", " ".join(_references(root))))
    for element in root.iter():
        _rewrite_element(element, f"fig-{name}-", used, themed)
    width, height = (float(part) for part in root.attrib["viewBox"].split()[2:])
    root.attrib.update({"role": "img", "aria-label": alt, "style": "stroke-linejoin:round;stroke-linecap:butt"})
    if themed:
        for key in ("width", "height"):
            root.attrib.pop(key, None)
        root.attrib["class"] = "figure"
        root.attrib["style"] += f";aspect-ratio:{width:g}/{height:g}"
        for element in root.iter():
            element.tag = element.tag.removeprefix(f"{{{_SVG}}}")
        return ElementTree.tostring(root, encoding="unicode")
    ElementTree.register_namespace("", _SVG)
    root.attrib["font-family"] = FONTS
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=False) + "\n"


def _drop_styles(root: ElementTree.Element) -> None:
    """Take out matplotlib's style sheet, which would reach beyond the figure once it stands in a page."""
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{_SVG}}}style", f"{{{_SVG}}}metadata"):
                parent.remove(child)


def _references(root: ElementTree.Element) -> Iterator[str]:
    for element in root.iter():
        for key, value in element.attrib.items():
            if key.endswith("href") or "url(" in value:
                yield value


def _rewrite_element(element: ElementTree.Element, prefix: str, used: set[str], themed: bool) -> None:
    for key in list(element.attrib):
        value = element.attrib[key]
        if key == "id":
            del element.attrib["id"]
            if value in used:
                element.attrib["id"] = prefix + value
        elif key == f"{{{_XLINK}}}href":
            del element.attrib[key]
            element.attrib["href"] = "#" + prefix + value.removeprefix("#")
        elif key == "clip-path":
            element.attrib[key] = value.replace("url(#", f"url(#{prefix}")
        elif key == "style":
            element.attrib[key] = _style(value, themed)
        elif key in ("d", "x", "y", "transform", "width", "height"):
            decimals = _LONG_DECIMALS[1 if len(value) > _LONG_PATH else 2]
            element.attrib[key] = " ".join(decimals.sub(r"\1", value).split())


def _style(value: str, themed: bool) -> str:
    """Keep a style without its font family, and with variables for the house colours when themed."""
    parts = [part.strip() for part in value.split(";")]
    kept = ";".join(part.replace(": ", ":", 1) for part in parts if part and "font-family" not in part)
    if themed:
        for name, colour in COLOURS.items():
            kept = kept.replace(colour, f"var(--{name})")
    return kept


def label(text: object, longest: int = 18) -> str:
    """Return a site's name as a figure shows it: one line, printable, not too long."""
    shown = "".join(" " if unicodedata.category(letter)[0] in "CZ" else letter for letter in str(text)).strip()
    if len(shown) <= longest:
        return shown
    tail = longest // 3  # names often differ at their end
    return f"{shown[: longest - tail - 1].rstrip()}\u2026{shown[-tail:].lstrip()}"


def legend_above(axes: "Axes", handles: list[Any], from_edge: bool = False) -> None:
    """Put the legend over the axes, and over a scale that stands on top, where it can hide no data.

    It begins where the axes do or, where long names leave them little room, at the figure's edge.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    place = axes.get_position()
    height = place.height * figure.get_size_inches()[1]
    raised = 0.46 / height if axes.spines["top"].get_visible() else 0.0
    axes.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(-place.x0 / place.width if from_edge else 0, 1.0 + raised),
        ncols=len(handles),
        borderaxespad=0.2,
        columnspacing=1.2,
        handletextpad=0.5,
    )
