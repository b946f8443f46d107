"""Be the dealer of a federation: ``nescient dealer --config dealer.toml``."""

from pathlib import Path
from typing import Annotated

import typer

from nescient_fl.cli import run_command


def dealer(
    config: Annotated[
        Path, typer.Option(help="TOML file of the dealer's settings; NESCIENT_... variables go before it.")
    ],
    check: Annotated[bool, typer.Option("--check", help="Say whether all is in place to join, and stop.")] = False,
) -> None:
    """Be the dealer: it hands correlated randomness to the parties and sees no data.

    Runs until SIGTERM or Ctrl-C, and answers the message it works on before it ends. Logs are lines of JSON.
    """
    import os

    from nescient_fl.deployment.roles import DealerSettings, read_role

    settings = read_role(DealerSettings, config, os.environ)
    if check:
        from nescient_fl.deployment.checks import check_member

        raise typer.Exit(check_member(settings))
    from nescient_fl.deployment.member import run_member

    run_member(settings)


if __name__ == "__main__":
    run_command(dealer)
