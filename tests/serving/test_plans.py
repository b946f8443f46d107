"""A model made ready to be served: the same plans after a restart, the same inputs as training had."""

from pathlib import Path

import numpy as np
import pytest
from serving.saved_models import write_model, write_run

from nescient_fl.errors import UserError
from nescient_fl.mpc.errors import PlanError
from nescient_fl.radiographs.cache import SMALLEST_STD
from nescient_fl.serving.local import cached_inputs
from nescient_fl.serving.model import load_model
from nescient_fl.serving.plans import (
    calibration_of_folder,
    calibration_of_run,
    compile_model,
    keep_model,
    kept_model,
    to_input,
)


def noise(images: int = 2) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
    return np.random.default_rng(0).standard_normal((images, 1, 320, 390)).astype(np.float32)


def test_plans_are_kept_for_the_model_and_for_no_other(tmp_path: Path) -> None:
    write_model(tmp_path / "model.safetensors")
    saved = load_model(tmp_path / "model.safetensors")
    assert kept_model(saved, tmp_path / "state") is None
    served = compile_model(saved, noise())
    assert len(served.plans) == 2
    assert (served.plans[0].high, served.plans[1].high) == (served.plans[0].high, 64 << served.plans[1].input_fraction)
    keep_model(served, tmp_path / "state")
    kept = kept_model(saved, tmp_path / "state")
    assert kept is not None
    assert (kept.plans, kept.name, kept.threshold) == (served.plans, served.name, 0.5)
    assert served.plan(served.plans[1].digest) == 1
    with pytest.raises(PlanError, match="ask for its card again"):
        served.plan("0" * 64)
    (tmp_path / "state" / "plans.json").write_text('{"name": "x", "plans": ["{}"]}')
    assert kept_model(saved, tmp_path / "state") is None


def test_grey_levels_need_one_plan_and_no_other_exist(tmp_path: Path) -> None:
    write_model(tmp_path / "model.safetensors", standardise=False, geometry="paper")
    served = compile_model(load_model(tmp_path / "model.safetensors"), np.abs(noise()).clip(0, 1))
    assert len(served.plans) == 1
    assert (served.plans[0].low, served.plans[0].high) == (0, 1 << served.plans[0].input_fraction)


def test_a_network_that_cannot_be_served_is_refused_by_its_layer(tmp_path: Path) -> None:
    write_model(tmp_path / "model.safetensors", activation="gelu")
    with pytest.raises(UserError, match="GELU"):
        compile_model(load_model(tmp_path / "model.safetensors"), noise())


@pytest.mark.parametrize("standardise", [True, False])
def test_a_file_and_a_cached_row_are_the_same_input(tmp_path: Path, toy_dataset: Path, standardise: bool) -> None:
    result = write_run(tmp_path / "run", toy_dataset)
    rows = np.array([4, 1])
    assert result.cache.std.min() > SMALLEST_STD
    cached = cached_inputs(result.cache, rows, standardise)
    for number, image in enumerate(cached):
        path = toy_dataset / result.table["image"][rows[number]]
        assert np.allclose(to_input(path, "upright", standardise), image, atol=1e-5)
    assert cached.shape == (2, 1, 320, 390)
    assert np.array_equal(cached.chosen(np.array([1]))[0:1], cached[1:2])


def test_calibration_comes_from_the_images_a_run_trained_on(tmp_path: Path, toy_dataset: Path) -> None:
    result = write_run(tmp_path / "run", toy_dataset)
    saved = load_model(tmp_path / "run")
    inputs = calibration_of_run(saved, tmp_path / "run")
    assert inputs is not None
    assert inputs.shape == (30, 1, 320, 390)
    trained = next(iter(cached_inputs(result.cache, np.array([1]), True)))
    assert np.allclose(inputs[0], trained, atol=1e-5)
    (tmp_path / "run" / "partition.csv").unlink()
    assert calibration_of_run(saved, tmp_path / "run") is None


def test_calibration_from_a_folder_passes_over_what_is_no_image(tmp_path: Path, toy_dataset: Path) -> None:
    write_model(tmp_path / "model.safetensors")
    saved = load_model(tmp_path / "model.safetensors")
    assert calibration_of_folder(saved, toy_dataset).shape == (32, 1, 320, 390)
    (tmp_path / "few").mkdir()
    (tmp_path / "few" / "broken.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="no image in it"):
        calibration_of_folder(saved, tmp_path / "few")
    with pytest.raises(UserError, match="no such folder"):
        calibration_of_folder(saved, tmp_path / "nowhere")
