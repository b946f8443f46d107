"""Networks, inputs and two parties in memory, for the tests of encrypted inference."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from nescient_fl.lesion.network import build_network
from nescient_fl.mpc.inference.compile import ModelWeights, compile_network
from nescient_fl.mpc.inference.correlations import DATA_OWNER, MODEL_OWNER
from nescient_fl.mpc.inference.material import Material, deal_batch, new_delivery
from nescient_fl.mpc.inference.owners import Scores, run_data_owner, run_model_owner
from nescient_fl.mpc.inference.plan import Plan
from nescient_fl.mpc.inference.store import MaterialInMemory
from nescient_fl.mpc.inference.wire import Count
from nescient_fl.mpc.randomness import fresh_stream
from tests.mpc.in_memory import InMemoryExchange, run_parties

Inputs = NDArray[np.float32]

LESION = (1, 320, 390)
SMALL = (2, 19, 22)


def smooth(count: int, shape: tuple[int, int, int], seed: int = 0) -> Inputs:
    """Return standardised images [count, *shape] whose neighbouring pixels are alike, as in radiographs."""
    generator = np.random.default_rng(seed)
    images = generator.normal(size=(count, *shape)).cumsum(axis=2).cumsum(axis=3)
    images -= images.mean(axis=(1, 2, 3), keepdims=True)
    return (images / images.std(axis=(1, 2, 3), keepdims=True)).astype(np.float32)


def lesion_network(trained: bool) -> nn.Sequential:
    """Return the lesion network, with fresh weights or with larger, uneven ones as training makes them."""
    network = build_network(seed=5)
    if trained:
        generator = torch.Generator().manual_seed(6)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.mul_(1 + torch.rand(parameter.shape, generator=generator) * 3)
    return network.eval()


def two_convolutions(seed: int = 1) -> nn.Sequential:
    """Return a network with every kind of layer: padding, strides, an overlapping pool, averages both ways round."""
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(4, 6, (3, 2), stride=(2, 1), bias=False),
        nn.AvgPool2d((1, 2)),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(24, 5),
        nn.Dropout(0.5),
        nn.Linear(5, 4),
        nn.ReLU(),
        nn.Linear(4, 2),
    )
    norm = network[1]
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    with torch.no_grad():
        norm.running_mean.copy_(torch.tensor([0.3, -0.2, 0.0, 0.1]))
        norm.running_var.copy_(torch.tensor([0.5, 2.0, 1.0, 0.1]))
        norm.weight.copy_(torch.tensor([1.5, -0.5, 1.0, 0.2]))
        norm.bias.copy_(torch.tensor([0.1, 0.0, -0.3, 0.2]))
    return network.eval()


def plain(network: nn.Sequential, inputs: NDArray[Any]) -> NDArray[np.float64]:
    """Score with torch, in float64."""
    with torch.no_grad():
        scores: NDArray[np.float64] = network.double()(torch.from_numpy(inputs).double()).numpy()
    network.float()
    return scores.reshape(len(inputs), -1)


@dataclass
class Dealt:
    """A compiled network, and both parties' material for it."""

    plan: Plan
    weights: ModelWeights
    sources: tuple[MaterialInMemory, MaterialInMemory]
    mask_seed: bytes

    def add(self, number: int) -> tuple[Material, Material]:
        pair = deal_batch(self.plan, self.sources[0].delivery, self.mask_seed, number, fresh_stream())
        for source, material in zip(self.sources, pair, strict=True):
            source.add(material)
        return pair


def dealt(network: nn.Sequential, inputs: Inputs, images: int, batches: int) -> Dealt:
    """Compile a network, with the inputs as calibration, and deal batches of so many images."""
    plan, weights = compile_network(network, inputs.shape[1:], inputs)
    delivery, seed = new_delivery(plan, images, batches, fresh_stream())
    made = Dealt(plan, weights, (MaterialInMemory(delivery, seed), MaterialInMemory(delivery)), seed)
    for number in range(batches):
        made.add(number)
    return made


@dataclass
class Outcome:
    """What came of a session: scores, both parties' counts, and their ends with all they gave and got."""

    scores: Scores
    counts: tuple[Count, Count]
    ends: dict[int, InMemoryExchange]


def score(made: Dealt, inputs: NDArray[Any], sacrifice: int = 0, repeats: int = 0) -> Outcome:
    """Score inputs with the protocol, both parties in this process."""
    ends: dict[int, InMemoryExchange] = {}

    def party(end: InMemoryExchange) -> Any:
        ends[end.rank] = end
        if end.rank == MODEL_OWNER:
            return run_model_owner(end, made.plan, made.weights, made.sources[MODEL_OWNER], sacrifice)
        return run_data_owner(end, made.plan, inputs, made.sources[DATA_OWNER], sacrifice, repeats)

    summary, scores = run_parties(2, party)
    return Outcome(scores, (summary.online, scores.summary.online), ends)
