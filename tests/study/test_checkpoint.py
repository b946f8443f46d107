"""Checkpoints: what goes in comes out, bit for bit, and damage is seen."""

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nescient_fl.errors import UserError
from nescient_fl.study.checkpoint import load_checkpoint, save_checkpoint

STATE = {"round": 3, "best": None, "loss": 0.1 + 0.2, "names": ["icu-1", "Zürich"]}


def groups() -> dict[str, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    weights = {
        "dense.weight": torch.randn(3, 4, generator=generator),
        "odd/name": torch.tensor([float("nan"), float("inf"), -0.0, 1e-45]),
        "counts": torch.arange(5),
        "step": torch.tensor(7.0),
        "empty": torch.zeros(0, 2),
    }
    # The best model may be the last one: the same tensors in two groups.
    return {"last": weights, "best": weights, "turned": {"t": weights["dense.weight"].T}}


def bits(tensor: torch.Tensor) -> tuple[torch.dtype, torch.Size, bytes]:
    return tensor.dtype, tensor.shape, tensor.contiguous().numpy().tobytes()


def test_tensors_and_state_come_back(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, groups(), STATE)
    found, state = load_checkpoint(path)
    assert state == STATE
    expected = groups()
    assert {name: set(values) for name, values in found.items()} == {
        name: set(values) for name, values in expected.items()
    }
    for group, values in expected.items():
        for name, value in values.items():
            assert bits(found[group][name]) == bits(value), (group, name)


def test_the_next_checkpoint_replaces_the_last(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, groups(), STATE)
    save_checkpoint(path, {"last": {"a": torch.ones(2)}}, {"round": 4})
    found, state = load_checkpoint(path)
    assert state == {"round": 4}
    assert list(found) == ["last"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint.safetensors"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(st.floats(0, 1, exclude_max=True))
def test_a_file_cut_short_is_named(tmp_path: Path, share: float) -> None:
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, groups(), STATE)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(UserError, match=r"checkpoint\.safetensors cannot be read"):
        load_checkpoint(path)


def test_a_file_of_something_else_is_named(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    for content in (b"not a checkpoint at all", b"\0" * 64):
        path.write_bytes(content)
        with pytest.raises(UserError, match="cannot be read"):
            load_checkpoint(path)
    with pytest.raises(UserError, match="cannot be read"):
        load_checkpoint(tmp_path / "none.safetensors")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(0, 7))
def test_a_flipped_bit_is_never_read_as_another_model(tmp_path: Path, place: int, bit: int) -> None:
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, {"last": {"a": torch.linspace(0, 1, 64)}}, {"round": 1})
    content = bytearray(path.read_bytes())
    content[place % len(content)] ^= 1 << bit
    path.write_bytes(content)
    with pytest.raises(UserError, match="cannot be read"):
        load_checkpoint(path)
