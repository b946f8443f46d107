"""What an audit is of: the settings of a finished secure study, or those that a study has by default."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nescient_fl.errors import UserError
from nescient_fl.lesion.recipe import Recipe
from nescient_fl.mpc.privacy import PrivacyBudget, noise_multiplier_for
from nescient_fl.study.run_folder import RunFolder, read_json
from nescient_fl.study.settings import StudySettings, make_settings

EPSILON, DELTA = 1.0, 1e-5
"""The budget that attacks on the sum are tried against where the study has none."""
_WEIGHT_MAX = 512


@dataclass(frozen=True)
class Subject:
    """What of a study the attacks depend on.

    Attributes:
        recipe, seed: the network, its inputs and its initial weights.
        parties, clip, weight_max: how updates are sealed.
        budget: the differential privacy that attacks on the sum are tried against.
        private: whether the study itself adds that noise.
        run: the finished study, None for the default settings.
    """

    recipe: Recipe
    seed: int
    parties: int
    clip: float
    weight_max: int
    budget: PrivacyBudget
    private: bool
    run: RunFolder | None = None


def default_subject() -> Subject:
    """Return what a study without options would be."""
    return _subject(StudySettings(), _WEIGHT_MAX, None)


def subject_of(path: Path) -> Subject:
    """Read what a finished study was.

    Raises UserError when there is no run, one that is not finished or damaged, or one whose updates went in clear.
    """
    run = RunFolder.open(path)
    config = read_json(run.config)
    if not isinstance(config, Mapping) or not isinstance(config.get("settings"), Mapping):
        raise UserError(f"{run.config} is damaged (it holds no settings): run the study again")
    try:
        settings = make_settings(config["settings"])
    except UserError as error:
        raise UserError(f"{run.config} is damaged ({error}): run the study again") from None
    if settings.aggregation == "plain":
        raise UserError(f"{path} sent its updates in clear: there is nothing sealed to attack; run a secure study")
    if not run.metrics.is_file():
        raise UserError(f"the study in {path} is not finished: go on with --resume {path}, then audit it")
    secure = config.get("secure")
    if not isinstance(secure, Mapping) or type(secure.get("weight_max")) is not int:
        raise UserError(f"{run.config} is damaged (it holds no terms of secure aggregation): run the study again")
    return _subject(settings, secure["weight_max"], run)


def _subject(settings: StudySettings, weight_max: int, run: RunFolder | None) -> Subject:
    private = settings.dp_epsilon is not None and settings.dp_delta is not None
    epsilon = EPSILON if settings.dp_epsilon is None else settings.dp_epsilon
    delta = DELTA if settings.dp_delta is None else settings.dp_delta
    # One sum a round, and one more that scores the last model.
    multiplier = noise_multiplier_for(epsilon, delta, settings.rounds + 1)
    return Subject(
        recipe=settings.resolved_recipe(),
        seed=settings.seed,
        parties=settings.parties,
        clip=settings.clip,
        weight_max=1 if private else weight_max,
        budget=PrivacyBudget(epsilon, delta, multiplier),
        private=private,
        run=run,
    )


def describe(subject: Subject) -> dict[str, Any]:
    """Return a subject for audit.json."""
    return {
        "recipe": subject.recipe.name,
        "seed": subject.seed,
        "parties": subject.parties,
        "clip": subject.clip,
        "weight_max": subject.weight_max,
        "epsilon": subject.budget.epsilon,
        "delta": subject.budget.delta,
        "noise_multiplier": subject.budget.noise_multiplier,
        "private": subject.private,
    }
