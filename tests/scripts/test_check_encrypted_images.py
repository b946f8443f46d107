"""Which images the check of encrypted scores looks at."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from nescient_fl.lesion.recipe import RECIPES

SCRIPTS = Path(__file__).parents[2] / "scripts"


def test_every_image_comes_as_it_is_and_then_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    from check_encrypted_images import batches

    pixels = np.random.default_rng(0).integers(0, 256, (7, 320, 390), np.uint8)
    mean, std = np.full(7, 100, np.float32), np.full(7, 50, np.float32)
    cache = SimpleNamespace(pixels=pixels, mean=mean, std=std)
    saved = SimpleNamespace(recipe=RECIPES["default"])
    inputs = np.concatenate(list(batches(saved, cache, 60, seed=1)))
    again = np.concatenate(list(batches(saved, cache, 60, seed=1)))
    assert inputs.shape == (60, 1, 320, 390)
    np.testing.assert_array_equal(inputs, again)
    still = (pixels[:, None].astype(np.float32) - 100) / 50
    np.testing.assert_allclose(inputs[:7], still, atol=1e-6)
    moved = [not np.array_equal(inputs[number, 0], still[number % 7, 0]) for number in range(7, 60)]
    assert sum(moved) > 45
