"""The fast first layers against torch's own operations."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import max_pool2d

from nescient_fl.lesion.network import NetworkOptions, build_network
from nescient_fl.lesion.pooled_convolution import pooled_convolution, reference


@settings(deadline=None, max_examples=40)
@given(
    batch=st.integers(1, 3),
    channels=st.integers(1, 4),
    kernel=st.integers(1, 5),
    stride=st.integers(1, 4),
    pool=st.integers(1, 4),
    height=st.integers(20, 40),
    width=st.integers(20, 40),
    seed=st.integers(0, 2**32),
)
def test_equals_torch_with_gradients(
    batch: int, channels: int, kernel: int, stride: int, pool: int, height: int, width: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(batch, 1, height, width, generator=generator)
    weight = torch.randn(channels, 1, kernel, kernel, generator=generator, requires_grad=True)
    bias = torch.randn(channels, generator=generator, requires_grad=True)
    fast = pooled_convolution(images, weight, bias, stride, pool)
    slow = reference(images, weight, bias, stride, pool)
    torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-4)
    downstream = torch.randn(slow.shape, generator=generator)
    fast_gradients = torch.autograd.grad(fast, (weight, bias), downstream)
    slow_gradients = torch.autograd.grad(slow, (weight, bias), downstream)
    for one, other in zip(fast_gradients, slow_gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


def test_refuses_images_that_need_a_gradient() -> None:
    images = torch.zeros(1, 1, 20, 20, requires_grad=True)
    with pytest.raises(ValueError, match="no gradient"):
        pooled_convolution(images, torch.zeros(1, 1, 3, 3), torch.zeros(1), 1, 2)


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_network_equals_its_layers_one_by_one(activation: str) -> None:
    network = build_network(NetworkOptions(activation=activation), seed=3)  # type: ignore[arg-type]
    images = torch.randn(2, 1, 320, 390, generator=torch.Generator().manual_seed(1))
    values = images
    for layer in network:
        values = layer(values)
    torch.testing.assert_close(network(images), values, rtol=1e-4, atol=1e-5)
    assert max_pool2d(network.get_submodule("convolution")(images), 8).shape == (2, 8, 13, 15)
