"""Deal correlated randomness for encrypted inference: ``python -m nescient_fl.deal``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from nescient_fl.cli import run_command


def _option(help: str) -> Any:
    return typer.Option(help=help, show_default=False)


def deal(
    keys: Annotated[Path | None, _option("The dealer's folder of private keys.")] = None,
    roster: Annotated[Path | None, _option("The signed roster.")] = None,
    authority: Annotated[str | None, _option("Whom you trust: its member file, or its public key in hex.")] = None,
    config: Annotated[Path | None, _option("TOML file of options; the command line goes first.")] = None,
) -> None:
    """Make the random material that owners and clinics compute with; it sees no image, no weight and no score.

    Runs until Ctrl-C. Whoever runs it must not be in league with an owner or a clinic.
    """
    options = {"keys": keys, "roster": roster, "authority": authority}
    from nescient_fl.serving.settings import merged
    from nescient_fl.serving.standing import deal as serve

    known = {"keys": Path, "roster": Path, "authority": str}
    serve(merged(options, config, known), lambda line: print(line, flush=True))


if __name__ == "__main__":
    run_command(deal)
