"""Where the time and the bytes of an encrypted score go, layer by layer."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from nescient_fl.study import figures_sites
from nescient_fl.study.figures_style import Picture, draw
from nescient_fl.study.report_values import Json, fixed, real, section

NAMES = ("encrypted_time", "encrypted_bytes")


def layers(metrics: Mapping[str, Any]) -> list[Json]:
    """Return what each layer took; nothing where encryption was not part of the run."""
    found = section(metrics, "encrypted").get("by_layer")
    return [dict(line) for line in found] if isinstance(found, list) else []


def layer_name(line: Mapping[str, Any]) -> str:
    """Return a layer's own name, without its kind."""
    return str(line.get("layer")).partition(" (")[0]


def encrypted_pictures(metrics: Mapping[str, Any]) -> list[Picture]:
    """Draw milliseconds and kilobytes of one image by layer."""
    lines = layers(metrics)
    if not lines:
        return []
    names = [layer_name(line) for line in lines]

    def amounts(key: str, factor: float) -> list[float]:
        return [factor * (real(line.get(key)) or 0.0) for line in lines]

    waiting = amounts("waiting_per_image", 1e3)
    computing = [max(whole - part, 0.0) for whole, part in zip(amounts("seconds_per_image", 1e3), waiting, strict=True)]
    sent, received = amounts("bytes_sent_per_image", 1e-3), amounts("bytes_received_per_image", 1e-3)
    slowest = max(range(len(names)), key=lambda row: computing[row] + waiting[row])
    heaviest = max(range(len(names)), key=lambda row: sent[row] + received[row])
    alt = (
        f"Bars: milliseconds of one image at the clinic, by layer, {fixed(sum(computing) + sum(waiting), 0)} in all; "
        f"most for {names[slowest]}, {fixed(computing[slowest] + waiting[slowest], 0)}."
    )
    parts = (("computing", computing), ("waiting for the other side", waiting))
    time = draw(NAMES[0], "Time by layer", alt, partial(figures_sites.site_bars, names, parts, "milliseconds an image"))
    alt = (
        f"Bars: kilobytes of one image at the clinic, by layer, {fixed(sum(sent) + sum(received), 0)} in all; "
        f"most for {names[heaviest]}, {fixed(sent[heaviest] + received[heaviest], 0)}."
    )
    make = partial(figures_sites.site_bars, names, (("sent", sent), ("received", received)), "kilobytes an image")
    return [time, draw(NAMES[1], "Bytes by layer", alt, make)]
