"""``python -m nescient_fl.prepare FOLDER``: read a dataset, select a cohort, decode its images once."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from nescient_fl.cli import run_command

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from nescient_fl.radiographs.cache import CacheResult
    from sites.datasets import Loaded


def prepare(
    folder: Annotated[Path, typer.Argument(help="The dataset's folder: CheXpert, NIH ChestX-ray14 or a phantom.")],
    source: Annotated[
        str | None,
        typer.Option(help="chexpert or nih; told from the folder when left out.", show_default=False),
    ] = None,
    cohort: Annotated[str, typer.Option(help="corrected, or paper to reproduce the write-up's.")] = "corrected",
    uncertain: Annotated[
        str, typer.Option(help="Images coded uncertain: exclude, or count them positive or negative.")
    ] = "exclude",
    balance: Annotated[float, typer.Option(help="Negative images for each positive one.")] = 1.0,
    geometry: Annotated[str, typer.Option(help="upright, or paper (portrait images transposed).")] = "upright",
    seed: Annotated[int, typer.Option(help="Chooses the unmentioned images that serve as negatives.")] = 0,
    table_only: Annotated[
        bool, typer.Option("--table-only", help="Count and write cohort.csv; neither need nor read images.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Where cohort.csv and the pixel cache go.")] = Path("prepared"),
    workers: Annotated[
        int | None,
        typer.Option(help="Threads that decode; one a CPU when left out.", min=1, show_default=False),
    ] = None,
) -> None:
    """Read a dataset, select the cohort, and decode its images once into a cache that training reuses."""
    from rich.console import Console

    from nescient_fl.radiographs.cache import build_cache
    from nescient_fl.radiographs.cohort import CohortRule, Rule, Uncertain
    from nescient_fl.radiographs.geometry import checked_geometry
    from nescient_fl.radiographs.table import write_table
    from sites.datasets import load_cohort

    console = Console()
    frame = checked_geometry(geometry)
    rule = CohortRule(cast("Rule", cohort), cast("Uncertain", uncertain), balance, seed)
    loaded = load_cohort([(folder, source)], rule, require_images=not table_only)
    out.mkdir(parents=True, exist_ok=True)
    table = loaded.cohort.table
    result = None
    if not table_only:
        with _progress_bar(console) as progress:
            result = build_cache(loaded.roots, table, frame, out, workers, progress)
        table = result.table
    write_table(out / "cohort.csv", table)
    _print_summary(console, loaded, result, out)


@contextmanager
def _progress_bar(console: "Console") -> Iterator[Callable[[int, int], None]]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("decoding"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("decoding", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _print_summary(console: "Console", loaded: "Loaded", result: "CacheResult | None", out: Path) -> None:
    from rich.markup import escape
    from rich.table import Table

    if loaded.synthetic:
        console.print("[bold yellow]SYNTHETIC[/] radiographs: nothing here says anything about patients")
    for name, report in loaded.reports.items():
        console.print(f"[bold]{name}[/] {escape(str(loaded.roots[name]))}", soft_wrap=True)
        reading = Table(show_header=False)
        reading.add_column("what")
        reading.add_column("rows", justify="right")
        reading.add_row("rows read", f"{report.rows_read:,}")
        for reason, count in report.dropped.items():
            reading.add_row(f"  left out: {reason}", f"{count:,}")
        for reason, count in report.mended.items():
            reading.add_row(f"  mended: {reason}", f"{count:,}")
        reading.add_row("frontal radiographs", f"{report.rows_kept:,}")
        for label, count in report.labels.items():
            reading.add_row(f"  {label}", f"{count:,}")
        reading.add_row("patients", f"{report.patients:,}")
        console.print(reading)
    _print_cohort(console, loaded, result)
    for note in loaded.cohort.notes:
        console.print(f"[yellow]note[/] {escape(note)}", soft_wrap=True)
    if result is not None:
        for rejected in result.rejected[:_REJECTED_SHOWN]:
            path = loaded.roots[rejected.source] / rejected.image
            console.print(f"[yellow]left out[/] {escape(f'{path}: {rejected.reason}')}", soft_wrap=True)
        if len(result.rejected) > _REJECTED_SHOWN:
            console.print(f"[yellow]left out[/] {len(result.rejected):,} files in all", soft_wrap=True)
        if result.copies:
            copies = f"{result.copies:,} images are byte for byte those of another patient"
            console.print(f"[yellow]note[/] {copies}; splits by patient cannot keep them apart", soft_wrap=True)
        made = "found ready" if result.reused else "written"
        console.print(f"cache {made}: {escape(str(result.cache.directory))}", soft_wrap=True)
    console.print(f"cohort written: {escape(str(out / 'cohort.csv'))}", soft_wrap=True)


def _print_cohort(console: "Console", loaded: "Loaded", result: "CacheResult | None") -> None:
    from rich.table import Table

    from nescient_fl.radiographs.table import patient_keys

    cohort = loaded.cohort
    table = cohort.table if result is None else result.table
    console.print("[bold]cohort[/]")
    shown = Table()
    for column in ("", "images", "positive", "negative"):
        shown.add_column(column, justify="left" if column == "" else "right")
    positive = table["target"] == 1

    def add(name: str, rows: "pd.Series[bool]") -> None:
        counts = (int(rows.sum()), int((rows & positive).sum()), int((rows & ~positive).sum()))
        shown.add_row(name, *(f"{count:,}" for count in counts))

    for column, names in _SHOWN.items():
        for name in names:
            rows = table[column] == name
            if rows.any():
                add(f"{column} {name}", rows)
        shown.add_section()
    add("support devices", table["devices"])
    shown.add_section()
    add("all", table["target"].notna())
    patients = patient_keys(table)
    ill, well = patients[positive].nunique(), patients[~positive].nunique()
    shown.add_row("patients", f"{patients.nunique():,}", f"{ill:,}", f"{well:,}")
    console.print(shown)
    for reason, count in cohort.dropped.items():
        console.print(f"not in the cohort: {count:,} {reason}", soft_wrap=True)


_REJECTED_SHOWN = 5
_SHOWN = {
    "label": ("positive", "negated", "uncertain", "unmentioned"),
    "view": ("AP", "PA"),
    "sex": ("F", "M", "unknown"),
}


if __name__ == "__main__":
    run_command(prepare)
