"""Show how a running federation's actors are: ``python -m nescient_fl.status``."""

from typing import Annotated

import typer

from nescient_fl.cli import run_command


def status(
    places: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PLACE...",
            help="Run folders, folders of them, roles' TOML files, or host:port of health pages. [dim](runs)[/]",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for other programs.")] = False,
) -> None:
    """Show a running federation: what each actor does, its round, its last message, its bytes, and what is wrong.

    A PLACE is a run folder that nescient deploy works on, a folder of them (without
    any: runs), a role's TOML file, or the address of a health page, host:port.
    Ends with status 1 if an actor does not answer or is not healthy.
    """
    import json
    import os

    from rich.console import Console

    from nescient_fl.deployment.status import federation_status
    from nescient_fl.deployment.view import actors_table

    found = federation_status(places or ["runs"], os.environ)
    if as_json:
        print(json.dumps({"federations": [federation.record() for federation in found]}, indent=1))
    else:
        console = Console()
        for federation in found:
            console.print(federation.title(), highlight=False, soft_wrap=True, markup=False)
            console.print(actors_table(federation.actors))
    raise typer.Exit(0 if all(federation.well for federation in found) else 1)


if __name__ == "__main__":
    run_command(status)
