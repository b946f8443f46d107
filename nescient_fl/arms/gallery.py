"""Which phantoms the report shows with their predictions."""

import numpy as np

from nescient_fl.arms.data import StudyData
from nescient_fl.arms.scoring import ArmModel, Scorer
from nescient_fl.study.report import GalleryItem

_EACH = 3
_OUTCOMES = ((1, True), (1, False), (0, False), (0, True))


def choose_gallery(data: StudyData, scorer: Scorer, model: ArmModel) -> list[GalleryItem]:
    """Pick held-out phantoms of every outcome: the surest, the least sure and one between.

    Returns nothing unless every radiograph of the study is a phantom: no real one is ever shown.
    """
    if not data.synthetic or data.source != "phantom":
        return []
    scores, threshold = scorer.probabilities(model.weights), scorer.threshold(model.counts)
    table = data.table.iloc[scorer.rows]
    targets = table["target"].to_numpy()
    items = []
    for target, called in _OUTCOMES:
        chosen = np.flatnonzero((targets == target) & ((scores >= threshold) == called))
        if not len(chosen):
            continue
        chosen = chosen[np.argsort(-np.abs(scores[chosen] - threshold), kind="stable")]
        for place in chosen[np.unique(np.linspace(0, len(chosen) - 1, _EACH).astype(int))]:
            row = table.iloc[place]
            items.append(
                GalleryItem(
                    pixels=np.array(data.cache.pixels[scorer.rows[place]]),
                    caption=f"{row['view']}, {row['site']}",
                    target=int(target),
                    score=float(scores[place]),
                    threshold=threshold,
                )
            )
    return items
