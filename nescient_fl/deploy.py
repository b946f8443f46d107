"""Run a federation as real processes on this machine: ``python -m nescient_fl.deploy --clients 5``."""

import inspect
from pathlib import Path
from typing import Annotated, Any

import typer

from nescient_fl.cli import run_command
from nescient_fl.simulate import simulate

_LEFT_OUT = ("prepare_only",)
_OTHERWISE = {"baselines": False, "encrypted_images": 0}
"""Defaults that are not those of simulate."""


def deploy(roster: Path | None, **given: Any) -> None:
    """Run a federation as real processes on this machine, each with its own folder, over TLS.

    Starts a coordinator, a process for each hospital with its own radiographs only, compute parties and a dealer;
    shows them while they work; and stops everything. The same options, seed and data give the same model as
    simulate. The pooled and the local models, which no real federation could train, are trained with --baselines.
    """
    study = ("out", "resume", "config")
    options = {key: value for key, value in given.items() if key not in study and value is not None}
    from nescient_fl.arms.engines import EngineKind
    from nescient_fl.arms.session import run_study
    from nescient_fl.deployment.given import study_members
    from nescient_fl.deployment.launcher import DeploymentEngine
    from nescient_fl.deployment.view import DeploymentWatcher
    from nescient_fl.study.settings import read_config_file

    said = {**(read_config_file(given["config"]) if given["config"] else {}), **options}
    members, decided = study_members(roster, given["resume"], said)
    if given["resume"] is None:
        decided |= {name: value for name, value in _OTHERWISE.items() if name not in said}
    kind = EngineKind("deployment", "deploy", DeploymentEngine, members=members)
    run_study(
        {**options, **decided},
        out=given["out"],
        resume=given["resume"],
        config=given["config"],
        engine_kind=kind,
        make_watcher=DeploymentWatcher,
    )


# The options are those of simulate, so that neither command can have one that the other lacks, but for the roster.
_roster = inspect.Parameter(
    "roster",
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
    default=None,
    annotation=Annotated[
        Path | None,
        typer.Option(
            help="A signed roster, its members' keys and the link's certificate beside it, to use instead of making "
            "them (docs/deploy.md says how the files are called). [dim](new ones)[/]",
            rich_help_panel="Privacy",
            show_default=False,
        ),
    ],
)
_signature = inspect.signature(simulate)
_kept = [_roster, *(parameter for name, parameter in _signature.parameters.items() if name not in _LEFT_OUT)]
deploy.__signature__ = _signature.replace(parameters=_kept)  # type: ignore[attr-defined]
deploy.__annotations__ = {parameter.name: parameter.annotation for parameter in _kept} | {"return": None}


if __name__ == "__main__":
    run_command(deploy)
