"""Tune a model's last layer on a site's labelled radiographs: ``python -m nescient_fl.tune``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from nescient_fl.cli import run_command


def _option(help: str, **kwargs: Any) -> Any:
    return typer.Option(help=help, show_default=False, **kwargs)


def tune(
    model: Annotated[Path, typer.Argument(metavar="RUN_OR_MODEL", help="A finished run's folder, or a model's file.")],
    data: Annotated[Path, typer.Argument(help="Folder of the site's labelled radiographs.")],
    out: Annotated[Path, _option("The tuned model's file to write.")],
    encrypted: Annotated[
        bool,
        typer.Option("--encrypted", help="Tune under encryption: model owner, clinic and dealer, all here."),
    ] = False,
    steps: Annotated[int, typer.Option(help="Steps of gradient descent.")] = 60,
    rate: Annotated[float | None, _option("A step's size. [dim](what the run's radiographs say is safe)[/]")] = None,
    decay: Annotated[float, typer.Option(help="Pull towards the weights that it begins with.")] = 0.01,
    source: Annotated[str | None, _option("chexpert or nih. [dim](told from the folder)[/]")] = None,
    cohort: Annotated[str | None, _option("corrected or paper. [dim](corrected)[/]")] = None,
    uncertain: Annotated[str | None, _option("exclude, positive or negative. [dim](exclude)[/]")] = None,
    balance: Annotated[float | None, _option("Negatives for each positive. [dim](1.0)[/]")] = None,
    images: Annotated[int | None, _option("Use so many, taken at random by the seed. [dim](all)[/]")] = None,
    seed: Annotated[int, typer.Option(help="Chooses images and the patients that are held out.")] = 0,
) -> None:
    """Tune a model's last layer on a site's radiographs, and print what that changed for held-out patients.

    Encrypted, the owner of the model learns the tuned layer and nothing of a radiograph or label, and the site
    nothing of the layer, before or after. The other layers stay as they are, and the site has them.
    """
    from rich.console import Console

    from nescient_fl.arms.evaluation import EvaluationOptions
    from nescient_fl.arms.tuning import TuningOptions, tune_model
    from nescient_fl.study.evaluation_terminal import tuning_table

    asked: dict[str, Any] = {"source": source, "cohort": cohort, "uncertain": uncertain, "balance": balance}
    options = EvaluationOptions(data=data, images=images, seed=seed, **asked)
    console = Console()
    with console.status("tuning") as status:
        figures = tune_model(model, options, TuningOptions(steps, rate, decay, encrypted), out, status.update)
    console.print(tuning_table(figures))
    console.print(f"tuned model written: {out}", highlight=False, soft_wrap=True, markup=False)


if __name__ == "__main__":
    run_command(tune)
