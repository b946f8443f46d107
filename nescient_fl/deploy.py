"""Run a federation as real processes on this machine: ``python -m nescient_fl.deploy --clients 5``."""

import inspect
from typing import Any

from nescient_fl.cli import run_command
from nescient_fl.simulate import simulate

_LEFT_OUT = ("prepare_only",)


def deploy(**given: Any) -> None:
    """Run a federation as real processes on this machine, each with its own folder, over TLS.

    Starts a coordinator, a process for each hospital with its own radiographs only, compute parties and a dealer;
    shows them while they work; and stops everything. The same options, seed and data give the same model as
    simulate. The pooled and the local models, which no real federation could train, are trained with --baselines.
    """
    study = ("out", "resume", "config")
    options = {key: value for key, value in given.items() if key not in study and value is not None}
    if given["resume"] is None:
        options.setdefault("baselines", False)
        options.setdefault("encrypted_images", 0)
    from nescient_fl.arms.engines import EngineKind
    from nescient_fl.arms.session import run_study
    from nescient_fl.deployment.launcher import DeploymentEngine
    from nescient_fl.deployment.view import DeploymentWatcher

    kind = EngineKind("deployment", "deploy", DeploymentEngine)
    run_study(
        options,
        out=given["out"],
        resume=given["resume"],
        config=given["config"],
        engine_kind=kind,
        make_watcher=DeploymentWatcher,
    )


# The options are those of simulate, so that neither command can have one that the other lacks.
_signature = inspect.signature(simulate)
_kept = [parameter for name, parameter in _signature.parameters.items() if name not in _LEFT_OUT]
deploy.__signature__ = _signature.replace(parameters=_kept)  # type: ignore[attr-defined]
deploy.__annotations__ = {parameter.name: parameter.annotation for parameter in _kept} | {"return": None}


if __name__ == "__main__":
    run_command(deploy)
