"""The lean Adam: torch's own steps, without torch's compiler."""

import subprocess
import sys

import torch

from nescient_fl.lesion.network import build_network, get_weights, weights_sha256
from nescient_fl.lesion.optimiser import LeanAdam


def train_a_little(kind: type[torch.optim.Adam], resume_after: int | None = None) -> str:
    network = build_network(seed=1)
    optimiser = kind(network.parameters(), lr=1e-3, weight_decay=1e-4)
    generator = torch.Generator().manual_seed(2)
    for number in range(6):
        if number == resume_after:
            state = optimiser.state_dict()
            optimiser = kind(network.parameters(), lr=1e-3, weight_decay=1e-4)
            optimiser.load_state_dict(state)
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(network(torch.randn(4, 1, 320, 390, generator=generator)).square().sum())
        optimiser.step()
    return weights_sha256(get_weights(network))


def test_steps_are_those_of_torchs_adam() -> None:
    assert train_a_little(LeanAdam) == train_a_little(torch.optim.Adam)


def test_a_loaded_state_goes_on_with_the_same_steps() -> None:
    assert train_a_little(LeanAdam, resume_after=3) == train_a_little(torch.optim.Adam)


def test_training_does_not_import_the_compiler() -> None:
    program = """
import sys, torch
from nescient_fl.lesion.network import build_network
from nescient_fl.lesion.optimiser import LeanAdam
network = build_network(seed=1)
optimiser = LeanAdam(network.parameters(), lr=1e-3, weight_decay=1e-4)
network(torch.zeros(1, 1, 320, 390)).sum().backward()
optimiser.step()
optimiser.zero_grad()
optimiser.load_state_dict(optimiser.state_dict())
assert "torch._dynamo" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)
