"""Serve a model to clinics under encryption, as its owner: ``python -m nescient_fl.serve_model``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from nescient_fl.cli import run_command


def _option(help: str, **kwargs: Any) -> Any:
    return typer.Option(help=help, show_default=False, **kwargs)


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
) -> None:
    """Serve a model to the clinics of a roster: they learn scores, and this side learns how many images there were.

    Runs until Ctrl-C. What it must not forget (material, the clinics' counts) lies in the folder of keys.
    """
    options = {key: value for key, value in locals().items() if key != "config"}
    from nescient_fl.serving.settings import merged
    from nescient_fl.serving.standing import serve_model as serve

    known = {
        **dict.fromkeys(("model", "keys", "roster", "calibration"), Path),
        **dict.fromkeys(("limit", "ahead", "batch"), int),
        "authority": str,
    }
    serve(merged(options, config, known), lambda line: print(line, flush=True))


if __name__ == "__main__":
    run_command(serve_model)
