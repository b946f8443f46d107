"""Write synthetic chest radiographs: ``python -m nescient_fl.phantom --out DIR --images N``."""

from pathlib import Path
from typing import Annotated

import typer

from nescient_fl.cli import run_command


def phantom(
    out: Annotated[Path, typer.Option(help="Folder to write; it must not hold anything else.")],
    images: Annotated[int, typer.Option(help="How many radiographs.")] = 2400,
    seed: Annotated[int, typer.Option(help="The same seed gives the same files.")] = 7,
    workers: Annotated[int | None, typer.Option(help="Processes; one a processor when left out.")] = None,
) -> None:
    """Write synthetic chest radiographs in the layout of CheXpert-v1.0-small."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from nescient_fl.radiographs.phantom import write_phantom

    console = Console()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("Drawing synthetic radiographs", total=images)
        summary = write_phantom(
            out, images, seed, workers, lambda done, total: bar.update(task, completed=done, total=total)
        )
    what = "Already there" if summary.reused else "Wrote"
    console.print(
        f"{what}: {summary.images:,} synthetic radiographs of {summary.patients:,} patients in {summary.directory}",
        highlight=False,
        soft_wrap=True,
    )
    console.print(
        f"Lung lesion: {summary.positives:,} positive, {summary.negated:,} negated, "
        f"{summary.uncertain:,} uncertain, {summary.unmentioned:,} not mentioned. "
        "These pictures are synthetic: no figure measured on them speaks of real patients.",
        highlight=False,
        soft_wrap=True,
    )


if __name__ == "__main__":
    run_command(phantom)
