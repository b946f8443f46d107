"""Score a finished model on a dataset: ``python -m nescient_fl.evaluate RUN_OR_MODEL DATA``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from nescient_fl.cli import run_command
from nescient_fl.errors import UserError


def _option(help: str, **kwargs: Any) -> Any:
    return typer.Option(help=help, show_default=False, **kwargs)


def evaluate(
    model: Annotated[Path, typer.Argument(metavar="RUN_OR_MODEL", help="A finished run's folder, or a model's file.")],
    data: Annotated[
        Path | None, typer.Argument(help="A dataset's folder. [dim](the held-out radiographs of the run)[/]")
    ] = None,
    source: Annotated[str | None, _option("chexpert or nih. [dim](told from the folder)[/]")] = None,
    cohort: Annotated[str | None, _option("corrected or paper. [dim](corrected)[/]")] = None,
    uncertain: Annotated[str | None, _option("exclude, positive or negative. [dim](exclude)[/]")] = None,
    balance: Annotated[float | None, _option("Negatives for each positive. [dim](1.0)[/]")] = None,
    images: Annotated[int | None, _option("Score so many, taken at random by the seed. [dim](all)[/]")] = None,
    seed: Annotated[int | None, _option("Chooses images, and the resamples of the intervals. [dim](0)[/]")] = None,
    device: Annotated[str | None, _option("auto, cpu or cuda. [dim](auto)[/]")] = None,
    encrypted: Annotated[
        bool, typer.Option("--encrypted", help="Score under encryption too: model owner, clinic and dealer, all here.")
    ] = False,
    batch: Annotated[int | None, _option("Images that are scored at a time under encryption. [dim](8)[/]")] = None,
    check_dealer: Annotated[
        bool,
        typer.Option(
            "--check-dealer",
            help="Under encryption score every image twice, so that a dealer that spoils any of them is found out: "
            "twice the time and material.",
        ),
    ] = False,
    out: Annotated[Path | None, _option("Write the figures to this file too, as JSON.")] = None,
) -> None:
    """Score a finished model on labelled radiographs, and print recall, precision and AUROC with 95% intervals.

    Patients whose images the model was trained on are left out where the run's folder tells which they were.
    """
    options = {
        key: value
        for key, value in locals().items()
        if key not in ("model", "out", "data", "encrypted", "batch", "check_dealer") and value is not None
    }
    from rich.console import Console

    from nescient_fl.arms.evaluation import EvaluationOptions, evaluate_encrypted, evaluate_plain
    from nescient_fl.study.evaluation_terminal import cost_lines, evaluation_table
    from nescient_fl.study.pace import WorkProgress
    from nescient_fl.study.run_folder import write_json

    if out is not None and not out.parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {out.parent}")
    if batch is not None and not encrypted:
        raise UserError("--batch goes with --encrypted")
    if check_dealer and not encrypted:
        raise UserError("--check-dealer goes with --encrypted")
    console = Console()
    wanted = EvaluationOptions(data=data, **options)
    found = evaluate_plain(model, wanted)
    if encrypted:
        with WorkProgress(console, "starting model owner, clinic and dealer") as progress:
            found = evaluate_encrypted(found, wanted, batch, progress, check_dealer)
    figures = found.figures
    if out is not None:
        write_json(out, figures)
    for note in figures["data"]["notes"]:
        console.print(f"note: {note}", highlight=False, soft_wrap=True, markup=False)
    console.print(evaluation_table(figures))
    for line in cost_lines(figures):
        console.print(line, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    run_command(evaluate)
