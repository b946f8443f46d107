"""Server momentum by hand-checked numbers."""

import torch

from strategies.momentum import with_momentum


def tensors(*values: float) -> dict[str, torch.Tensor]:
    return {"w": torch.tensor(values)}


def test_without_momentum_it_is_the_average_itself() -> None:
    averaged = tensors(1.5, -0.25)
    weights, velocity = with_momentum(tensors(1.0, 0.0), averaged, None, 0.0)
    assert weights is averaged
    assert velocity is None


def test_steps_add_up_and_decay() -> None:
    first, velocity = with_momentum(tensors(0.0), tensors(1.0), None, 0.5)
    assert first["w"].tolist() == [1.0]
    assert velocity is not None
    assert velocity["w"].tolist() == [1.0]
    second, velocity = with_momentum(first, tensors(1.25), velocity, 0.5)
    # 0.5 * 1 + 0.25
    assert velocity is not None
    assert velocity["w"].tolist() == [0.75]
    assert second["w"].tolist() == [1.75]
