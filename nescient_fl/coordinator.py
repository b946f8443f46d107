"""Coordinate a federation: ``nescient coordinator --config coordinator.toml``."""

from pathlib import Path
from typing import Annotated

import typer

from nescient_fl.cli import run_command


def coordinator(
    config: Annotated[
        Path, typer.Option(help="TOML file of the coordinator's settings; NESCIENT_... variables go before it.")
    ],
    check: Annotated[bool, typer.Option("--check", help="Say whether all is in place to begin, and stop.")] = False,
) -> None:
    """Coordinate a federation: admit its members, relay what they seal for each other, and keep the model.

    Runs a run folder to its last round and ends; SIGTERM or Ctrl-C leave a run that the same command goes on
    with. Logs are lines of JSON.
    """
    import os

    from nescient_fl.deployment.roles import CoordinatorSettings, read_role

    settings = read_role(CoordinatorSettings, config, os.environ)
    if check:
        from nescient_fl.deployment.checks import check_coordinator

        raise typer.Exit(check_coordinator(settings))
    from nescient_fl.deployment.coordinator import run_coordinator

    run_coordinator(settings)


if __name__ == "__main__":
    run_command(coordinator)
