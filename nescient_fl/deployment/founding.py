"""What is made once, before a federation on real hosts runs: a site's prepared data, and the coordinator's run."""

import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nescient_fl.deployment.site_data import write_site_folder
from nescient_fl.errors import UserError
from nescient_fl.mpc.errors import BoundError, MpcError, RosterError
from nescient_fl.mpc.roster import check_name, read_signed
from nescient_fl.mpc.terms import fraction_bits_for
from nescient_fl.radiographs.cache import build_cache
from nescient_fl.radiographs.cohort import CohortRule
from nescient_fl.radiographs.partition import PartitionRule, assign_sites
from nescient_fl.study.model_file import save_model
from nescient_fl.study.run_folder import RunFolder, read_json, write_json
from nescient_fl.study.settings import StudySettings, make_settings
from sites.datasets import load_cohort
from strategies.state import FederationState

_FOUND = "founded"
"""Mark in config.json of a run whose coordinator holds no radiographs."""


def prepare_site(name: str, settings: StudySettings, folder: Path) -> dict[str, int]:
    """Select, decode and divide one hospital's radiographs into a new folder. Returns images by split.

    Of the settings those of data and cohort, ``geometry`` and ``seed`` count; all sites of a federation must
    agree on them but for ``data``. Raises UserError for data that cannot be used, or a folder that is there.
    """
    try:
        check_name(name)
    except RosterError as error:
        raise UserError(str(error)) from None
    if folder.exists():
        raise UserError(f"{folder} is there already: name a new folder")
    if not settings.data:
        raise UserError("name the hospital's dataset folder with --data")
    rule = CohortRule(
        rule=settings.cohort,  # type: ignore[arg-type]
        uncertain=settings.uncertain,  # type: ignore[arg-type]
        balance=settings.balance,
        seed=settings.seed,
    )
    sources = [*settings.source, *[None] * (len(settings.data) - len(settings.source))]
    loaded = load_cohort([(Path(d), s) for d, s in zip(settings.data, sources, strict=True)], rule)
    building = folder.with_name(f".{folder.name}-{os.getpid()}")
    result = build_cache(loaded.roots, loaded.cohort.table, settings.geometry, building)  # type: ignore[arg-type]
    division = PartitionRule(
        clients=1, seed=settings.seed, minimum_images=settings.min_images, minimum_positives=settings.min_positives
    )
    assigned = assign_sites(result.table, division)
    table = result.table.assign(site=name, split=assigned["split"].array)
    write_site_folder(folder, result.cache, table, name)
    for path in sorted(result.cache.directory.iterdir()):
        path.unlink()
    result.cache.directory.rmdir()
    building.rmdir()
    return {str(split): int(count) for split, count in table["split"].value_counts().items()}


def found_run(
    out: Path | None, roster: Path, authority: str, largest_site: int, options: Mapping[str, Any]
) -> RunFolder:
    """Write the run folder that a coordinator without radiographs begins with.

    ``largest_site`` bounds the training images of any hospital: weights beyond it are cut to it, and the finer
    it is, the finer the sums. Raises UserError for a roster or settings that cannot be.
    """
    try:
        signed = read_signed(roster, authority)
    except MpcError as error:
        raise UserError(str(error)) from None
    if largest_site < 1:
        raise UserError(f"--largest-site must be 1 or more, got {largest_site}")
    decided = {"clients": len(signed.sites), "parties": len(signed.parties)}
    for name, count in decided.items():
        if options.get(name, count) != count:
            raise UserError(f"{name} is {options[name]}, and the roster has {count}: leave it away")
    settings = make_settings({**options, **decided})
    if settings.aggregation != "secure":
        raise UserError("a founded run is secure: leave aggregation away")
    multiplier = 0.0
    if settings.dp_epsilon is not None and settings.dp_delta is not None:
        from nescient_fl.mpc.privacy import multiplier_for_study  # takes a second, and only noise needs it

        multiplier = multiplier_for_study(settings.dp_epsilon, settings.dp_delta, settings.rounds)
    weight_max = 1 << max(largest_site - 1, 1).bit_length()
    try:
        # With noise every site weighs 1.
        fraction_bits_for(settings.clip, 1 if multiplier else weight_max)
    except BoundError as error:
        raise UserError(f"--largest-site {largest_site}: {error}") from None
    run = RunFolder.create(out)
    trust = run.path / "federation"
    trust.mkdir()
    (trust / "roster.json").write_bytes(roster.read_bytes())
    (trust / "authority.txt").write_text(authority + "\n")
    sites = [site.name for site in signed.sites]
    write_json(
        run.config,
        {
            **settings.as_dict(),
            "settings": settings.as_dict(),
            "sites": sites,
            "secure": {
                "run": uuid.uuid4().hex,
                "vault": trust.name,
                "minimum": settings.needed_sites(len(sites)),
                "weight_max": weight_max,
                "noise_multiplier": multiplier,
            },
            _FOUND: True,
            "command": "nescient coordinator",
        },
    )
    return run


def noise_of(run: RunFolder) -> float:
    """Return the noise multiplier of a founded run, 0 without differential privacy."""
    return float(read_json(run.config)["secure"]["noise_multiplier"])


def own_words(run: RunFolder, reason: str) -> str:
    """Return why a run cannot go on, for whoever runs it: a founded run goes on with its coordinator's own command."""
    if not read_json(run.config).get(_FOUND):
        return reason
    return reason.replace(f"go on with --resume {run.path}", "start the coordinator again to go on")


def save_founded_model(run: RunFolder, state: FederationState) -> str | None:
    """Write the best model of a finished run whose coordinator holds no radiographs. Returns its hash, else None."""
    config = read_json(run.config)
    if not config.get(_FOUND) or state.best is None:
        return None
    settings = make_settings(config["settings"])
    threshold = state.best.counts.threshold_for_recall(settings.target_recall)
    return save_model(run, settings, state.best.weights, state.best.round, threshold)
