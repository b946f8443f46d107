"""Radiographs read and rebuilt from plain updates, and nothing from sealed ones."""

from typing import Literal

import numpy as np
import pytest
import torch

from nescient_fl.attacks import dense_inversion, readings
from nescient_fl.attacks.dense_inversion import attack_dense_layer, recover_active, recover_features, relative_error
from nescient_fl.attacks.evidence import correlations, rank_of
from nescient_fl.attacks.federation import Federation, answer_of
from nescient_fl.attacks.image_inversion import RECOGNISABLE, attack_images, grey_levels, rebuild_images
from nescient_fl.attacks.victims import Scene, descend, draw_scene, features_of, take_adam_step
from nescient_fl.lesion.network import NetworkOptions, Weights
from nescient_fl.lesion.recipe import choose_recipe
from nescient_fl.mpc.shares import Split


def test_a_row_of_the_weights_by_its_bias_is_the_layers_input_by_hand() -> None:
    # y = W x + b with x = (2, 0, 3) and dL/dy = (0.5, -0.1): dW = dL/dy x^T.
    delta, x = torch.tensor([0.5, -0.1]), torch.tensor([2.0, 0.0, 3.0])
    update: Weights = {"dense1.weight": -0.01 * torch.outer(delta, x), "dense1.bias": -0.01 * delta}
    assert recover_features(update) == pytest.approx([2.0, 0.0, 3.0])
    assert (recover_features({name: 0 * value for name, value in update.items()}) == 0).all()


def test_the_features_that_the_attack_matches_are_those_that_the_network_sees(scene: Scene) -> None:
    network = scene.network()
    seen = []
    network[4].register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))  # noqa: ARG005
    network(scene.inputs[:2])
    torch.testing.assert_close(features_of(network, scene.inputs[:2]), seen[0])


@pytest.mark.parametrize("steps", [1, 5])
def test_a_plain_update_gives_the_features_away(scene: Scene, steps: int) -> None:
    features = scene.features()
    found = recover_features(descend(scene, [7], steps))
    assert rank_of(7, correlations(found, features)) == 1
    # In later steps the features move a little, with the convolution.
    assert relative_error(found, features[7]) < (1e-4 if steps == 1 else 0.1)


def test_a_step_of_adam_gives_away_which_features_are_not_zero(scene: Scene) -> None:
    found = recover_active(take_adam_step(scene, 3), scene.weights)
    np.testing.assert_array_equal(found, scene.features()[3] > 0)


def test_every_plain_update_is_named_and_no_sealed_one(scene: Scene, federation: Federation) -> None:
    finding = attack_dense_layer(scene, federation)
    assert finding.plain is not None
    assert finding.plain.succeeded
    assert finding.plain.figures["hits"] == {"the coordinator": 51}
    assert finding.plain.figures["adam_hits"] == 51
    assert finding.verdict == "held"
    assert set(finding.secure.figures["hits"]) == {"the relay", "party-1", "party-2", "the relay with party-1"}


def test_shares_of_zeros_masked_badly_would_be_noticed(
    scene: Scene, federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unmasked(ring: np.ndarray, parties: int) -> Split:  # type: ignore[type-arg]
        return Split(tuple(bytes(32) for _ in range(parties - 1)), ring)

    monkeypatch.setattr("sites.sealing.split", unmasked)
    finding = attack_dense_layer(scene, federation)
    assert finding.verdict == "broken"
    assert finding.secure.figures["hits"]["party-2"] == 51
    assert finding.secure.figures["hits"]["the relay"] < 9


@pytest.mark.slow
def test_radiographs_are_rebuilt_from_plain_updates_only(scene: Scene, federation: Federation) -> None:
    finding = attack_images(scene, federation, victims=(0, 1, 2))
    assert finding.plain is not None
    assert finding.plain.succeeded
    assert min(finding.plain.figures["correlations"]) >= RECOGNISABLE
    assert finding.verdict == "held"
    assert finding.secure.figures["largest_correlation"] < 0.4
    assert [len(row) for row in finding.pictures] == [4, 4, 4]
    for row in finding.pictures:
        assert all(picture.pixels.shape == (320, 390) and picture.pixels.dtype == np.uint8 for picture in row)
    np.testing.assert_array_equal(finding.pictures[1][0].pixels, scene.pixels[1])


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_the_paper_recipe_is_no_safer(activation: Literal["relu", "gelu"]) -> None:
    recipe = choose_recipe("paper", network=NetworkOptions(activation=activation))
    scene = draw_scene(recipe, images=30, phantom_seed=5)
    image = rebuild_images(scene.network(), recover_features(descend(scene, [4]))[None])[0]
    like = correlations(image.ravel(), scene.pixels.reshape(30, -1).astype(np.float32))
    assert rank_of(4, like) == 1
    assert like[4] > RECOGNISABLE


def test_grey_levels_of_anything_can_be_shown() -> None:
    assert (grey_levels(np.zeros((4, 4), np.float32)) == 127).all()
    shown = grey_levels(np.array([[-1e30, 1e30]], np.float32))
    assert shown.dtype == np.uint8
    assert shown[0, 0] < shown[0, 1]


def test_a_party_reads_its_own_share_and_two_make_the_update(scene: Scene, federation: Federation) -> None:
    order = scene.order()
    report = federation.seal(answer_of("site-01", descend(scene, [0]), 1), order, scene.weights)
    first, second = (readings.share_of(federation, report, rank) for rank in range(2))
    terms = federation.plan.terms(scene.weights, True)
    assert abs(int((first + second)[terms.update_words])) == 1
    assert np.abs((first + second)[: terms.update_words]).max() < 2**20
    assert len(readings.ciphertext_words(report, terms.dimension)) == terms.dimension


def test_ranks_count_ties_against_the_attacker() -> None:
    assert rank_of(1, np.array([0.1, 0.5, 0.2])) == 1
    assert rank_of(1, np.array([0.5, 0.5, 0.2])) == 2
    assert rank_of(0, np.array([0.0, 0.0, 0.0])) == 3
    assert rank_of(0, np.array([np.nan, 0.0, 0.0])) == 3
    assert dense_inversion.relative_error(np.array([1.0, 0.0]), np.array([1.0, 0.0], np.float32)) == 0
