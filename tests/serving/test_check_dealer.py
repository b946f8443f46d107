"""Every image scored twice: a dealer that spoils a single batch is found out, whichever batches are sacrificed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from serving.role_threads import Roles
from serving.small_models import SHAPE, small_images, small_model, small_network

from nescient_fl.mpc.errors import MaterialError, QueryLimitError
from nescient_fl.mpc.inference.material import Material
from nescient_fl.serving import clinic, dealing, owner
from nescient_fl.serving.plans import ServedModel

IMAGES = small_images(5)


@pytest.fixture(scope="module")
def model() -> ServedModel:
    return small_model(IMAGES)


@pytest.fixture
def roles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Roles:
    monkeypatch.setattr(clinic, "SHAPE", SHAPE)
    return Roles(tmp_path)


def in_clear() -> Any:
    with torch.inference_mode():
        return small_network()(torch.from_numpy(IMAGES)).squeeze(1).double().numpy()


def spoiling(model: ServedModel, chosen: Callable[[int], bool]) -> Callable[..., Any]:
    """Deal, but in the chosen batches make the last image's logit one larger."""
    honest = dealing.deal_batch

    def deal(plan: Any, delivery: Any, seed: bytes, number: int, stream: Any) -> Any:
        for_owner, for_clinic = honest(plan, delivery, seed, number, stream)
        if not chosen(number):
            return for_owner, for_clinic
        start, corrections = for_owner.open()
        words = np.frombuffer(corrections, np.uint8).copy()
        # What comes last are the shares of the last layer's products.
        words[-8:].view(np.uint64)[:] += np.uint64(1 << model.plans[0].output_fraction)
        return Material(delivery, number, for_owner.rank, start + words.tobytes()), for_clinic

    return deal


def test_images_scored_twice_come_once_and_cost_twice(roles: Roles, model: ServedModel) -> None:
    told = []
    with roles.serving(model, limit=15):
        found = roles.score(IMAGES, batch=2, twice=True, progress=lambda *how: told.append(how))
        np.testing.assert_allclose(found.logits, in_clear(), atol=1e-3)
        assert [session.batches for session in found.sessions] == [5], "ten places, two at a time"
        assert found.left == 5
        with pytest.raises(QueryLimitError, match="6 images are asked for, 5 are left"):
            roles.score(IMAGES[:3], twice=True)
        once = roles.score(IMAGES, batch=2)
        assert [session.batches for session in once.sessions] == [3]
        assert once.left == 0
    dealt = [(done, total) for what, done, total in told if what == clinic.DEALING]
    assert dealt == [(2 * batches, 12) for batches in range(7)], "one batch more, to be sacrificed"
    scored = [(done, total) for what, done, total in told if what == clinic.SCORING]
    assert scored == [(places, 10) for places in (0, 2, 4, 6, 8, 10)]
    sessions = [line for line in roles.said if "images scored" in line]
    assert [line.partition(" in ")[0] for line in sessions] == ["clinic: 10 images scored", "clinic: 5 images scored"]
    assert [line.rpartition(", ")[2] for line in sessions] == ["5 left of its limit", "0 left of its limit"]
    assert "dealt 6 batches of 2 images for owner and clinic" in roles.said


@pytest.mark.parametrize("spoiled", range(4))
def test_a_dealer_that_spoils_one_batch_is_always_found_out(
    roles: Roles, model: ServedModel, monkeypatch: pytest.MonkeyPatch, spoiled: int
) -> None:
    """One of the three batches that are used, or the one that is sacrificed."""
    monkeypatch.setattr(dealing, "deal_batch", spoiling(model, lambda number: number == spoiled))
    with roles.serving(model), pytest.raises(MaterialError, match=r"two scores of one image|does not fit together"):
        roles.score(IMAGES[:3], batch=2, twice=True)


def test_without_it_a_spoiled_batch_that_is_not_sacrificed_goes_unseen(
    roles: Roles, model: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the check is for: without it there is a wrong score, and nobody sees it."""
    monkeypatch.setattr(owner, "SACRIFICED", 0)
    monkeypatch.setattr(clinic, "SACRIFICED", 0)
    monkeypatch.setattr(dealing, "deal_batch", spoiling(model, lambda number: number == 1))
    with roles.serving(model):
        found = roles.score(IMAGES[:4], batch=2)
        assert np.abs(found.logits - in_clear()[:4]).round(2).tolist() == [0, 0, 0, 1]
        with pytest.raises(MaterialError, match="two scores of one image"):
            roles.score(IMAGES[:4], batch=2, twice=True)
