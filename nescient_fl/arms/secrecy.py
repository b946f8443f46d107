"""Keys, terms and the audit of a simulated secure study."""

import contextlib
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nescient_fl.arms.data import StudyData, cache_folder
from nescient_fl.arms.engines import Members
from nescient_fl.errors import UserError
from nescient_fl.lesion.network import Weights, build_network, get_weights
from nescient_fl.lesion.recipe import recipe_to_json
from nescient_fl.messages import RoundOrder
from nescient_fl.mpc.errors import BoundError, MpcError
from nescient_fl.mpc.terms import fraction_bits_for
from nescient_fl.mpc.vault import Vault, create_vault
from nescient_fl.sealed_vector import clip_update
from nescient_fl.study.checkpoint import load_checkpoint
from nescient_fl.study.run_folder import RunFolder, read_json, read_lines
from nescient_fl.study.settings import StudySettings
from strategies.averaging import Contribution, average


def helper_nodes(settings: StudySettings) -> int:
    """Return how many nodes work beside the sites: the compute parties and their dealer."""
    return 0 if settings.aggregation == "plain" else settings.parties + 1


def secure_part(
    settings: StudySettings, data: StudyData, run: RunFolder, members: Members | None = None
) -> dict[str, Any] | None:
    """Return the ``secure`` part of config.json, making keys and roster if the run has none; None when plain.

    The keys lie outside of the run folder, in the user's cache folder, and are deleted when the study is done. With
    ``members`` none are made: links to theirs lie there, and ``given`` names their roster.
    Raises UserError for a clip that is too large, or a study of too few sites.
    """
    if settings.aggregation == "plain":
        return None
    if unknown := sorted(set(settings.share_metrics) - {*data.sites, "all"}):
        raise UserError(f"--share-metrics {unknown[0]}: the hospitals are {', '.join(data.sites)}, or say all")
    saved = read_json(run.config).get("secure") if run.config.exists() else None
    largest = max(len(data.site(name).train) for name in data.sites)
    weight_max = 1 << (largest - 1).bit_length()
    private = settings.dp_epsilon is not None
    try:
        fraction_bits_for(settings.clip, 1 if private else weight_max)
    except BoundError as error:
        raise UserError(f"--clip {settings.clip:g}: {error}") from None
    identity = saved["run"] if saved else uuid.uuid4().hex
    folder = cache_folder() / "keys" / identity[:12]
    minimum = settings.needed_sites(len(data.sites))
    if members is not None:
        members.check(data.sites, minimum)
    if not folder.exists():
        if members is None:
            create_vault(folder, "simulation", data.sites, settings.parties, minimum)
        else:
            members.make_vault(folder)
    multiplier = 0.0
    if settings.dp_epsilon is not None and settings.dp_delta is not None:
        from nescient_fl.mpc.privacy import multiplier_for_study

        multiplier = multiplier_for_study(settings.dp_epsilon, settings.dp_delta, settings.rounds)
    return {
        "run": identity,
        "vault": str(folder),
        "minimum": minimum,
        "weight_max": weight_max,
        "noise_multiplier": multiplier,
        **({} if members is None else {"given": str(members.path)}),
    }


def forget_keys(run: RunFolder) -> None:
    """Delete the keys of a finished study."""
    secure = read_json(run.config).get("secure")
    if secure:
        with contextlib.suppress(MpcError):
            Vault(Path(secure["vault"])).remove()


def describe_secure(
    settings: StudySettings, data: StudyData, run: RunFolder, device: torch.device | None
) -> dict[str, Any] | None:
    """Return the ``secure`` part of metrics.json, None when updates went in clear.

    Without a device the first sum is not held against the plain updates: outside of a simulation nobody may.
    """
    if settings.aggregation == "plain":
        return None
    config = read_json(run.config)["secure"]
    lines = [
        line["secure"] | {"bytes": line["by_site"], "aborted": len(line["aborted"])}
        for line in read_lines(run.rounds)
        if "secure" in line
    ]
    uploads = [site["bytes_up"] for line in lines for site in line["bytes"] if site["bytes_up"] is not None]
    sealing = [
        line["seal_seconds"]
        for line in read_lines(run.transcript)
        if line["kind"] == "sealed update" and line["seal_seconds"] is not None
    ]
    epsilon = None
    if config["noise_multiplier"]:
        from nescient_fl.mpc.privacy import PrivacyBudget, PrivacyLedger

        assert settings.dp_epsilon is not None
        assert settings.dp_delta is not None
        budget = PrivacyBudget(settings.dp_epsilon, settings.dp_delta, config["noise_multiplier"])
        epsilon = PrivacyLedger(run.ledger, budget).epsilon
    return {
        "enabled": True,
        "parties": settings.parties,
        "minimum_sites": config["minimum"],
        "clip": settings.clip,
        "bytes_per_site_round": round(float(np.mean(uploads))) if uploads else None,
        "site_seconds": round(float(np.median(sealing)), 6) if sealing else None,
        "party_seconds": _median([line["party_seconds"] for line in lines]),
        "excluded": sum(len(line["excluded"]) for line in lines),
        "aborted": sum(line["aborted"] for line in lines),
        "shared_metrics": sorted({name for line in lines for name in line["shared_metrics"]}),
        "max_abs_error": audit_first_sum(settings, data, run, device) if device and epsilon is None else None,
        "epsilon": epsilon,
        "delta": settings.dp_delta,
        "noise_multiplier": config["noise_multiplier"] or None,
    }


def audit_first_sum(settings: StudySettings, data: StudyData, run: RunFolder, device: torch.device) -> float | None:
    """Return the largest difference of a weight between the first opened average and plain FedAvg of the same.

    Only a simulation can ask: it trains the first round of every site once more, in clear, here. None when the
    first round's average was not kept.
    """
    if not run.first_sum.exists():
        return None
    groups, values = load_checkpoint(run.first_sum)
    from sites.site import Site

    recipe = settings.federated_recipe()
    weights: Weights = get_weights(build_network(recipe.network, seed=settings.seed))
    order = RoundOrder(1, settings.rounds, settings.local_epochs, settings.seed, recipe_to_json(recipe), True)
    contributions = []
    for name in values["sites"]:
        report, _, update = Site(data.site(name), device).answer(order, weights)
        assert update is not None
        contributions.append(Contribution(name, report.images, clip_update(update, settings.clip)))
    plain = average(weights, contributions)
    return max(float((plain[name].double() - groups["averaged"][name].double()).abs().max()) for name in plain)


def _median(values: list[float]) -> float | None:
    return round(float(np.median(values)), 3) if values else None
