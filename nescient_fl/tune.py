"""Tune a model's last layers on a site's labelled radiographs: ``python -m nescient_fl.tune``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from nescient_fl.cli import run_command


def _option(help: str, **kwargs: Any) -> Any:
    return typer.Option(help=help, show_default=False, **kwargs)


_CLINIC = "As a clinic, with the owner on another host"


def tune(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="RUN_OR_MODEL", help="A finished run's folder, or a model's file; as a clinic, the frozen file."
        ),
    ],
    data: Annotated[Path, typer.Argument(help="Folder of the site's labelled radiographs.")],
    out: Annotated[Path | None, _option("The tuned model's file to write.")] = None,
    encrypted: Annotated[
        bool,
        typer.Option("--encrypted", help="Tune under encryption: model owner, clinic and dealer, all here."),
    ] = False,
    layers: Annotated[int | None, _option("Last layers to tune, 1 or 2. [dim](2)[/]")] = None,
    steps: Annotated[int | None, _option("Steps of gradient descent. [dim](60)[/]")] = None,
    rate: Annotated[float | None, _option("A step's size. [dim](what the run's radiographs say is safe)[/]")] = None,
    decay: Annotated[float | None, _option("Pull towards the weights it begins with. [dim](0.01)[/]")] = None,
    source: Annotated[str | None, _option("chexpert or nih. [dim](told from the folder)[/]")] = None,
    cohort: Annotated[str | None, _option("corrected or paper. [dim](corrected)[/]")] = None,
    uncertain: Annotated[str | None, _option("exclude, positive or negative. [dim](exclude)[/]")] = None,
    balance: Annotated[float | None, _option("Negatives for each positive. [dim](1.0)[/]")] = None,
    images: Annotated[int | None, _option("Use so many, taken at random by the seed. [dim](all)[/]")] = None,
    seed: Annotated[int, typer.Option(help="Chooses images and the patients that are held out.")] = 0,
    keys: Annotated[Path | None, _option("The clinic's folder of private keys.", rich_help_panel=_CLINIC)] = None,
    roster: Annotated[Path | None, _option("The signed roster.", rich_help_panel=_CLINIC)] = None,
    authority: Annotated[
        str | None,
        _option("Whom you trust: its member file, or its public key in hex.", rich_help_panel=_CLINIC),
    ] = None,
    owner: Annotated[
        str | None, _option("The model's owner. [dim](the only one of the roster)[/]", rich_help_panel=_CLINIC)
    ] = None,
    config: Annotated[
        Path | None, _option("TOML file of these four; the command line goes first.", rich_help_panel=_CLINIC)
    ] = None,
) -> None:
    """Tune a model's last layers on a site's radiographs, and print what that changed for held-out patients.

    Encrypted, the owner of the model learns the tuned layers and nothing else of a radiograph or label, and the site
    nothing of these layers, before or after. The other layers stay as they are, and the site has them.

    With keys and roster (or --config) this is the clinic alone, and the owner runs `nescient serve-model --tune`.
    """
    from rich.console import Console

    from nescient_fl.arms.evaluation import EvaluationOptions
    from nescient_fl.arms.tuning import TuningOptions, give_radiographs, tune_model
    from nescient_fl.errors import UserError
    from nescient_fl.serving.settings import merged
    from nescient_fl.study.evaluation_terminal import tuning_table

    asked: dict[str, Any] = {"source": source, "cohort": cohort, "uncertain": uncertain, "balance": balance}
    options = EvaluationOptions(data=data, images=images, seed=seed, **asked)
    how: dict[str, Any] = {"layers": layers, "steps": steps, "rate": rate, "decay": decay}
    known = {"keys": Path, "roster": Path, "authority": str, "owner": str}
    member = merged({"keys": keys, "roster": roster, "authority": authority, "owner": owner}, config, known)
    console = Console()
    if member or config is not None:
        if not encrypted:
            raise UserError("as a clinic one tunes under encryption: say --encrypted")
        for name, value in {"out": out, **how}.items():
            if value is not None:
                raise UserError(f"--{name} is for the owner to say: as a clinic leave it out")
        with console.status("connecting") as status:
            count, taken, whose = give_radiographs(model, options, member, status.update)
        console.print(f"{whose} tuned its model on {count:,} radiographs in {taken} steps; it has the result, alone.")
        return
    if out is None:
        raise UserError("--out is missing: name the tuned model's file to write")
    tuning = TuningOptions(encrypted=encrypted, **{name: value for name, value in how.items() if value is not None})
    with console.status("tuning") as status:
        figures = tune_model(model, options, tuning, out, status.update)
    console.print(tuning_table(figures))
    console.print(f"tuned model written: {out}", highlight=False, soft_wrap=True, markup=False)


if __name__ == "__main__":
    run_command(tune)
