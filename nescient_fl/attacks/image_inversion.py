"""Rebuilding a radiograph from an update: first the dense layer's input, then an image that has it.

The first dense layer gives its input away (``dense_inversion``); an image is then sought by gradient descent whose
pooled features are those, with small total variation (Rudin, Osher and Fatemi, 1992), as in Geiping et al.,
"Inverting Gradients" (NeurIPS 2020). Max-pooling is met by one bright pixel a cell, so the search goes from a coarse
grid to a fine one: what is smooth is settled first.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from nescient_fl.attacks.dense_inversion import recover_features
from nescient_fl.attacks.evidence import Finding, Picture, Progress, Trial, correlations, rank_of
from nescient_fl.attacks.federation import Federation
from nescient_fl.attacks.readings import ranking_trial, sealed_readings
from nescient_fl.attacks.victims import Scene, descend, features_of
from nescient_fl.lesion.network import FRAME, LesionNetwork

RECOGNISABLE = 0.7
"""Correlation with the true radiograph from which a person sees whose it is."""
VICTIMS = 3

_STAGES = (
    ((14, 17), 50, 0.24, 0.0),
    ((27, 33), 40, 0.08, 0.03),
    ((54, 66), 50, 0.05, 0.05),
    ((80, 98), 20, 0.02, 0.1),
)
"""Grid, steps, step size, and the weight of total variation, of each stage."""
_LARGEST_FEATURE = 10.0
"""No feature of a standardised image comes near it: what an attacker may know, and does."""


def rebuild_images(
    network: LesionNetwork, features: NDArray[np.float64], progress: Progress | None = None
) -> NDArray[np.float32]:
    """Return images, float32 [n, 320, 390], whose pooled features are near the given ones, float64 [n, 1560]."""
    wanted = torch.from_numpy(np.clip(features, _least_feature(network), _LARGEST_FEATURE)).float()
    scale = wanted.square().sum(1).clamp_min(1e-12)
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    images = torch.zeros(len(wanted), 1, *FRAME)
    for number, (grid, steps, rate, smoothness) in enumerate(_STAGES, start=1):
        coarse = interpolate(images, size=grid, mode="area").requires_grad_()
        optimiser = torch.optim.Adam([coarse], lr=rate)
        for step in range(steps):
            if progress is not None and step % 10 == 0:
                progress(f"grid {number} of {len(_STAGES)}, step {step} of {steps}")
            optimiser.zero_grad()
            seen = _enlarged(coarse)
            misfit = ((features_of(network, seen) - wanted).square().sum(1) / scale).sum()
            torch.autograd.backward(misfit + smoothness * _total_variation(seen))
            optimiser.step()
        images = _enlarged(coarse.detach())
    found: NDArray[np.float32] = images[:, 0].numpy()
    return found


def _least_feature(network: LesionNetwork) -> float:
    """Return the least value of the activation: 0 of ReLU, a little less of GELU."""
    return float(network[1](torch.linspace(-4, 0, 401)).min())


def _enlarged(grid: Tensor) -> Tensor:
    return interpolate(grid, size=FRAME, mode="bicubic", align_corners=False)


def _total_variation(image: Tensor) -> Tensor:
    """Sum over images of the mean step between neighbours."""
    down, right = image.diff(dim=2).abs(), image.diff(dim=3).abs()
    return down.mean((1, 2, 3)).sum() + right.mean((1, 2, 3)).sum()


def grey_levels(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return an image of any scale as grey levels: its mean in the middle, two deviations to either side."""
    values = image.astype(np.float64)
    spread = float(values.std()) or 1.0
    levels: NDArray[np.uint8] = np.clip(127.5 + (values - values.mean()) / spread * 64, 0, 255).astype(np.uint8)
    return levels


def attack_images(
    scene: Scene, federation: Federation, victims: Sequence[int] = range(VICTIMS), progress: Progress | None = None
) -> Finding:
    """Rebuild some sites' radiographs from their updates, in clear and as the relay and a party hold them.

    Of the parties the last is taken: two parties' shares differ in little but their sign, and the ratio has none.
    """
    readers = ("the coordinator", "the relay", federation.parties[-1])
    found = []
    for victim in victims:
        update = descend(scene, [victim])
        readings = {readers[0]: update, **sealed_readings(federation, scene, update, victim)}
        found += [recover_features(readings[reader]) for reader in readers]
    images = rebuild_images(scene.network(), np.stack(found), progress).reshape(len(victims), len(readers), *FRAME)
    candidates = scene.pixels.reshape(len(scene), -1).astype(np.float32)
    like = [[correlations(image.ravel(), candidates) for image in row] for row in images]
    ranks = {
        reader: [rank_of(victim, like[row][column]) for row, victim in enumerate(victims)]
        for column, reader in enumerate(readers)
    }
    own = [[float(like[row][column][victim]) for row, victim in enumerate(victims)] for column in range(len(readers))]
    plain = ranking_trial({readers[0]: ranks[readers[0]]}, len(scene))
    secure = ranking_trial({reader: ranks[reader] for reader in readers[1:]}, len(scene))
    strangers = max(abs(value) for values in own[1:] for value in values)
    captions = (
        "Rebuilt from the plain update",
        "Rebuilt from what the relay holds",
        f"Rebuilt from {readers[2]}'s share",
    )
    return Finding(
        key="image_inversion",
        title="Rebuild a radiograph",
        saw="One site's update from one image: in clear; as the relay holds it; as a party holds its share.",
        plain=Trial(
            plain.succeeded and min(own[0]) >= RECOGNISABLE,
            f"{plain.brief}, correlation {min(own[0]):.2f} or more",
            f"{plain.figures['hits'][readers[0]]} of {len(victims)} rebuilt and named among {len(scene)}; "
            f"correlation with the true image {min(own[0]):.2f} to {max(own[0]):.2f}.",
            {**plain.figures, "correlations": [round(value, 4) for value in own[0]]},
        ),
        secure=Trial(
            secure.succeeded,
            f"{secure.brief}, correlation {strangers:.2f} or less",
            f"{secure.result} Correlation with the true image at most {strangers:.2f} either way.",
            {**secure.figures, "largest_correlation": round(strangers, 4)},
        ),
        pictures=[
            [
                Picture("The site's radiograph", scene.pixels[victim]),
                *(Picture(text, grey_levels(image)) for text, image in zip(captions, images[row], strict=True)),
            ]
            for row, victim in enumerate(victims)
        ],
    )
