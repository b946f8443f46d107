"""A torch network read into blocks: a linear layer, then pooling and ReLU in the order that costs least.

Max-pooling and ReLU commute, so pooling goes first and leaves ReLU a part of the work. Batch normalisation of a
trained network is a factor and an offset a channel, and becomes part of the convolution before it. An average is a
sum whose division becomes part of a neighbouring linear layer's weights.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from nescient_fl.mpc.errors import PlanError
from nescient_fl.mpc.inference.plan import Shape
from nescient_fl.mpc.inference.windows import Pads, Pair, output_size

SUPPORTED = "Conv2d, Linear, ReLU, MaxPool2d, AvgPool2d, Flatten and BatchNorm2d, with Dropout and Identity as nothing"


@dataclass(frozen=True)
class Window:
    """One pooling layer."""

    name: str
    kernel: Pair
    stride: Pair

    @property
    def area(self) -> int:
        return self.kernel[0] * self.kernel[1]


@dataclass(frozen=True)
class Block:
    """One linear layer and what follows it up to the next.

    weight float64 [channels, depth], columns in the order of ``windows.patches``; bias float64 [channels]. ``sums``
    come before everything else, then ``largest``, ReLU if ``relu`` names one, and ``sums_after``. ``shape`` is the
    input's, ``crop`` the rows and columns of it that are used; ``flatten`` says that the block's result becomes one
    vector.
    """

    name: str
    weight: NDArray[np.float64]
    bias: NDArray[np.float64]
    kernel: Pair
    stride: Pair
    pads: Pads
    shape: Shape
    crop: Pair
    sums: tuple[Window, ...] = ()
    largest: tuple[Window, ...] = ()
    relu: str | None = None
    sums_after: tuple[Window, ...] = ()
    flatten: bool = False


@dataclass
class _Reader:
    shape: Shape
    blocks: list[Block] = field(default_factory=list)
    flat: bool = False

    @property
    def last(self) -> Block:
        return self.blocks[-1]

    def change(self, **values: object) -> None:
        self.blocks[-1] = replace(self.blocks[-1], **values)  # type: ignore[arg-type]


def read_network(network: nn.Module, input_shape: Shape) -> list[Block]:
    """Read a sequential network, as it scores when it is not training.

    Raises PlanError for a layer or an order of layers that cannot be computed, by name.
    """
    if not isinstance(network, nn.Sequential):
        raise PlanError(f"only a Sequential of layers can be compiled, not {type(network).__name__}")
    reader = _Reader(input_shape)
    for name, layer in network.named_children():
        _read(reader, f"{name} ({type(layer).__name__})", layer)
    if not reader.blocks or reader.last.relu or reader.last.largest or reader.last.sums or reader.last.sums_after:
        raise PlanError("the network must end with a Linear layer, whose outputs are the logits")
    return [_cropped(block) for block in reader.blocks]


def _read(reader: _Reader, name: str, layer: nn.Module) -> None:
    if isinstance(layer, nn.Conv2d):
        _read_convolution(reader, name, layer)
    elif isinstance(layer, nn.Linear):
        _read_dense(reader, name, layer)
    elif isinstance(layer, nn.Flatten):
        _check(layer.start_dim == 1 and layer.end_dim == -1, name, "it must flatten everything but the batch")
        if reader.blocks:
            reader.change(flatten=True)
        reader.flat = True
        reader.shape = (int(np.prod(reader.shape)), 1, 1)
    elif isinstance(layer, nn.Dropout | nn.Dropout2d | nn.Identity):
        return
    elif not isinstance(layer, nn.ReLU | nn.MaxPool2d | nn.AvgPool2d | nn.BatchNorm2d):
        raise PlanError(f"layer {name} cannot be computed under encryption: there are {SUPPORTED}")
    else:
        _check(bool(reader.blocks), name, "the first layer must be Conv2d or Linear")
        _read_follower(reader, name, layer)


def _read_convolution(reader: _Reader, name: str, layer: nn.Conv2d) -> None:
    _check(not reader.flat, name, "it needs rows and columns, and comes after Flatten")
    _check(layer.groups == 1 and layer.dilation == (1, 1), name, "only groups=1 and dilation=1 are supported")
    _check(
        layer.padding_mode == "zeros" and not isinstance(layer.padding, str),
        name,
        "only padding by a number of zeros is supported",
    )
    _check(layer.in_channels == reader.shape[0], name, f"it takes {layer.in_channels} channels, not {reader.shape[0]}")
    down, right = (int(size) for size in layer.padding)
    weight = _numbers(layer.weight).reshape(layer.out_channels, -1)
    kernel, stride = _pair(layer.kernel_size), _pair(layer.stride)
    _add(reader, name, weight, layer.bias, kernel, stride, (down, right, down, right))


def _read_dense(reader: _Reader, name: str, layer: nn.Linear) -> None:
    _check(reader.flat or reader.shape[1:] == (1, 1), name, "it needs Flatten before it")
    _check(layer.in_features == reader.shape[0], name, f"it takes {layer.in_features} values, not {reader.shape[0]}")
    reader.flat = True
    _add(reader, name, _numbers(layer.weight), layer.bias, (1, 1), (1, 1), (0, 0, 0, 0))


def _add(
    reader: _Reader,
    name: str,
    weight: NDArray[np.float64],
    bias: torch.Tensor | None,
    kernel: Pair,
    stride: Pair,
    pads: Pads,
) -> None:
    area = float(np.prod([window.area for window in reader.last.sums_after])) if reader.blocks else 1.0
    offset = np.zeros(len(weight)) if bias is None else _numbers(bias)
    shape = reader.shape
    reader.blocks.append(Block(name, weight / area, offset, kernel, stride, pads, shape, (shape[1], shape[2])))
    rows = output_size(shape[1] + pads[0] + pads[2], kernel[0], stride[0])
    columns = output_size(shape[2] + pads[1] + pads[3], kernel[1], stride[1])
    _check(rows > 0 and columns > 0, name, f"its kernel is larger than its input {shape}")
    reader.shape = (len(weight), rows, columns)


def _read_follower(reader: _Reader, name: str, layer: nn.Module) -> None:
    last = reader.last
    if isinstance(layer, nn.ReLU):
        _check(last.relu is not None or not last.sums_after, name, "it comes after an average of maxima")
        reader.change(relu=last.relu or name)
    elif isinstance(layer, nn.BatchNorm2d):
        touched = last.relu or last.sums or last.largest or last.sums_after
        _check(not touched and not reader.flat, name, "it must come directly after a Conv2d")
        _check(layer.running_mean is not None, name, "it keeps no running statistics")
        _check(layer.num_features == reader.shape[0], name, f"it takes {layer.num_features} channels")
        _fold(reader, layer)
    else:
        assert isinstance(layer, nn.MaxPool2d | nn.AvgPool2d)
        _check(not reader.flat, name, "it needs rows and columns, and comes after Flatten")
        window = _window(name, layer)
        if isinstance(layer, nn.MaxPool2d):
            _check(not last.sums_after, name, "it comes after an average of what ReLU or MaxPool2d left")
            reader.change(largest=(*last.largest, window))
        elif last.relu or last.largest:
            reader.change(sums_after=(*last.sums_after, window))
        else:
            reader.change(sums=(*last.sums, window), weight=last.weight / window.area, bias=last.bias / window.area)
        rows = output_size(reader.shape[1], window.kernel[0], window.stride[0])
        columns = output_size(reader.shape[2], window.kernel[1], window.stride[1])
        _check(rows > 0 and columns > 0, name, f"its window is larger than its input {reader.shape}")
        reader.shape = (reader.shape[0], rows, columns)


def _fold(reader: _Reader, layer: nn.BatchNorm2d) -> None:
    assert layer.running_mean is not None
    assert layer.running_var is not None
    factor = 1 / np.sqrt(_numbers(layer.running_var) + layer.eps)
    offset = np.zeros_like(factor)
    if layer.affine:
        factor, offset = factor * _numbers(layer.weight), _numbers(layer.bias)
    bias = (reader.last.bias - _numbers(layer.running_mean)) * factor + offset
    reader.change(weight=reader.last.weight * factor[:, None], bias=bias)


def _window(name: str, layer: nn.MaxPool2d | nn.AvgPool2d) -> Window:
    _check(
        _pair(layer.padding) == (0, 0) and not layer.ceil_mode, name, "only padding=0 and ceil_mode=False are supported"
    )
    if isinstance(layer, nn.MaxPool2d):
        _check(
            _pair(layer.dilation) == (1, 1) and not layer.return_indices,
            name,
            "only dilation=1 and return_indices=False are supported",
        )
    else:
        _check(layer.divisor_override is None, name, "divisor_override is not supported")
    return Window(name, _pair(layer.kernel_size), _pair(layer.stride))


def _cropped(block: Block) -> Block:
    """Find out how much of the input the pooling windows after a layer look at, and drop the rest."""
    crop, bottom = [], []
    for axis in (0, 1):
        size = block.shape[1 + axis] + block.pads[axis] + block.pads[2 + axis]
        produced = output_size(size, block.kernel[axis], block.stride[axis])
        needed = _needed(produced, list(_pools(block)), axis)
        rows = (needed - 1) * block.stride[axis] + block.kernel[axis] - block.pads[axis]
        crop.append(min(rows, block.shape[1 + axis]))
        bottom.append(max(rows - block.shape[1 + axis], 0))
    pads = (block.pads[0], block.pads[1], bottom[0], bottom[1])
    return replace(block, crop=(crop[0], crop[1]), pads=pads)


def _pools(block: Block) -> Iterator[Window]:
    yield from (*block.sums, *block.largest, *block.sums_after)


def _needed(size: int, windows: list[Window], axis: int) -> int:
    if not windows:
        return size
    kernel, stride = windows[0].kernel[axis], windows[0].stride[axis]
    kept = _needed(output_size(size, kernel, stride), windows[1:], axis)
    return (kept - 1) * stride + kernel


def _pair(value: int | tuple[int, ...]) -> Pair:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def _numbers(tensor: torch.Tensor) -> NDArray[np.float64]:
    return tensor.detach().cpu().double().numpy()


def _check(good: bool, name: str, reason: str) -> None:
    if not good:
        raise PlanError(f"layer {name} cannot be computed under encryption: {reason}")
