"""Have radiographs scored by a model that stays hidden, without showing them: ``python -m nescient_fl.score``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from nescient_fl.cli import run_command


def _option(help: str) -> Any:
    return typer.Option(help=help, show_default=False)


def score(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Radiographs: JPEG, PNG, TIFF, ...")],
    keys: Annotated[Path | None, _option("The clinic's folder of private keys.")] = None,
    roster: Annotated[Path | None, _option("The signed roster.")] = None,
    authority: Annotated[str | None, _option("Whom you trust: its member file, or its public key in hex.")] = None,
    owner: Annotated[str | None, _option("The model's owner. [dim](the only one of the roster)[/]")] = None,
    batch: Annotated[int | None, _option("Images that are scored at a time. [dim](8, or fewer images)[/]")] = None,
    check_dealer: Annotated[
        bool | None,
        _option(
            "Score every image twice, so that a dealer that spoils any of them is found out: twice the time, the "
            "material and the limit. [dim](no)[/]"
        ),
    ] = None,
    out: Annotated[Path | None, _option("Write the scores to this file too, as JSON.")] = None,
    config: Annotated[Path | None, _option("TOML file of options; the command line goes first.")] = None,
) -> None:
    """Score radiographs under encryption; only this side learns the scores.

    A lesion is called at the model's operating point, the threshold that its owner chose on validation patients.
    """
    options = {key: value for key, value in locals().items() if key not in ("config", "images", "out")}
    from rich.console import Console

    from nescient_fl.serving.scoring import score_files, scores_table
    from nescient_fl.serving.settings import merged
    from nescient_fl.study.pace import WorkProgress
    from nescient_fl.study.run_folder import write_json

    known = {"keys": Path, "roster": Path, "authority": str, "owner": str, "batch": int, "check_dealer": bool}
    console = Console()
    with WorkProgress(console, "connecting") as progress:
        result = score_files(images, merged(options, config, known), out, progress)
    if out is not None:
        write_json(out, result)
    console.print(scores_table(result))


if __name__ == "__main__":
    run_command(score)
