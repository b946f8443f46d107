"""The default study over several seeds: what federation costs against pooling, and gains over training alone.

    python scripts/repeat_study.py [--seeds 5] [--out FOLDER] [-- OPTIONS OF simulate ...]

Each seed divides, initialises and trains anew, on the same radiographs. A seed whose run folder is finished is
not run again. Prints a line a seed and the mean and range of each difference. One study takes some minutes.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from nescient_fl.study.run_folder import read_json

ARMS = ("federated", "pooled", "local")


def run_seed(folder: Path, seed: int, options: Sequence[str]) -> dict[str, Any]:
    """Run, or go on with, one seed's study and return its metrics. Raises RuntimeError when it fails."""
    run = folder / f"seed-{seed}"
    if not (run / "metrics.json").exists():
        begun = (run / "config.json").exists()
        rest = ["--resume", run] if begun else ["--out", run, "--seed", seed, *options]
        command = [sys.executable, "-m", "nescient_fl.simulate", *map(str, rest)]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"seed {seed}: {done.stderr.strip()}")
    found: dict[str, Any] = read_json(run / "metrics.json")
    return found


def figure(metrics: dict[str, Any], arm: str, part: str, name: str) -> float:
    """Return one figure of one arm; not a number where it is undefined."""
    value = metrics["arms"][arm][part][name]["value"]
    return float("nan") if value is None else float(value)


def table(runs: dict[int, dict[str, Any]]) -> Table:
    """Lay out AUROC and recall at the operating point by seed and arm, and what they come to."""
    shown = Table(title="Held-out patients: AUROC, and recall at the operating point")
    shown.add_column("seed")
    for arm in ARMS:
        shown.add_column(f"{arm} AUROC", justify="right")
        shown.add_column(f"{arm} recall", justify="right")
    rows = []
    for seed, metrics in runs.items():
        row = [
            figure(metrics, arm, part, name)
            for arm in ARMS
            for part, name in (("test", "auroc"), ("operating_point", "recall"))
        ]
        rows.append(row)
        shown.add_row(str(seed), *(f"{value:.3f}" for value in row))
    shown.add_row("mean", *(f"{value:.3f}" for value in np.nanmean(rows, axis=0)), style="bold")
    return shown


def differences(runs: dict[int, dict[str, Any]]) -> list[str]:
    """Say how far the federated model is from the other two, over the seeds."""
    lines = []
    for other in ("pooled", "local"):
        gaps = [figure(m, "federated", "test", "auroc") - figure(m, other, "test", "auroc") for m in runs.values()]
        lines.append(
            f"federated minus {other}, AUROC: mean {np.nanmean(gaps):+.3f}, from {np.nanmin(gaps):+.3f} to "
            f"{np.nanmax(gaps):+.3f} over {len(gaps)} seeds"
        )
    return lines


def main() -> None:
    """Run the seeds one after another and print what they come to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=5, help="how many, from 0")
    parser.add_argument("--out", type=Path, default=Path("runs/repeated"), help="where the run folders go")
    parser.add_argument("options", nargs="*", help="options of simulate, after --")
    arguments = parser.parse_args()
    console = Console()
    runs = {}
    for seed in range(arguments.seeds):
        runs[seed] = run_seed(arguments.out, seed, arguments.options)
        console.print(f"seed {seed}: done", style="dim")
    console.print(table(runs))
    for line in differences(runs):
        console.print(line, highlight=False)


if __name__ == "__main__":
    main()
