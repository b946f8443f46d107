"""A study's finished model as a file: the weights, and what whoever uses them must know."""

from nescient_fl.lesion.network import Weights, weights_sha256
from nescient_fl.study.checkpoint import save_checkpoint
from nescient_fl.study.run_folder import RunFolder
from nescient_fl.study.settings import StudySettings


def save_model(run: RunFolder, settings: StudySettings, weights: Weights, number: int, threshold: float) -> str:
    """Write the model of round ``number`` with its operating point. Returns its hash."""
    sha256 = weights_sha256(weights)
    recipe = settings.resolved_recipe()
    about = {
        "geometry": settings.geometry,
        "recipe": settings.recipe,
        "standardise": recipe.standardise,
        "activation": recipe.network.activation,
        "round": number,
        "threshold": threshold,
        "target_recall": settings.target_recall,
        "sha256": sha256,
    }
    save_checkpoint(run.model, {"model": weights}, about)
    return sha256
