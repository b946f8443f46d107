"""The lesion network's layers in small, served: a session takes the lesion network's steps, in milliseconds."""

from typing import Any

import numpy as np
import torch
from torch import nn

from nescient_fl.mpc.inference.compile import compile_network
from nescient_fl.serving.plans import ServedModel

SHAPE = (1, 18, 18)
"""Of an image; a clinic takes it where ``nescient_fl.serving.clinic.SHAPE`` is it."""


def small_images(count: int) -> "np.ndarray[Any, np.dtype[np.float32]]":
    return np.random.default_rng(3).standard_normal((count, *SHAPE)).astype(np.float32)


def small_network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        dense = [nn.Flatten(), nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 1)]
        return nn.Sequential(nn.Conv2d(1, 3, 3), nn.MaxPool2d(8), nn.ReLU(), *dense).eval()


def small_model(calibration: "np.ndarray[Any, np.dtype[np.float32]]") -> ServedModel:
    plan, weights = compile_network(small_network(), SHAPE, calibration)
    return ServedModel((plan,), (weights,), "upright", True, 0.5, "0" * 16)
