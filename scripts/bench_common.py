"""What the benchmarks share: radiographs, the network's plain twin, children, ratios, how figures are shown."""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from nescient_fl.arms.data import PHANTOM_SEED, cache_folder
from nescient_fl.lesion.batches import Examples
from nescient_fl.lesion.network import build_network, get_weights
from nescient_fl.radiographs.cache import PixelCache, build_cache
from nescient_fl.radiographs.phantom import GENERATOR, write_phantom
from sites.chexpert import SOURCE, read_chexpert


@dataclass(frozen=True)
class BenchData:
    """Some synthetic radiographs: their folder, one row an image with ``target``, and their pixel cache."""

    folder: Path
    table: pd.DataFrame
    cache: PixelCache

    def examples(self) -> Examples:
        """All of them, as a site holds its training images."""
        targets = self.table["target"].to_numpy(np.float32)
        cache = self.cache
        return Examples(cache.pixels, cache.mean, cache.std, targets, np.arange(len(targets)))

    @property
    def paths(self) -> list[Path]:
        """The JPEGs."""
        return [self.folder / image for image in self.table["image"]]


def bench_data(phantom_images: int, images: int, geometry: Literal["paper", "upright"] = "upright") -> BenchData:
    """Take the first ``images`` of the phantom that a study of ``phantom_images`` uses; draw it if needed."""
    folder = cache_folder() / f"phantom-{phantom_images}-v{GENERATOR}"
    write_phantom(folder, phantom_images, PHANTOM_SEED)
    table, _ = read_chexpert(folder)
    table = table.iloc[:images].reset_index(drop=True)
    table["target"] = (table["label"] == "positive").astype("int64")
    result = build_cache({SOURCE: folder}, table, geometry, cache_folder() / "pixels")
    return BenchData(folder, result.table, result.cache)


def plain_network(*, seed: int, sigmoid: bool = False) -> nn.Sequential:
    """Return the network as torch's own layers, one after another, with the weights the product starts from.

    Its forward pass is ``nn.Sequential``'s, so nothing of the product's own pooled convolution is in it.
    """
    network = nn.Sequential(
        nn.Conv2d(1, 8, kernel_size=10, stride=3),
        nn.ReLU(),
        nn.MaxPool2d(8),
        nn.Flatten(),
        nn.Linear(8 * 13 * 15, 64),
        nn.ReLU(),
        nn.Linear(64, 32),
        nn.ReLU(),
        nn.Linear(32, 1),
    )
    weights = get_weights(build_network(seed=seed)).values()
    network.load_state_dict(dict(zip(network.state_dict(), weights, strict=True)))
    if sigmoid:
        network.append(nn.Sigmoid())
    return network


def run_child(script: str, *arguments: object, environment: Mapping[str, str] | None = None) -> Any:
    """Run a script beside this one in a process of its own and return the JSON it prints.

    Raises RuntimeError with the end of what it said when it fails.
    """
    command = [sys.executable, str(Path(__file__).with_name(script)), *map(str, arguments)]
    done = subprocess.run(
        command, env={**os.environ, **(environment or {})}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{script} ended with status {done.returncode}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


@dataclass(frozen=True)
class Line:
    """One measured figure. ``values`` are its repeats; the figure is their median.

    ``bound`` says whether the target is the least or the most the figure may be. Without a target a line is
    only told.
    """

    part: str
    what: str
    values: tuple[float, ...]
    unit: str = "x"
    target: float | None = None
    bound: Literal["least", "most"] = "least"
    note: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def passed(self) -> bool | None:
        if self.target is None:
            return None
        return self.median >= self.target if self.bound == "least" else self.median <= self.target

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**asdict(self), "median": self.median, "passed": self.passed}


def ratios(above: Sequence[float], below: Sequence[float]) -> tuple[float, ...]:
    """Divide repeats that were taken side by side, pair by pair."""
    return tuple(a / b for a, b in zip(above, below, strict=True))


def machine() -> dict[str, Any]:
    """Say what the figures were measured on."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return {
        "processors": os.cpu_count(),
        "model": model,
        "platform": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "load_average": [round(value, 2) for value in os.getloadavg()],
    }


def machine_line(about: Mapping[str, Any]) -> str:
    """Say it in one line."""
    return (
        f"{about['processors']} processors ({about['model']}), Python {about['python']}, "
        f"torch {about['torch']}; load average {about['load_average'][0]}"
    )


def table(lines: Sequence[Line]) -> Table:
    """Lay the lines out."""
    shown = Table(title=None)
    for name in ("part", "measured", "median", "spread", "target", "", "note"):
        shown.add_column(name, justify="right" if name in ("median", "target") else "left")
    for line in lines:
        digits = ".3f" if line.unit == "" else ".2f"
        if 0 < abs(line.median) < 0.005:
            digits = ".1e"
        sign = {"least": "≥", "most": "≤"}[line.bound]
        low, high = min(line.values), max(line.values)
        verdict = {None: "", True: "[green]pass[/]", False: "[red]FAIL[/]"}[line.passed]
        shown.add_row(
            line.part,
            line.what,
            f"{line.median:{digits}}{' ' * (line.unit not in ('', 'x'))}{line.unit}",
            f"{low:{digits}} to {high:{digits}}" if len(line.values) > 1 else "",
            "" if line.target is None else f"{sign} {line.target:g}",
            verdict,
            line.note,
        )
    return shown


class Figures:
    """What one benchmark measures: told as it comes, written as JSON where asked for, judged at the end."""

    def __init__(self, quick: bool, out: Path | None) -> None:
        # Where output is no terminal, lines are as long as they need to be.
        self.console = Console(width=None if sys.stdout.isatty() else 180)
        self._about = machine()
        self._lines: list[Line] = []
        self._quick, self._out = quick, out
        self.console.print(machine_line(self._about), highlight=False)

    def add(self, lines: Sequence[Line]) -> None:
        """Take lines, and write all so far."""
        self._lines += lines
        if self._out:
            figures = {
                "machine": self._about,
                "quick": self._quick,
                "lines": [line.as_dict() for line in self._lines],
            }
            self._out.write_text(json.dumps(figures, indent=1) + "\n")

    def measure(self, part: str, take: Callable[[], Sequence[Line]], nothing: str = "") -> None:
        """Take one part's lines and say how long that took; ``nothing`` is why there may be none."""
        started = time.monotonic()
        lines = take()
        if not lines and nothing:
            self.console.print(f"left out {part}: {nothing}", style="yellow")
        self.add(lines)
        self.console.print(f"measured {part} in {time.monotonic() - started:.0f} s", style="dim")

    def end(self) -> None:
        """Print the table; end with status 1 when a target was missed, unless sizes were too small to judge."""
        self.console.print(table(self._lines))
        if not self._quick and any(line.passed is False for line in self._lines):
            raise SystemExit(1)
