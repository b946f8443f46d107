"""Whom the attacks are made on: sites with synthetic radiographs, and the updates that they train."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, conv2d, max_pool2d

from nescient_fl.lesion.network import LesionNetwork, Weights, build_network, get_weights, set_weights
from nescient_fl.lesion.recipe import Recipe, recipe_to_json
from nescient_fl.lesion.training import make_optimiser
from nescient_fl.messages import RoundOrder
from nescient_fl.radiographs.geometry import to_frame
from nescient_fl.radiographs.phantom.population import plan_population
from nescient_fl.radiographs.phantom.render import render_all

CANDIDATES = 51
"""Radiographs that a victim's is looked for among: its own and 50 others."""
STEP = 0.05
"""Step size of the sites' gradient descent."""


@dataclass(frozen=True)
class Scene:
    """Synthetic radiographs of one patient each, and the global model that sites train.

    pixels uint8 [n, 320, 390]; inputs float32 [n, 1, 320, 390] as the recipe makes them; labels float32 [n].
    """

    pixels: NDArray[np.uint8] = field(repr=False)
    inputs: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)
    recipe: Recipe
    seed: int
    weights: Weights = field(repr=False)

    def __len__(self) -> int:
        return len(self.pixels)

    def network(self) -> LesionNetwork:
        """Return the network with the global weights."""
        network = build_network(self.recipe.network, seed=self.seed)
        set_weights(network, self.weights)
        return network

    def order(self, number: int = 1, train: bool = True) -> RoundOrder:
        """Return the order of one round."""
        return RoundOrder(number, 8, 1, self.seed, recipe_to_json(self.recipe), train)

    def features(self) -> NDArray[np.float32]:
        """Return what the first dense layer is given for each radiograph, float32 [n, 1560]."""
        with torch.inference_mode():
            found: NDArray[np.float32] = features_of(self.network(), self.inputs).numpy()
        return found


def draw_scene(recipe: Recipe, seed: int = 0, images: int = CANDIDATES, phantom_seed: int = 11) -> Scene:
    """Draw radiographs of different patients, and the model that a study of this recipe and seed begins with."""
    plans = plan_population(6 * images, phantom_seed)
    first = {plan.patient: plan for plan in reversed(plans)}
    chosen = [first[patient] for patient in sorted(first)[:images]]
    pixels = np.stack([to_frame(picture, "upright") for _, picture in render_all(chosen, phantom_seed)])
    inputs = torch.from_numpy(pixels).float()
    if recipe.standardise:
        inputs = (inputs - inputs.mean((1, 2), keepdim=True)) / inputs.std((1, 2), keepdim=True)
    else:
        inputs = inputs / 255
    labels = torch.tensor([float(plan.code == "1.0") for plan in chosen])
    weights = get_weights(build_network(recipe.network, seed=seed))
    return Scene(pixels, inputs.unsqueeze(1), labels, recipe, seed, weights)


def descend(scene: Scene, images: Sequence[int], steps: int = 1, rate: float = STEP) -> Weights:
    """Return a site's update after gradient descent on its images, as FedAvg has it (McMahan et al., 2017).

    Every step is on all of them; the update is the trained minus the global weights, float32.
    """
    network = scene.network()
    optimiser = torch.optim.SGD(network.parameters(), lr=rate)
    return _trained(scene, network, optimiser, images, steps)


def take_adam_step(scene: Scene, image: int) -> Weights:
    """Return the update of one step of the recipe's own optimiser, Adam, on one image."""
    network = scene.network()
    return _trained(scene, network, make_optimiser(network, scene.recipe), [image], 1)


def _trained(
    scene: Scene, network: LesionNetwork, optimiser: torch.optim.Optimizer, images: Sequence[int], steps: int
) -> Weights:
    rows = list(images)
    network.eval()
    for _ in range(steps):
        optimiser.zero_grad()
        logits = network(scene.inputs[rows])
        torch.autograd.backward(binary_cross_entropy_with_logits(logits, scene.labels[rows].unsqueeze(1)))
        optimiser.step()
    trained = get_weights(network)
    return {name: trained[name] - scene.weights[name] for name in scene.weights}


def features_of(network: LesionNetwork, images: Tensor) -> Tensor:
    """Return the first dense layer's input, float32 [B, 1560]; unlike the network's own, images get a gradient."""
    convolution, activation, pool = network[0], network[1], network[2]
    assert isinstance(convolution, nn.Conv2d)
    assert isinstance(pool, nn.MaxPool2d)
    values = conv2d(images, convolution.weight, convolution.bias, stride=convolution.stride)
    size = int(pool.kernel_size) if isinstance(pool.kernel_size, int) else pool.kernel_size
    if isinstance(activation, nn.ReLU):  # commutes with pooling, and then has a 64th of the work
        return torch.relu(max_pool2d(values, size)).flatten(1)
    pooled: Tensor = max_pool2d(activation(values), size)
    return pooled.flatten(1)
