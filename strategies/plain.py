"""Aggregation in clear: the coordinator sees every site's update and figures."""

from collections.abc import Mapping
from dataclasses import dataclass

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from nescient_fl.lesion.counts import ScoreCounts
from nescient_fl.lesion.network import Weights
from nescient_fl.messages import RoundOrder, SiteReport, payload_bytes, read_report
from strategies.answers import RoundResult, figures
from strategies.averaging import Contribution, average


@dataclass(frozen=True)
class PlainAnswer:
    """One site's answer in clear."""

    report: SiteReport
    counts: ScoreCounts
    update: Weights | None
    bytes: int


class PlainAggregation:
    """FedAvg over updates in clear."""

    def extend(self, content: RecordDict, train: bool, weights: Weights) -> RecordDict:  # noqa: ARG002
        """Return the order as it is."""
        return content

    def read(self, reply: Message, site: str) -> PlainAnswer | str:
        """Return a site's answer, or in words why it does not count."""
        try:
            report, counts, update = read_report(reply.content)
        except (KeyError, TypeError, ValueError) as error:
            return f"its answer cannot be read ({error!r})"
        if report.site != site:
            return f"it answered in the name of {report.site}"
        return PlainAnswer(report, counts, update, payload_bytes(reply.content))

    def combine(
        self,
        grid: Grid,  # noqa: ARG002 - nobody else is asked
        order: RoundOrder,
        weights: Weights,
        answers: Mapping[str, PlainAnswer],
    ) -> RoundResult:
        """Average the updates, weighted by training images, in the order of site names."""
        given = list(answers.values())
        averaged = None
        if order.train:
            updates = [
                Contribution(answer.report.site, answer.report.images, answer.update)
                for answer in given
                if answer.update is not None
            ]
            averaged = average(weights, updates)
        images = sum(answer.report.images for answer in given)
        return RoundResult(
            sites=tuple(answers),
            averaged=averaged,
            counts=sum((answer.counts for answer in given), ScoreCounts.empty()),
            images=images,
            loss=sum(answer.report.loss * answer.report.images for answer in given) / images,
            accuracy=sum(answer.report.accuracy * answer.report.images for answer in given) / images,
            by_site=[
                {
                    "site": answer.report.site,
                    "images": answer.report.images,
                    "loss": answer.report.loss,
                    "accuracy": answer.report.accuracy,
                    "seconds": round(answer.report.seconds, 3),
                    "bytes_up": answer.bytes,
                }
                for answer in given
            ],
            validation_by_site=[{"site": answer.report.site, **figures(answer.counts)} for answer in given],
        )
