"""What every command shares: one clear line for a user's mistake, and the ``nescient`` umbrella command.

A command module defines a function with typer annotations (or a ``command_group`` of them), ``run_command`` of it
under ``if __name__ == "__main__"``, and an entry in ``COMMANDS``. It imports what is heavy inside the function, so
that ``--help`` and a mistyped option answer at once.
"""

import functools
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import click
import typer

from nescient_fl.errors import UserError, UserErrors

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130

COMMANDS = {
    "simulate": ("nescient_fl.simulate", "simulate"),
    "deploy": ("nescient_fl.deploy", "deploy"),
    "status": ("nescient_fl.status", "status"),
    "federation": ("nescient_fl.federation", "federation"),
    "coordinator": ("nescient_fl.coordinator", "coordinator"),
    "site": ("nescient_fl.site", "site"),
    "party": ("nescient_fl.party", "party"),
    "dealer": ("nescient_fl.dealer", "dealer"),
    "prepare": ("nescient_fl.prepare", "prepare"),
    "phantom": ("nescient_fl.phantom", "phantom"),
    "centralize": ("nescient_fl.centralize", "centralize"),
    "evaluate": ("nescient_fl.evaluate", "evaluate"),
    "serve-model": ("nescient_fl.serve_model", "serve_model"),
    "deal": ("nescient_fl.deal", "deal"),
    "score": ("nescient_fl.score", "score"),
    "tune": ("nescient_fl.tune", "tune"),
    "audit": ("nescient_fl.audit", "audit"),
    "runs": ("nescient_fl.runs", "runs"),
    "roster": ("nescient_fl.roster", "roster"),
}


def command_group(about: str, functions: Sequence[Callable[..., Any]]) -> typer.Typer:
    """Return a command of commands, each named like its function."""
    app = typer.Typer(
        add_completion=False,
        pretty_exceptions_enable=False,
        no_args_is_help=True,
        rich_markup_mode="rich",
        help=about,
    )
    for function in functions:
        app.command(function.__name__)(_interruptible(function))
    return app


def run_command(function: Callable[..., Any]) -> None:
    """Run one typer-annotated function, or a group of them, as a program and exit.

    A ``UserError`` or a full or forbidden disk becomes one line on standard error and exit status 2, ``UserErrors``
    a line for each; Ctrl-C becomes one line and 130. Anything else is a defect and keeps its traceback.
    """
    if isinstance(function, typer.Typer):
        _run(function)
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")
    app.command()(_interruptible(function))
    _run(app)


def _interruptible(function: Callable[..., Any]) -> Callable[..., Any]:
    """Say one line on Ctrl-C; left to typer, it would end without a word."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except KeyboardInterrupt:
            _fail("interrupted", status=EXIT_INTERRUPTED)

    return run


def _run(app: typer.Typer) -> NoReturn:
    try:
        # Not standalone, so that a mistyped option is told in the same one line as every other mistake.
        status = app(standalone_mode=False)
    except click.UsageError as error:
        if message := error.format_message():
            _fail(f"{message} See --help.", status=EXIT_USER_ERROR)
        raise SystemExit(EXIT_USER_ERROR) from None  # no command was named: the help is shown
    except UserErrors as error:
        _fail(*error.problems, status=EXIT_USER_ERROR)
    except UserError as error:
        _fail(str(error), status=EXIT_USER_ERROR)
    except OSError as error:
        if error.errno is None or (error.filename is None and error.errno not in _DISK_ERRORS):
            raise
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"{where}{os.strerror(error.errno)}; free or change that path and run again", status=EXIT_USER_ERROR)
    raise SystemExit(status if isinstance(status, int) else 0)


_DISK_ERRORS = {28, 30, 122}  # no space left, read-only file system, quota exceeded


def _fail(*messages: str, status: int) -> NoReturn:
    for message in messages:
        print(f"error: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(status)


def main() -> None:
    """Run ``nescient COMMAND ...``: the same commands as ``python -m nescient_fl.COMMAND``."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)
    wanted = sys.argv[1] if len(sys.argv) > 1 else None
    for name, (module, function) in COMMANDS.items():
        # Only the command that was asked for is imported, unless help for all of them is.
        if wanted in (None, name) or wanted not in COMMANDS:
            command = getattr(importlib.import_module(module), function)
            if isinstance(command, typer.Typer):
                app.add_typer(command, name=name)
            else:
                app.command(name)(_interruptible(command))
    app.callback()(_describe)
    _run(app)


def _describe() -> None:
    """Lung-lesion detection on chest radiographs, learned across hospitals that never share an image."""


if __name__ == "__main__":
    main()
