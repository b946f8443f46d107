"""Serve a model to clinics under encryption, as its owner: ``python -m nescient_fl.serve_model``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from nescient_fl.cli import run_command


def _option(help: str, **kwargs: Any) -> Any:
    return typer.Option(help=help, show_default=False, **kwargs)


_TUNING = "Tuning"


def serve_model(
    model: Annotated[
        Path | None, typer.Argument(metavar="RUN_OR_MODEL", help="A finished run's folder, or a model's file.")
    ] = None,
    keys: Annotated[Path | None, _option("The owner's folder of private keys.")] = None,
    roster: Annotated[Path | None, _option("The signed roster.")] = None,
    authority: Annotated[str | None, _option("Whom you trust: its member file, or its public key in hex.")] = None,
    calibration: Annotated[
        Path | None, _option("Folder of typical radiographs. [dim](those the run was trained on)[/]")
    ] = None,
    limit: Annotated[int | None, _option("Images that each clinic may have scored, ever. [dim](10000)[/]")] = None,
    ahead: Annotated[
        int | None, _option("Batches of material to keep ready for each clinic. [dim](0: dealt when asked)[/]")
    ] = None,
    batch: Annotated[int | None, _option("Images of a batch that is dealt ahead. [dim](8)[/]")] = None,
    config: Annotated[Path | None, _option("TOML file of options; the command line goes first.")] = None,
    tune: Annotated[
        bool,
        typer.Option("--tune", help="Score nothing: let a clinic tune the last layers, once.", rich_help_panel=_TUNING),
    ] = False,
    clinic: Annotated[
        str | None, _option("Which clinic may. [dim](any of the roster)[/]", rich_help_panel=_TUNING)
    ] = None,
    out: Annotated[Path | None, _option("The tuned model's file to write.", rich_help_panel=_TUNING)] = None,
    frozen: Annotated[
        Path | None, _option("Write the other layers to this file: clinics need it.", rich_help_panel=_TUNING)
    ] = None,
    layers: Annotated[int | None, _option("Last layers to tune, 1 or 2. [dim](2)[/]", rich_help_panel=_TUNING)] = None,
    steps: Annotated[int | None, _option("Steps of gradient descent. [dim](60)[/]", rich_help_panel=_TUNING)] = None,
    rate: Annotated[
        float | None, _option("A step's size. [dim](what --calibration says is safe)[/]", rich_help_panel=_TUNING)
    ] = None,
    decay: Annotated[
        float | None, _option("Pull towards the first weights. [dim](0.01)[/]", rich_help_panel=_TUNING)
    ] = None,
) -> None:
    """Serve a model to the clinics of a roster: they learn scores, and this side learns how many images there were.

    Runs until Ctrl-C. What it must not forget (material, the clinics' counts) lies in the folder of keys.
    With --tune it waits for one `nescient tune --encrypted` of a clinic instead, writes the tuned model, and ends.
    """
    options = {key: value for key, value in locals().items() if key != "config"}
    from nescient_fl.errors import UserError
    from nescient_fl.serving.offer import serve_tuning
    from nescient_fl.serving.settings import merged
    from nescient_fl.serving.standing import serve_model as serve

    scoring = dict.fromkeys(("limit", "ahead", "batch"), int)
    tuning = {"clinic": str, "out": Path, "frozen": Path, "layers": int, "steps": int, "rate": float, "decay": float}
    both = {**dict.fromkeys(("model", "keys", "roster", "calibration"), Path), "authority": str, "tune": bool}
    found = merged({**options, "tune": tune or None}, config, {**both, **scoring, **tuning})
    tunes = bool(found.pop("tune", False))
    for name in scoring if tunes else tuning:
        if options[name] is not None:
            raise UserError(f"--{name} has no place {'beside' if tunes else 'without'} --tune")
    (serve_tuning if tunes else serve)(found, lambda line: print(line, flush=True))


if __name__ == "__main__":
    run_command(serve_model)
