"""The federation as a Flower strategy: rounds, failures, validation, checkpoints."""

import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from nescient_fl.errors import UserError
from nescient_fl.lesion.counts import ScoreCounts
from nescient_fl.lesion.network import Weights
from nescient_fl.lesion.recipe import Recipe, recipe_to_json
from nescient_fl.messages import RoundOrder, SiteReport, order_content, payload_bytes, read_report
from nescient_fl.study.run_folder import RunFolder, append_line, read_lines, rewrite_lines
from strategies.averaging import Contribution, average
from strategies.exchange import exchange, failure_reason, wait_for_nodes
from strategies.momentum import with_momentum
from strategies.state import FederationState, load_state, save_state


@dataclass(frozen=True)
class FederationPlan:
    """What the coordinator needs to know of a study.

    Attributes:
        run: the run folder that holds checkpoints and rounds.jsonl.
        sites: how many sites take part.
        needed_sites: how many must answer for a round to count.
        server_momentum: share of the last round's step that joins the next; 0 is plain FedAvg.
        join_timeout, round_timeout: seconds to wait for sites to join, and for their answers to one round.
    """

    run: Path
    sites: int
    rounds: int
    local_epochs: int
    seed: int
    recipe: Recipe
    needed_sites: int
    round_timeout: float
    server_momentum: float = 0.0
    join_timeout: float = 120.0


class Watcher(Protocol):
    """Told what happens while it happens, for a live view."""

    def sites_joined(self, names: Sequence[str]) -> None: ...

    def site_answered(self, round_number: int, site: str, problem: str | None) -> None: ...

    def round_validated(self, line: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class _Answer:
    report: SiteReport
    counts: ScoreCounts
    update: Weights | None
    bytes: int


class FederatedAveraging(Strategy):
    """FedAvg over all sites, a line and a checkpoint a round.

    The exact order of round r, from global model r-1:
      1. every site is sent model r-1 and an order;
      2. each scores it on its validation patients, trains it, and answers with its update;
      3. a site that raised, or was silent until the deadline, is named and left out; too few answers stop the
         study, which can be resumed;
      4. the sites' score counts add up to the validation of model r-1: its line is written, and it is kept
         when it is the best so far;
      5. updates are averaged in the order of site names, weighted by training images, and join the server's
         momentum where the study has one: model r;
      6. the checkpoint is written.
    After the last round one more exchange scores the last model without training it.
    """

    def __init__(self, plan: FederationPlan, watcher: Watcher, stop: threading.Event) -> None:
        self._plan = plan
        self._folder = RunFolder(plan.run)
        self._watcher = watcher
        self._stop = stop
        self._nodes: dict[str, int] = {}
        self._answers: list[_Answer] = []
        self._failures: list[dict[str, str]] = []
        self._state = load_state(self._folder.checkpoints) or FederationState.initial(plan.recipe, plan.seed)

    def start(self, grid: Grid, *_: Any, **__: Any) -> Result:
        """Run every round that is still to be run. Returns the last and the best model in Flower's Result.

        Raises UserError when too few sites join or answer, and Stopped when the user stopped the study.
        """
        lines = [line for line in read_lines(self._folder.rounds) if line["round"] < self._state.round]
        if not self._state.finished:
            rewrite_lines(self._folder.rounds, lines)
            self._nodes = wait_for_nodes(grid, self._plan.sites, 0, self._plan.join_timeout, self._stop).sites
            self._watcher.sites_joined(list(self._nodes))
        while self._state.round < self._plan.rounds:
            self._take_round(grid, self._state.round + 1)
        if not self._state.finished:
            self._finish(grid)
        return Result(arrays=ArrayRecord(dict(self._state.weights)))

    def _take_round(self, grid: Grid, number: int) -> None:
        started = time.monotonic()
        arrays = ArrayRecord(dict(self._state.weights))
        messages = list(self.configure_train(number, arrays, ConfigRecord(), grid))
        replies = exchange(grid, messages, self._plan.round_timeout, self._stop)
        averaged, _ = self.aggregate_train(number, replies)
        assert averaged is not None
        validated = self._write_validation()
        before = self._state
        weights, velocity = with_momentum(
            before.weights, dict(averaged.to_torch_state_dict()), before.velocity, self._plan.server_momentum
        )
        self._state = replace(
            validated,
            round=number,
            weights=weights,
            velocity=velocity,
            pending=self._line(number, time.monotonic() - started, payload_bytes(messages[0].content)),
        )
        save_state(self._folder.checkpoints, self._state)

    def _finish(self, grid: Grid) -> None:
        number = self._plan.rounds + 1
        arrays = ArrayRecord(dict(self._state.weights))
        messages = self.configure_evaluate(number, arrays, ConfigRecord(), grid)
        self.aggregate_evaluate(number, exchange(grid, messages, self._plan.round_timeout, self._stop))
        self._state = replace(self._write_validation(), finished=True)
        save_state(self._folder.checkpoints, self._state)

    def configure_train(
        self,
        server_round: int,
        arrays: ArrayRecord,
        config: ConfigRecord,  # noqa: ARG002 - Flower's signature; a site's order carries its configuration
        grid: Grid,  # noqa: ARG002
    ) -> Iterable[Message]:
        """Address the model and the order to every site."""
        return self._messages(server_round, arrays, train=True)

    def configure_evaluate(
        self,
        server_round: int,
        arrays: ArrayRecord,
        config: ConfigRecord,  # noqa: ARG002
        grid: Grid,  # noqa: ARG002
    ) -> Iterable[Message]:
        """Address the model to every site, to be scored only."""
        return self._messages(server_round, arrays, train=False)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Collect the round's answers and average their updates.

        Raises UserError when fewer sites answered than the plan needs.
        """
        self._collect(server_round, replies)
        contributions = [
            Contribution(answer.report.site, answer.report.images, answer.update)
            for answer in self._answers
            if answer.update is not None
        ]
        return ArrayRecord(dict(average(self._state.weights, contributions))), None

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Collect the sites' score counts of the last model. Raises UserError when too few answered."""
        self._collect(server_round, replies)
        return None

    def summary(self) -> None:
        """Say nothing: the run folder and the watcher tell more than Flower's log would."""

    def _messages(self, number: int, arrays: ArrayRecord, train: bool) -> list[Message]:
        plan = self._plan
        order = RoundOrder(
            number, plan.rounds, plan.local_epochs, plan.seed, recipe_to_json(plan.recipe), train
        )
        weights = dict(arrays.to_torch_state_dict())
        kind = MessageType.TRAIN
        return [Message(order_content(order, weights), node, kind) for node in self._nodes.values()]

    def _collect(self, number: int, replies: Iterable[Message]) -> None:
        names = {node: name for name, node in self._nodes.items()}
        silent = set(self._nodes)
        self._answers, self._failures = [], []
        for reply in replies:
            site = names[reply.metadata.src_node_id]
            silent.discard(site)
            answer = _read_answer(reply, site)
            if isinstance(answer, _Answer):
                self._answers.append(answer)
                problem = None
            else:
                self._failures.append({"site": site, "reason": answer})
                problem = answer
            self._watcher.site_answered(number, site, problem)
        for site in sorted(silent):
            problem = f"no answer within {self._plan.round_timeout:g} s"
            self._failures.append({"site": site, "reason": problem})
            self._watcher.site_answered(number, site, problem)
        self._answers.sort(key=lambda answer: answer.report.site)
        self._failures.sort(key=lambda failure: failure["site"])
        if len(self._answers) < self._plan.needed_sites:
            reasons = "; ".join(f"{failure['site']}: {failure['reason']}" for failure in self._failures)
            raise UserError(
                f"round {number}: {len(self._answers)} of {self._plan.sites} sites answered, "
                f"{self._plan.needed_sites} are needed ({reasons}); mend them and go on with "
                f"--resume {self._plan.run}"
            )

    def _write_validation(self) -> FederationState:
        """Write the line of the model that the answers scored; return the state that knows of it."""
        counts = sum((answer.counts for answer in self._answers), ScoreCounts.empty())
        line = {
            **self._state.pending,
            "validation": _figures(counts),
            "validation_by_site": [
                {"site": answer.report.site, **_figures(answer.counts)} for answer in self._answers
            ],
        }
        append_line(self._folder.rounds, line)
        self._watcher.round_validated(line)
        return self._state.validated(counts)

    def _line(self, number: int, seconds: float, bytes_down: int) -> dict[str, Any]:
        reports = [answer.report for answer in self._answers]
        images = sum(report.images for report in reports)
        return {
            "round": number,
            "sites": [report.site for report in reports],
            "failures": self._failures,
            "train_loss": sum(report.loss * report.images for report in reports) / images,
            "train_accuracy": sum(report.accuracy * report.images for report in reports) / images,
            "by_site": [
                {
                    "site": answer.report.site,
                    "images": answer.report.images,
                    "loss": answer.report.loss,
                    "accuracy": answer.report.accuracy,
                    "seconds": round(answer.report.seconds, 3),
                    "bytes_up": answer.bytes,
                }
                for answer in self._answers
            ],
            "local_epochs": self._plan.local_epochs,
            "bytes_down_per_site": bytes_down,
            "seconds": round(seconds, 3),
        }


def _read_answer(reply: Message, site: str) -> _Answer | str:
    """Return a site's answer, or in words why it does not count."""
    if reply.has_error():
        return failure_reason(reply)
    try:
        report, counts, update = read_report(reply.content)
    except (KeyError, TypeError, ValueError) as error:
        return f"its answer cannot be read ({error!r})"
    if report.site != site:
        return f"it answered in the name of {report.site}"
    return _Answer(report, counts, update, payload_bytes(reply.content))


def _figures(counts: ScoreCounts) -> dict[str, Any]:
    return {
        "images": counts.images,
        "loss": counts.loss,
        "auroc": counts.auroc,
        "recall": counts.recall(0.5),
    }
