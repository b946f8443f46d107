"""List and compare run folders: ``python -m nescient_fl.runs``."""

from pathlib import Path
from typing import Annotated

import typer

from nescient_fl.cli import run_command


def runs(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FOLDER|RUN...",
            help="Run folders, or folders of them. [dim](runs)[/]",
            show_default=False,
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the comparison to this file too, as one page.", show_default=False),
    ] = None,
) -> None:
    """List run folders and compare them: what was run, recall and AUROC of every arm, and which models are the same.

    Takes run folders and folders of them; without any, those below runs/. Unfinished
    and damaged ones are listed too, with how far they got or what is wrong.
    """
    from rich.console import Console

    from nescient_fl.study.run_folder import write_atomically
    from nescient_fl.study.run_list import list_runs
    from nescient_fl.study.run_tables import render_runs, runs_table, sentences

    listed = list_runs(paths or [Path("runs")])
    if html is not None:
        write_atomically(html, render_runs(listed).encode())
    console = Console()
    console.print(runs_table(listed))
    for sentence in sentences(listed):
        console.print(sentence, highlight=False, soft_wrap=True, markup=False)
    if html is not None:
        console.print(f"Page: {html}", highlight=False, soft_wrap=True, markup=False)


if __name__ == "__main__":
    run_command(runs)
