"""What the opened sum tells without noise, and that noise takes it away."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from nescient_fl.attacks.evidence import NOISE, better_than_chance
from nescient_fl.attacks.federation import Federation, answer_of
from nescient_fl.attacks.membership import attack_membership, largest_accuracy
from nescient_fl.attacks.opened_sum import attack_opened_sum, images_read, rows_of
from nescient_fl.attacks.tries import site_updates
from nescient_fl.attacks.victims import Scene
from nescient_fl.lesion.network import Weights
from nescient_fl.mpc.privacy import PrivacyBudget, noise_multiplier_for
from nescient_fl.mpc.shares import encode
from nescient_fl.sealed_vector import flatten

BUDGET = PrivacyBudget(1.0, 1e-5, noise_multiplier_for(1.0, 1e-5, 17))


def test_a_unit_that_one_image_wakes_gives_it_away_by_hand() -> None:
    # Two images, x and z; unit 0 is woken by x alone, unit 1 by both, unit 2 by none.
    x, z = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 0.0])
    update: Weights = {
        "dense1.weight": torch.stack([0.1 * x, 0.1 * x + 0.3 * z, 0 * x]),
        "dense1.bias": torch.tensor([0.1, 0.4, 0.0]),
    }
    np.testing.assert_allclose(rows_of(update), [[1.0, 2.0], [2.5, 0.5]], rtol=1e-6)
    assert images_read(update, torch.stack([x, z]).numpy()) == [0]


def test_images_are_read_from_a_bare_sum_and_not_from_a_noisy_one(
    scene: Scene, make: Callable[..., Federation]
) -> None:
    finding = attack_opened_sum(scene, make, BUDGET)
    assert finding.protection == NOISE
    assert finding.plain is not None
    assert finding.plain.figures["read"] >= 1
    assert finding.plain.figures["read_after_many_steps"] == 0
    assert finding.secure.figures["read"] == 0
    assert finding.verdict == "held"


def test_membership_shows_without_noise_and_hides_in_it(scene: Scene, federation: Federation) -> None:
    finding = attack_membership(scene, federation.roster, BUDGET, games=120)
    assert finding.plain is not None
    assert finding.plain.succeeded
    assert finding.plain.figures["right"] > 90
    assert finding.verdict == "held"
    # Far within what (1, 1e-5) allows: no better than a coin.
    assert not better_than_chance(finding.secure.figures["right"], 120, 0.5)


def test_noise_that_is_too_small_is_noticed(scene: Scene, federation: Federation) -> None:
    weak = PrivacyBudget(1.0, 1e-5, 0.02)
    finding = attack_membership(scene, federation.roster, weak, games=60)
    assert finding.verdict == "broken"


def test_the_limit_of_differential_privacy_by_hand() -> None:
    assert largest_accuracy(PrivacyBudget(0.0, 0.0, 1.0)) == 0.5
    assert largest_accuracy(PrivacyBudget(float(np.log(3)), 0.0, 1.0)) == pytest.approx(0.75)
    assert largest_accuracy(PrivacyBudget(1e6, 1e-5, 1.0)) == 1.0


def test_the_games_are_played_with_the_sum_that_the_parties_open(scene: Scene, federation: Federation) -> None:
    updates, order = site_updates(scene, federation), scene.order(1)
    reports = [federation.seal(answer_of(name, update, 1), order, scene.weights) for name, update in updates.items()]
    result = federation.ask_alike(federation.request(order, scene.weights), reports)[0].result
    assert result is not None
    bits = federation.plan.terms(scene.weights, True).fraction_bits
    expected = sum(encode(flatten(update, 1), bits) for update in updates.values())
    np.testing.assert_array_equal(result.total[: len(expected)], expected)
