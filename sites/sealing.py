"""What a site does to its answer before it leaves: clip, weigh, encode, share, seal, sign."""

from dataclasses import dataclass

import numpy as np

from nescient_fl.errors import UserError
from nescient_fl.lesion.counts import ScoreCounts
from nescient_fl.lesion.network import Weights, weights_sha256
from nescient_fl.messages import RoundOrder, SiteReport
from nescient_fl.mpc.envelope import ReportHeader, SealedReport, seal_report
from nescient_fl.mpc.errors import HeaderError, NoiseError, QuorumError
from nescient_fl.mpc.keys import MemberKeys
from nescient_fl.mpc.randomness import fresh_seed
from nescient_fl.mpc.roster import Roster
from nescient_fl.mpc.shares import encode, split
from nescient_fl.mpc.sums import PROTOCOL
from nescient_fl.mpc.terms import binding
from nescient_fl.sealed_messages import SecureOrder
from nescient_fl.sealed_vector import (
    clip_update,
    dimension,
    flatten,
    metric_words,
    noise_for,
    private_metric_words,
    shapes_of,
)


@dataclass(frozen=True)
class SitePolicy:
    """What a site itself decides, whatever the coordinator asks.

    Attributes:
        keys: the site's signing key.
        roster: the federation as the site knows it.
        minimum: fewest sites in a sum that the site takes part in.
        share_metrics: whether it tells the coordinator its own figures in clear, beside the sum.
        noise_multiplier: least noise, by sensitivity, of a sum that the site takes part in; 0 asks for none.
    """

    keys: MemberKeys
    roster: Roster
    minimum: int
    share_metrics: bool = False
    noise_multiplier: float = 0.0

    def __post_init__(self) -> None:
        if self.share_metrics and self.noise_multiplier > 0:
            raise UserError(
                f"{self.keys.name} shares its own figures in clear and asks for noise in the sums: the figures would "
                "tell what the noise hides, choose one"
            )


@dataclass(frozen=True)
class Answer:
    """A site's round in clear, as it never leaves: report, validation counts, update (None when scoring only)."""

    report: SiteReport
    counts: ScoreCounts
    update: Weights | None


def check_order(secure: SecureOrder, policy: SitePolicy) -> None:
    """Refuse a round that is not what the site agreed to.

    Raises HeaderError for another roster than the site's own, QuorumError when the sum could be of fewer sites than
    the site's own minimum, and NoiseError when it would have less noise than the site asks for.
    """
    if secure.roster != policy.roster.digest:
        raise HeaderError("the coordinator holds another roster than this site")
    if len(policy.roster.sites) < policy.minimum:
        raise QuorumError(f"the federation has {len(policy.roster.sites)} sites, this site asks for {policy.minimum}")
    if policy.noise_multiplier > 0:
        terms = secure.terms
        asked = noise_for(policy.noise_multiplier, terms.clip, terms.fraction_bits, terms.update_words, terms.dimension)
        if terms.update_noise < asked[0] * (1 - 1e-9) or terms.metrics_noise < asked[1] * (1 - 1e-9):
            raise NoiseError("the sum would have less noise than this site asks for")


def seal_answer(
    answer: Answer,
    order: RoundOrder,
    order_bytes: bytes,
    weights: Weights,
    secure: SecureOrder,
    policy: SitePolicy,
) -> SealedReport:
    """Turn a site's answer into sealed shares for the parties.

    The weight is the number of training images, at most the terms' largest; with noise in the terms every site
    weighs 1, so that no site's size shows and one clip bounds what any of them can change.

    Raises EncodingError for a value that the ring cannot hold, HeaderError for terms that do not fit the model.
    """
    terms = secure.terms
    shapes = shapes_of(weights) if order.train else None
    if terms.dimension != dimension(shapes):
        raise HeaderError("the terms do not fit this model")
    weight = 1 if terms.private else min(answer.report.images, terms.weight_max)
    if terms.private:
        metrics = private_metric_words(answer.counts)
    else:
        loss, accuracy = answer.report.loss * weight, answer.report.accuracy * weight
        metrics = metric_words(answer.counts, loss, accuracy, terms.weight_max)
    update = np.zeros(0, np.int64)
    if answer.update is not None:
        update = encode(flatten(clip_update(answer.update, terms.clip), weight), terms.fraction_bits)
    vector = np.concatenate([update, np.array([weight], np.int64), metrics])
    header = ReportHeader(
        protocol=PROTOCOL,
        run=secure.run,
        round=order.round,
        roster=policy.roster.digest,
        model=binding(weights_sha256(weights), order_bytes, terms),
        site=policy.keys.name,
        parties=len(policy.roster.parties),
        dimension=terms.dimension,
        fraction_bits=terms.fraction_bits,
        minimum=policy.minimum,
        report_id=fresh_seed()[:16].hex(),
    )
    return seal_report(header, split(vector, len(policy.roster.parties)), policy.roster, policy.keys)
