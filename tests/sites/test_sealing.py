"""What leaves a site sealed: right words, bound to everything, refused when the round is not what was agreed."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from nescient_fl.lesion.counts import BINS, ScoreCounts
from nescient_fl.lesion.network import weights_sha256
from nescient_fl.messages import RoundOrder, SiteReport, order_json
from nescient_fl.mpc.envelope import SealedReport, copy_for, open_copy, verify_copy
from nescient_fl.mpc.errors import EncodingError, HeaderError, NoiseError, QuorumError
from nescient_fl.mpc.shares import join
from nescient_fl.mpc.sums import PROTOCOL
from nescient_fl.mpc.terms import Terms, binding
from nescient_fl.mpc.vault import Vault, create_vault
from nescient_fl.sealed_messages import SecureOrder
from nescient_fl.sealed_vector import PRIVATE_NORM, dimension, noise_for, read_sum, shapes_of
from sites.sealing import Answer, SitePolicy, check_order, seal_answer

WEIGHTS = {"a": torch.ones(3, 2), "b": torch.zeros(4)}
ORDER = RoundOrder(4, 10, 1, 0, "{}", True)
ORDER_BYTES = order_json(ORDER).encode()
COUNTS = ScoreCounts(np.arange(BINS), np.arange(BINS)[::-1].copy(), 30.0)
UPDATE = {"a": torch.full((3, 2), 0.5), "b": torch.tensor([1.0, -1.0, 0.25, 0.0])}


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Vault:
    return create_vault(tmp_path_factory.mktemp("vault") / "v", "test", ("site-1", "site-2", "site-3"), 2, 3)


@pytest.fixture
def policy(vault: Vault) -> SitePolicy:
    return SitePolicy(vault.keys("site-1"), vault.roster(), 3)


def answer_of(images: int = 40, update: Any = UPDATE) -> Answer:
    return Answer(SiteReport("site-1", images, 0.5, 0.75, 1.0), COUNTS, update)


def order_for(policy: SitePolicy, train: bool = True, **changes: Any) -> SecureOrder:
    length = dimension(shapes_of(WEIGHTS) if train else None)
    terms = Terms(length, 10 if train else 0, 12, 8.0, 64, 3)
    return SecureOrder("run", policy.roster.digest, replace(terms, **changes))


def sealed(policy: SitePolicy, answer: Answer, secure: SecureOrder, order: RoundOrder = ORDER) -> SealedReport:
    return seal_answer(answer, order, order_json(order).encode(), WEIGHTS, secure, policy)


def words_in(vault: Vault, report: SealedReport, length: int) -> NDArray[np.int64]:
    roster, shares = vault.roster(), []
    for rank, party in enumerate(roster.parties):
        copy = copy_for(report, rank)
        shares.append(open_copy(copy, verify_copy(copy, roster, rank), vault.keys(party.name), rank, length))
    return join(shares)


def test_what_was_sealed_is_the_sites_weighted_update_and_its_figures(vault: Vault, policy: SitePolicy) -> None:
    secure = order_for(policy)
    words = words_in(vault, sealed(policy, answer_of(), secure), secure.terms.dimension)
    assert words[:10].tolist() == [40 * 2048] * 6 + [40 * 4096, -40 * 4096, 40 * 1024, 0]
    read = read_sum(words, shapes_of(WEIGHTS), secure.terms)
    assert read.weight == 40
    np.testing.assert_array_equal(read.counts.positives, COUNTS.positives)
    assert (read.counts.loss_sum, read.loss, read.accuracy) == (30.0, 20.0, 30.0)


def test_the_header_names_everything_that_a_report_is_bound_to(vault: Vault, policy: SitePolicy) -> None:
    secure = order_for(policy)
    report = sealed(policy, answer_of(), secure)
    header = verify_copy(copy_for(report, 0), vault.roster(), 0)
    assert (header.protocol, header.run, header.round, header.site) == (PROTOCOL, "run", 4, "site-1")
    assert header.roster == policy.roster.digest
    assert header.model == binding(weights_sha256(WEIGHTS), ORDER_BYTES, secure.terms)
    assert (header.parties, header.dimension, header.fraction_bits, header.minimum) == (
        2,
        secure.terms.dimension,
        12,
        3,
    )
    assert (
        header.report_id != verify_copy(copy_for(sealed(policy, answer_of(), secure), 0), vault.roster(), 0).report_id
    )


def test_the_same_answer_is_never_sealed_to_the_same_bytes(policy: SitePolicy) -> None:
    first, second = (sealed(policy, answer_of(), order_for(policy)) for _ in range(2))
    assert first.header != second.header
    for one, other in zip(first.ciphertexts, second.ciphertexts, strict=True):
        same = np.frombuffer(one[: len(other)], np.uint8) == np.frombuffer(other, np.uint8)
        assert same.mean() < 0.1


def test_a_long_update_is_clipped_before_it_is_weighed(vault: Vault, policy: SitePolicy) -> None:
    secure = order_for(policy, clip=0.5)
    long = {name: value * 100 for name, value in UPDATE.items()}
    words = words_in(vault, sealed(policy, answer_of(update=long), secure), secure.terms.dimension)
    assert float(np.linalg.norm(words[:10] / 4096 / 40)) == pytest.approx(0.5, rel=1e-3)


def test_a_site_weighs_no_more_than_the_terms_allow(vault: Vault, policy: SitePolicy) -> None:
    secure = order_for(policy)
    words = words_in(vault, sealed(policy, answer_of(images=1000), secure), secure.terms.dimension)
    assert words[10] == 64


def test_a_round_that_only_scores_seals_counts_alone(vault: Vault, policy: SitePolicy) -> None:
    secure = order_for(policy, train=False)
    order = replace(ORDER, train=False)
    report = sealed(policy, answer_of(update=None), secure, order)
    read = read_sum(words_in(vault, report, secure.terms.dimension), None, secure.terms)
    assert read.update is None
    np.testing.assert_array_equal(read.counts.negatives, COUNTS.negatives)


def test_with_noise_in_the_terms_every_site_weighs_one_and_its_size_does_not_show(
    vault: Vault, policy: SitePolicy
) -> None:
    secure = order_for(policy, update_noise=5.0, metrics_noise=5.0)
    read = []
    for images in (40, 60):
        report = sealed(policy, answer_of(images=images), secure)
        read.append(words_in(vault, report, secure.terms.dimension))
    np.testing.assert_array_equal(*read)
    assert read[0][10] == 1
    assert float(np.linalg.norm(read[0][11:].astype(float))) <= PRIVATE_NORM


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_an_update_that_is_no_number_never_leaves(policy: SitePolicy, value: float) -> None:
    broken = {**UPDATE, "b": torch.tensor([1.0, value, 0.0, 0.0])}
    with pytest.raises(EncodingError):
        sealed(policy, answer_of(update=broken), order_for(policy))


def test_terms_of_another_model_are_refused(policy: SitePolicy) -> None:
    with pytest.raises(HeaderError, match="do not fit this model"):
        sealed(policy, answer_of(), order_for(policy, dimension=2000))
    with pytest.raises(HeaderError, match="do not fit this model"):
        sealed(policy, answer_of(update=None), order_for(policy), replace(ORDER, train=False))


def test_another_roster_and_too_small_a_federation_are_refused(policy: SitePolicy) -> None:
    check_order(order_for(policy), policy)
    with pytest.raises(HeaderError, match="another roster"):
        check_order(replace(order_for(policy), roster="0" * 64), policy)
    with pytest.raises(QuorumError, match="3 sites, this site asks for 4"):
        check_order(order_for(policy), replace(policy, minimum=4))


def test_less_noise_than_the_site_asks_for_is_refused(policy: SitePolicy) -> None:
    careful = replace(policy, noise_multiplier=1.5)
    terms = order_for(policy, weight_max=1).terms
    update, metrics = noise_for(1.5, terms.clip, terms.fraction_bits, terms.update_words, terms.dimension)
    check_order(order_for(policy, weight_max=1, update_noise=update, metrics_noise=metrics), careful)
    for changes in (
        {},
        {"update_noise": update},
        {"update_noise": update * 0.99, "metrics_noise": metrics},
        {"update_noise": update, "metrics_noise": metrics * 0.99},
        {"update_noise": update, "metrics_noise": metrics, "clip": 16.0},
    ):
        with pytest.raises(NoiseError):
            check_order(order_for(policy, **{"weight_max": 1, **changes}), careful)


def test_keys_of_the_wrong_kind_seal_nothing(vault: Vault, policy: SitePolicy, tmp_path: Path) -> None:
    stranger = create_vault(tmp_path / "other", "test", ("site-1", "site-2", "site-3"), 2, 3)
    report = sealed(replace(policy, keys=stranger.keys("site-1")), answer_of(), order_for(policy))
    with pytest.raises(Exception, match="does not fit its report"):
        verify_copy(copy_for(report, 0), vault.roster(), 0)
