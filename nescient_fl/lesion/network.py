"""The lesion network: one convolution, three dense layers, 102,825 parameters, one logit.

The architecture is the study write-up's. Its sigmoid is left to the loss and to the score, which is the same
function computed without overflow.
"""

import hashlib
import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from nescient_fl.errors import UserError
from nescient_fl.lesion.pooled_convolution import pooled_convolution
from nescient_fl.seeds import derive_seed

FRAME = (320, 390)
PARAMETERS = 102_825

Activation = Literal["relu", "gelu"]
Initialisation = Literal["torch", "he"]
_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU}

Weights = dict[str, Tensor]
"""Parameter name to float32 tensor, in the order of the network."""


@dataclass(frozen=True)
class NetworkOptions:
    """The write-up's own variants of the network.

    ``activation`` follows the convolution and the hidden dense layers. ``dropout`` is the probability of
    dropping a hidden unit after each hidden dense layer while training; it adds no parameter.
    ``initialisation`` is ``torch`` (every layer uniform within 1/sqrt(fan_in), as torch and so the write-up
    does) or ``he`` (dense layers uniform within sqrt(6/fan_in), their biases 0).
    """

    activation: Activation = "relu"
    dropout: float = 0.0
    initialisation: Initialisation = "torch"

    def __post_init__(self) -> None:
        if self.activation not in _ACTIVATIONS:
            raise UserError(f"unknown activation {self.activation!r}: use one of {', '.join(_ACTIVATIONS)}")
        if self.initialisation not in ("torch", "he"):
            raise UserError(f"unknown initialisation {self.initialisation!r}: use torch or he")
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout is a probability from 0 up to 1, got {self.dropout}")


class LesionNetwork(nn.Sequential):
    """The layers in order; on the CPU with ReLU the first three run as one step, to the same result.

    ReLU and max-pooling commute, so pooling first leaves ReLU a 64th of the work; see
    ``pooled_convolution`` for the gradient.
    """

    def forward(self, images: Tensor) -> Tensor:
        """Score float32 [B, 1, 320, 390]. Returns float32 [B, 1] logits."""
        layers = list(self)
        convolution, activation, pool = layers[:3]
        assert isinstance(convolution, nn.Conv2d)
        assert isinstance(pool, nn.MaxPool2d)
        assert isinstance(pool.kernel_size, int)
        values = images
        if isinstance(activation, nn.ReLU) and images.device.type == "cpu":
            assert convolution.bias is not None
            values = torch.relu(
                pooled_convolution(
                    images, convolution.weight, convolution.bias, convolution.stride[0], pool.kernel_size
                )
            )
            layers = layers[3:]
        for layer in layers:
            values = layer(values)
        return values


def build_network(options: NetworkOptions | None = None, *, seed: int) -> LesionNetwork:
    """Build the network.

    Initial weights depend on ``seed`` alone, drawn from a generator of its own so that two networks of one
    seed are equal whatever else drew random numbers. ``torch`` shrinks signals by sqrt(3) in each dense
    layer, and the network then sits at a loss of 0.693 for epochs; ``he`` (He et al., "Delving Deep into
    Rectifiers", ICCV 2015) keeps their size.
    """
    options = options or NetworkOptions()
    activation = _ACTIVATIONS[options.activation]
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        convolution=nn.Conv2d(1, 8, kernel_size=10, stride=3),
        activation=activation(),
        pool=nn.MaxPool2d(8),
        flatten=nn.Flatten(),
        dense1=nn.Linear(8 * 13 * 15, 64),
        activation1=activation(),
        dropout1=nn.Dropout(options.dropout),
        dense2=nn.Linear(64, 32),
        activation2=activation(),
        dropout2=nn.Dropout(options.dropout),
        dense3=nn.Linear(32, 1),
    )
    network = LesionNetwork(layers)
    generator = torch.Generator().manual_seed(derive_seed(seed, "initial weights"))
    with torch.no_grad():
        for layer in network:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                assert layer.bias is not None
                bound = 1 / math.sqrt(layer.weight[0].numel())
                he = options.initialisation == "he" and isinstance(layer, nn.Linear)
                gain = math.sqrt(6) if he else 1.0
                layer.weight.uniform_(-gain * bound, gain * bound, generator=generator)
                layer.bias.uniform_(-bound, bound, generator=generator)
                if he:
                    layer.bias.zero_()
    return network


def get_weights(network: nn.Module) -> Weights:
    """Copy the network's parameters to the CPU, detached."""
    return {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}


def set_weights(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load parameters in place. Raises RuntimeError when names or shapes differ."""
    network.load_state_dict(dict(weights), strict=True)


def weights_sha256(weights: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of names, shapes and little-endian float32 values, in name order.

    Two models have the same hash when every weight is bit for bit the same.
    """
    digest = hashlib.sha256()
    for name in sorted(weights):
        array = weights[name].detach().cpu().numpy().astype("<f4")
        digest.update(f"{name}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
