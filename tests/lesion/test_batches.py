"""Network inputs: the two batchers against each other, and against images made by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nescient_fl.lesion.batches import (
    STILL,
    CpuBatcher,
    DeviceBatcher,
    Examples,
    Placement,
    make_batcher,
    shuffled_batches,
)
from nescient_fl.lesion.recipe import RECIPES

CPU = torch.device("cpu")
PAPER, DEFAULT = RECIPES["paper"], RECIPES["default"]

placements = st.builds(Placement, flip=st.booleans(), down=st.integers(-9, 9), right=st.integers(-12, 12))


def small_examples(images: int = 6, height: int = 10, width: int = 13) -> Examples:
    generator = np.random.default_rng(1)
    pixels = generator.integers(0, 256, (images, height, width)).astype(np.uint8)
    flat = pixels.reshape(images, -1).astype(np.float64)
    return Examples(
        pixels,
        flat.mean(1).astype(np.float32),
        flat.std(1).astype(np.float32),
        (np.arange(images) % 2).astype(np.float32),
        np.array([5, 0, 3, 1]),
    )


def hand_made() -> Examples:
    pixels = np.array([[[10, 20, 30], [40, 50, 60]]], np.uint8)
    return Examples(
        pixels,
        np.array([35.0], np.float32),
        np.array([10.0], np.float32),
        np.ones(1, np.float32),
        np.zeros(1, int),
    )


def place_by_hand(placement: Placement) -> list[list[float]]:
    batcher = CpuBatcher(hand_made(), DEFAULT, 1)
    values: list[list[float]] = batcher.inputs(np.array([0]), [placement])[0, 0].tolist()
    return values


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([5, 0, 3, 1]), placements), min_size=1, max_size=4),
    st.booleans(),
)
def test_the_two_batchers_are_equal(chosen: list[tuple[int, Placement]], standardise: bool) -> None:
    examples, recipe = small_examples(), replace(DEFAULT, standardise=standardise)
    rows = np.array([row for row, _ in chosen])
    places = [place for _, place in chosen]
    on_cpu = CpuBatcher(examples, recipe, 4)
    # The buffer is used again: what an earlier batch left in it must not shine through.
    on_cpu.inputs(np.array([5, 5, 5, 5]), [STILL] * 4)
    on_device = DeviceBatcher(examples, recipe, CPU)
    assert torch.equal(on_cpu.inputs(rows, places), on_device.inputs(rows, places))
    assert torch.equal(on_cpu.targets(rows), on_device.targets(rows))


def test_standardised_inputs_by_hand() -> None:
    assert place_by_hand(STILL) == pytest.approx(np.array([[-2.5, -1.5, -0.5], [0.5, 1.5, 2.5]]))


def test_grey_levels_by_255_by_hand() -> None:
    inputs = CpuBatcher(hand_made(), PAPER, 1).inputs(np.array([0]), [STILL])
    assert inputs.shape == (1, 1, 2, 3)
    assert inputs.flatten().tolist() == pytest.approx([level / 255 for level in (10, 20, 30, 40, 50, 60)])


@pytest.mark.parametrize(
    ("placement", "expected"),
    [
        (Placement(True, 0, 0), [[-0.5, -1.5, -2.5], [2.5, 1.5, 0.5]]),
        (Placement(False, 1, 0), [[0, 0, 0], [-2.5, -1.5, -0.5]]),
        (Placement(False, -1, 0), [[0.5, 1.5, 2.5], [0, 0, 0]]),
        (Placement(False, 0, 1), [[0, -2.5, -1.5], [0, 0.5, 1.5]]),
        (Placement(False, 0, -2), [[-0.5, 0, 0], [2.5, 0, 0]]),
        # Mirrored first, moved afterwards.
        (Placement(True, 1, 1), [[0, 0, 0], [0, -0.5, -1.5]]),
        (Placement(False, 2, 0), [[0, 0, 0], [0, 0, 0]]),
    ],
)
def test_flip_and_shift_by_hand(placement: Placement, expected: list[list[float]]) -> None:
    assert place_by_hand(placement) == pytest.approx(np.array(expected, float))


@given(st.integers(1, 40), st.integers(1, 17), st.integers(0, 2**32))
def test_an_epoch_has_every_row_once(count: int, batch_size: int, seed: int) -> None:
    recipe = replace(DEFAULT, batch_size=batch_size)
    rows = np.arange(100, 100 + count)
    batches = list(shuffled_batches(rows, recipe, np.random.default_rng(seed)))
    assert sorted(np.concatenate([batch for batch, _ in batches])) == rows.tolist()
    assert [len(batch) for batch, _ in batches[:-1]] == [batch_size] * (len(batches) - 1)
    for batch, places in batches:
        assert len(batch) == len(places)
        assert all(abs(p.down) <= recipe.shift and abs(p.right) <= recipe.shift for p in places)


def test_the_papers_recipe_moves_nothing() -> None:
    batches = shuffled_batches(np.arange(50), PAPER, np.random.default_rng(0))
    assert {place for _, places in batches for place in places} == {STILL}


def test_flips_and_shifts_spread_as_the_recipe_says() -> None:
    batches = shuffled_batches(np.arange(4000), DEFAULT, np.random.default_rng(0))
    places = [place for _, batch in batches for place in batch]
    assert 0.45 < np.mean([place.flip for place in places]) < 0.55
    assert {place.down for place in places} == set(range(-8, 9)) == {place.right for place in places}


def test_labels_follow_the_rows() -> None:
    assert small_examples().labels.tolist() == [1, 0, 1, 1]
    assert len(small_examples()) == 4


def test_the_cpu_gets_the_batcher_without_a_copy_of_all_pixels() -> None:
    assert isinstance(make_batcher(small_examples(), DEFAULT, CPU, 4), CpuBatcher)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
def test_a_gpu_gets_the_same_inputs() -> None:
    examples = small_examples()
    generator = np.random.default_rng(0)
    on_gpu = make_batcher(examples, DEFAULT, torch.device("cuda"), 4)
    on_cpu = make_batcher(examples, DEFAULT, CPU, 4)
    for rows, places in shuffled_batches(examples.rows, replace(DEFAULT, batch_size=4), generator):
        torch.testing.assert_close(on_gpu.inputs(rows, places).cpu(), on_cpu.inputs(rows, places))
        assert torch.equal(on_gpu.targets(rows).cpu(), on_cpu.targets(rows))
