"""How quick training, simulation and the start of a study are, as ratios measured side by side in one run.

    python scripts/bench_training.py [--quick] [--only PART ...] [--out FILE.json]

Parts: ``loop`` a site's training loop against a bare one in memory; ``writeup`` an epoch of the paper's
recipe against the write-up's way of reading images; ``engine`` two processors against one, and the study's
own federation against an app shaped like Flower's quickstart; ``sites`` cost and memory as sites grow in
number; ``start`` from the command to the first finished round.

What is compared runs in turn, several times; a figure is the median of the repeats' ratios, and their spread
is shown beside it. Every part runs in processes of its own, one after the other. Runs at the same time on the
machine spoil the figures: the load average is shown.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from bench_common import Figures, Line, bench_data, ratios, run_child

from nescient_fl.arms.ray_engine import ENVIRONMENT

STOCK = {"OMP_NUM_THREADS": "1"}
"""The quickstart-shaped app has one thread a client, as Ray gives it, and nothing of the study's tuning."""


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    phantom: int
    loop_images: int
    loop_repeats: int
    writeup_images: int
    writeup_repeats: int
    engine_images: int
    engine_rounds: int
    engine_repeats: int
    sites: tuple[int, ...]
    site_images: int
    site_rounds: int
    starts: int


FULL = Size(2400, 160, 11, 96, 4, 400, 4, 2, (5, 10, 20, 50, 100), 24, 4, 2)
QUICK = Size(40, 32, 3, 16, 2, 6, 3, 1, (2, 4), 6, 3, 0)


def measure_loop(size: Size) -> list[Line]:
    """A site's training loop against bare loops."""
    arguments = ("--phantom-images", size.phantom, "--images", size.loop_images)
    found = run_child("bench_site_loop.py", *arguments, "--repeats", size.loop_repeats, environment=ENVIRONMENT)
    seconds = found["seconds"]
    rate = {name: round(found["images"] / statistics.median(times)) for name, times in seconds.items()}
    note = f"{rate['site']} against {rate['bare']} images/s, one thread"
    plain = f"{rate['site']} against {rate['plain']} images/s"
    return [
        Line(
            "loop",
            "site's loop / bare loop, same network",
            ratios(seconds["bare"], seconds["site"]),
            target=0.85,
            note=note,
        ),
        Line(
            "loop",
            "site's loop / bare loop, torch's layers",
            ratios(seconds["plain"], seconds["site"]),
            target=0.85,
            note=plain,
        ),
    ]


def measure_writeup(size: Size) -> list[Line]:
    """An epoch of the paper's recipe against the write-up's way."""
    arguments = ("--phantom-images", size.phantom, "--images", size.writeup_images)
    found = run_child("bench_writeup_epoch.py", *arguments, "--repeats", size.writeup_repeats, environment=ENVIRONMENT)
    seconds = found["seconds"]
    rate = {name: round(found["images"] / statistics.median(times)) for name, times in seconds.items()}
    first = [ours + decoding for ours, decoding in zip(seconds["ours"], seconds["decoding"], strict=True)]
    return [
        Line(
            "writeup",
            "epoch / the write-up's way",
            ratios(seconds["writeup"], seconds["ours"]),
            target=4.0,
            note=f"{rate['ours']} against {rate['writeup']} images/s, one thread",
        ),
        Line(
            "writeup",
            "first epoch, cache made too / the write-up's way",
            ratios(seconds["writeup"], first),
            note=f"decoding once: {rate['decoding']} images/s",
        ),
    ]


def measure_engine(size: Size) -> list[Line]:
    """Two Ray workers against one, and the study's federation against the quickstart-shaped app."""
    images = min(size.engine_images, size.phantom // 5)
    engine = ("--phantom-images", size.phantom, "--images-per-site", images, "--rounds", size.engine_rounds)
    rates: dict[str, list[float]] = {"two": [], "one": [], "stock": []}
    told: list[float] = []
    with tempfile.TemporaryDirectory(prefix="nescient-bench-") as folder:
        partition = Path(folder) / "partition.json"
        write_partition(partition, size.phantom, 5, images)
        contestants: dict[str, Callable[[], Any]] = {
            "two": lambda: run_child("bench_engine.py", *engine, "--cpus", 2),
            "one": lambda: run_child("bench_engine.py", *engine, "--cpus", 1),
            "stock": lambda: run_child(
                "bench_quickstart_app.py",
                *("--partition", partition, "--rounds", size.engine_rounds),
                environment=STOCK,
            ),
        }
        for repeat in range(size.engine_repeats):
            # Turned round every other time, so that a drift of the machine favours nobody.
            for name in list(contestants)[:: -1 if repeat % 2 else 1]:
                found = contestants[name]()
                rates[name].append(found["images_per_round"] / statistics.median(found["seconds"]))
                told += found.get("seconds_told", []) if name == "two" else []
    rate = {name: round(statistics.median(values)) for name, values in rates.items()}
    note = f"5 sites of {images}: {rate['two']} against {{}} images/s, rounds after the first"
    return [
        Line(
            "engine",
            "two processors / one worker",
            ratios(rates["two"], rates["one"]),
            target=1.7,
            note=note.format(rate["one"]),
        ),
        Line(
            "engine",
            "federation / quickstart-shaped app",
            ratios(rates["two"], rates["stock"]),
            target=1.7,
            note=note.format(rate["stock"]),
        ),
        Line("engine", "a round, as rounds.jsonl tells it", tuple(told), unit="s"),
    ]


def write_partition(path: Path, phantom: int, clients: int, images: int) -> None:
    """Write the quickstart-shaped app's partition: the same images at the same sites as the engine has."""
    table = bench_data(phantom, phantom)
    rows = [(str(p), int(t)) for p, t in zip(table.paths, table.table["target"], strict=True)]
    path.write_text(json.dumps([rows[: clients * images][client::clients] for client in range(clients)]))


def measure_sites(size: Size) -> list[Line]:
    """Seconds a round and memory of the workers, over the number of sites."""
    arguments = ("--phantom-images", size.phantom, "--images-per-site", size.site_images)
    found = [
        run_child(
            "bench_engine.py",
            *(*arguments, "--sites", sites, "--rounds", size.site_rounds + (2 if sites < 50 else 0)),
        )
        for sites in size.sites
    ]
    counts = np.array(size.sites, float)
    seconds = np.array([statistics.median(run["seconds"]) for run in found])
    slope, start = np.polyfit(counts, seconds, 1)
    rest = seconds - (slope * counts + start)
    spread = float(((seconds - seconds.mean()) ** 2).sum())
    few = 1 if len(counts) > 2 else 0
    each = seconds / counts
    high = size.sites[-1]
    shown = ", ".join(f"{sites}: {value:.2f}" for sites, value in zip(size.sites, seconds, strict=True))
    lines = [
        Line(
            "sites",
            f"cost a site, {high} sites / {size.sites[few]} sites",
            (float(each[-1] / each[few]),),
            target=1.5,
            bound="most",
            note=f"seconds a round by sites of {size.site_images} images: {shown}",
        ),
        Line(
            "sites",
            "R² of a straight line",
            (1 - float((rest**2).sum()) / spread if spread else 1.0,),
            unit="",
            note=f"{1000 * slope:.1f} ms a site and {1000 * start:.0f} ms a round",
        ),
    ]
    return lines + _memory_lines(size, found[0], found[-1])


def _memory_lines(size: Size, few: Any, many: Any) -> list[Line]:
    """Memory of a worker with few and many sites.

    Its own, and with the mapped pages of the pixel cache: those grow with the images, so for them the few sites
    hold as many images as the many do.
    """
    low, high = few["sites"], many["sites"]
    same = run_child(
        "bench_engine.py",
        *("--phantom-images", size.phantom, "--images-per-site", size.site_images * high // low),
        *("--sites", low, "--rounds", 3),
    )
    pairs = {
        "own memory": (few["own_bytes"], many["own_bytes"], "the same images a site, mapped files left out"),
        "peak memory": (same["peak_bytes"], many["peak_bytes"], "the same images in all, mapped pages included"),
    }
    lines = []
    for what, (at_few, at_many, note) in pairs.items():
        if at_few and at_many:
            lines.append(
                Line(
                    "sites",
                    f"a worker's {what}, {high} sites / {low} sites",
                    (at_many / at_few,),
                    target=1.3,
                    bound="most",
                    note=f"{at_few / 2**20:.0f} and {at_many / 2**20:.0f} MiB, {note}",
                )
            )
    return lines


def measure_start(size: Size) -> list[Line]:
    """Seconds from the command to the first finished round of a default study, phantom and cache there."""
    found = [run_child("bench_first_round.py", "--phantom-images", size.phantom) for _ in range(size.starts)]
    if not found:
        return []
    parts = {name: statistics.median(run[name] for run in found) for name in found[0]}
    note = ", ".join(f"{name} {seconds:.1f}" for name, seconds in parts.items())
    seconds = tuple(run["first round"] for run in found)
    return [Line("start", "command to first finished round", seconds, unit="s", note=note)]


PARTS: dict[str, Callable[[Size], list[Line]]] = {
    "loop": measure_loop,
    "writeup": measure_writeup,
    "engine": measure_engine,
    "sites": measure_sites,
    "start": measure_start,
}


def main() -> None:
    """Measure every part, print the table, and end with status 1 when a target was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs; proves nothing")
    parser.add_argument("--only", choices=PARTS, nargs="+", default=list(PARTS), help="these parts alone")
    parser.add_argument("--out", type=Path, help="write the figures as JSON too")
    arguments = parser.parse_args()
    size = QUICK if arguments.quick else FULL
    figures = Figures(arguments.quick, arguments.out)
    bench_data(size.phantom, size.phantom)
    for name in arguments.only:
        figures.measure(name, partial(PARTS[name], size))
    figures.end()


if __name__ == "__main__":
    main()
