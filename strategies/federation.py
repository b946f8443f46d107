"""The federation as a Flower strategy: rounds, failures, validation, checkpoints."""

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from nescient_fl.errors import UserError
from nescient_fl.lesion.recipe import Recipe, recipe_to_json
from nescient_fl.messages import RoundOrder, order_content, payload_bytes
from nescient_fl.study.checkpoint import save_checkpoint
from nescient_fl.study.run_folder import RunFolder, append_line, read_lines, rewrite_lines
from strategies.answers import Aggregation, BudgetSpent, Failures, RoundAborted, RoundResult, figures
from strategies.exchange import Overdue, Patience, Stopped, exchange, failure_reason, wait_for_nodes
from strategies.participation import drawn_sites
from strategies.plain import PlainAggregation
from strategies.secure import SecureAggregation, SecurePlan
from strategies.server_optimiser import ServerOptimiser
from strategies.state import FederationState, load_state, save_state


@dataclass(frozen=True)
class FederationPlan:
    """What the coordinator needs to know of a study.

    Attributes:
        run: the run folder that holds checkpoints and rounds.jsonl.
        sites: how many sites take part.
        asked_sites: how many of them each round asks, drawn anew for every round.
        needed_sites: how many must answer for a round to count.
        server: how the global model moves by a round's average.
        join_timeout, round_timeout: seconds to wait for sites to join, and for their answers to one round.
        secure: how updates are summed without being seen; None sends them in clear.
        helper_patience: seconds from a round's first sum that could not be opened in which further attempts are made
            beyond the usual few, each after a pause: a party or dealer whose host restarts needs that long.
        owners: name and role of the member that each node's public key (PEM) was admitted for; None where nodes
            have no keys, as in a simulation.
    """

    run: Path
    sites: int
    rounds: int
    local_epochs: int
    seed: int
    recipe: Recipe
    asked_sites: int
    needed_sites: int
    round_timeout: float
    server: ServerOptimiser = field(default_factory=ServerOptimiser)
    join_timeout: float = 120.0
    secure: SecurePlan | None = None
    helper_patience: float = 0.0
    owners: Mapping[str, tuple[str, str]] | None = None


class Watcher(Protocol):
    """Told what happens while it happens, for a live view."""

    def sites_joined(self, names: Sequence[str]) -> None: ...

    def site_answered(self, round_number: int, site: str, problem: str | None) -> None: ...

    def round_aborted(self, round_number: int, reason: str) -> None: ...

    def round_validated(self, line: dict[str, Any]) -> None: ...

    def study_ended(self, reason: str) -> None: ...


TOO_LATE = "its answer came when the round was closed, and was thrown away"
_ATTEMPTS = 3
"""How often at least a round is tried whose sum could not be opened; the sites seal their answers anew each time."""
_LONGEST_PAUSE = 15.0
"""Seconds between two attempts of one round, at most: the pauses double from a second on."""


class FederatedAveraging(Strategy):
    """Averages of the sites' updates, round after round; a line and a checkpoint a round.

    The exact order of round r, from global model r-1:
      1. every site, or as many as take part in a round, drawn for this one, is sent model r-1 and an order;
      2. each scores it on its validation patients, trains it, and answers with its update;
      3. a site that raised, or was silent until the deadline, is named and left out; too few answers stop the
         study, which can be resumed;
      4. the sites' score counts add up to the validation of model r-1: its line is written, and it is kept
         when it is the best so far;
      5. updates are averaged in the order of site names, weighted by training images, and the server's optimiser
         moves the model by that average: model r;
      6. the checkpoint is written.
    After the last round one more exchange scores the last model without training it. A sum that could not be opened
    is tried again, from the sites on. When the privacy budget allows no further sum, the study ends with the last
    model whose validation is known.
    """

    def __init__(self, plan: FederationPlan, watcher: Watcher, stop: threading.Event) -> None:
        self._plan = plan
        self._folder = RunFolder(plan.run)
        self._watcher = watcher
        self._stop = stop
        self._nodes: dict[str, int] = {}
        self._aggregation: Aggregation = PlainAggregation()
        self._failures: Failures = []
        self._aborted: list[str] = []
        self._result: RoundResult | None = None
        self._grid: Grid | None = None
        self._overdue = Overdue(self._discarded)
        self._state = load_state(self._folder.checkpoints) or FederationState.initial(plan.recipe, plan.seed)

    def start(self, grid: Grid, *_: Any, **__: Any) -> Result:
        """Run every round that is still to be run. Returns the last and the best model in Flower's Result.

        Raises UserError when too few sites join or answer, and Stopped when the user stopped the study.
        """
        self._grid = grid
        lines = [line for line in read_lines(self._folder.rounds) if line["round"] < self._state.round]
        if not self._state.finished:
            rewrite_lines(self._folder.rounds, lines)
            self._join(grid)
            self._watcher.sites_joined(list(self._nodes))
        try:
            while not self._state.finished and self._state.round < self._plan.rounds:
                self._take_round(grid, self._state.round + 1)
            if not self._state.finished:
                self._finish(grid)
        except BudgetSpent as error:
            self._end(str(error))
        return Result(arrays=ArrayRecord(dict(self._state.weights)))

    def _join(self, grid: Grid) -> None:
        secure = self._plan.secure
        others = 0 if secure is None else len(secure.roster.parties) + 1
        plan = self._plan
        nodes = wait_for_nodes(grid, plan.sites, others, plan.join_timeout, self._stop, plan.owners)
        self._nodes = nodes.sites
        if secure is not None:
            self._aggregation = SecureAggregation(secure, nodes, self._exchange)

    def _exchange(self, grid: Grid, messages: Iterable[Message], patience: Patience) -> Iterable[Message]:
        return exchange(grid, messages, patience, self._stop, overdue=self._overdue)

    def _discarded(self, node: int, number: int) -> None:
        """Tell of a site's answer that came too late; what a party or the dealer says too late, nobody waits for."""
        for site in (name for name, known in self._nodes.items() if known == node):
            self._watcher.site_answered(number, site, TOO_LATE)

    def _take_round(self, grid: Grid, number: int) -> None:
        started = time.monotonic()
        result, bytes_down = self._aggregated(grid, number, train=True)
        assert result.averaged is not None
        if number == 1 and self._plan.secure is not None:
            save_checkpoint(self._folder.first_sum, {"averaged": result.averaged}, {"sites": result.sites})
        validated = self._write_validation(result)
        before = self._state
        weights, memory = self._plan.server.step(before.weights, result.averaged, before.memory)
        self._state = replace(
            validated,
            round=number,
            weights=weights,
            memory=memory,
            pending=self._line(number, result, time.monotonic() - started, bytes_down),
        )
        save_state(self._folder.checkpoints, self._state)

    def _finish(self, grid: Grid) -> None:
        result, _ = self._aggregated(grid, self._plan.rounds + 1, train=False)
        self._state = replace(self._write_validation(result), finished=True)
        save_state(self._folder.checkpoints, self._state)

    def _end(self, reason: str) -> None:
        if self._state.best is None:
            raise UserError("the privacy budget was spent before a round was finished: start a new run")
        self._watcher.study_ended(reason)
        self._state = replace(self._state, finished=True, ended=reason)
        save_state(self._folder.checkpoints, self._state)

    def _aggregated(self, grid: Grid, number: int, train: bool) -> tuple[RoundResult, int]:
        """Ask the sites and aggregate their answers; an aborted sum is tried again from the sites on.

        Returns the result and the bytes sent to each site. Raises UserError when the study cannot go on, BudgetSpent
        when it is over.
        """
        self._aborted = []
        self._overdue.round = number
        arrays = ArrayRecord(dict(self._state.weights))
        configure = self.configure_train if train else self.configure_evaluate
        aggregate = self.aggregate_train if train else self.aggregate_evaluate
        patience = Patience(self._plan.helper_patience)
        while len(self._aborted) < _ATTEMPTS or not patience.over:
            if self._aborted:
                self._pause(patience)
            messages = list(configure(number, arrays, ConfigRecord(), grid))
            replies = self._exchange(grid, messages, Patience(self._plan.round_timeout))
            try:
                aggregate(number, replies)
            except RoundAborted as error:
                if not self._aborted:
                    patience.begin()
                self._aborted.append(str(error))
                self._watcher.round_aborted(number, str(error))
                continue
            assert self._result is not None
            return self._result, payload_bytes(messages[0].content)
        raise UserError(
            f"round {number}: no sum could be opened in {len(self._aborted)} attempts: {self._aborted[-1]}; mend it "
            f"and go on with --resume {self._plan.run}"
        )

    def _pause(self, patience: Patience) -> None:
        """Give whoever was lost some time to come back, where there is any. Raises Stopped."""
        seconds = 0.0 if patience.over else min(2.0 ** (len(self._aborted) - 1), _LONGEST_PAUSE)
        if self._stop.wait(seconds):
            raise Stopped

    def configure_train(
        self,
        server_round: int,
        arrays: ArrayRecord,
        config: ConfigRecord,  # noqa: ARG002 - Flower's signature; a site's order carries its configuration
        grid: Grid,  # noqa: ARG002
    ) -> Iterable[Message]:
        """Address the model and the order to every site of the round."""
        return self._messages(server_round, arrays, train=True)

    def configure_evaluate(
        self,
        server_round: int,
        arrays: ArrayRecord,
        config: ConfigRecord,  # noqa: ARG002
        grid: Grid,  # noqa: ARG002
    ) -> Iterable[Message]:
        """Address the model to every site of the round, to be scored only."""
        return self._messages(server_round, arrays, train=False)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Collect the round's answers and average their updates.

        Raises UserError when fewer sites answered than the plan needs, RoundAborted when a sum of sealed
        updates could not be opened.
        """
        result = self._aggregate(server_round, replies, train=True)
        return ArrayRecord(dict(result.averaged or {})), None

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Collect the sites' score counts of the last model. Raises as ``aggregate_train`` does."""
        self._aggregate(server_round, replies, train=False)
        return None

    def summary(self) -> None:
        """Say nothing: the run folder and the watcher tell more than Flower's log would."""

    def _aggregate(self, number: int, replies: Iterable[Message], train: bool) -> RoundResult:
        answers = self._collect(number, replies)
        assert self._grid is not None
        order = self._order(number, train)
        result = self._aggregation.combine(self._grid, order, self._state.weights, answers)
        self._failures = sorted([*self._failures, *result.failures], key=lambda failure: failure["site"])
        for failure in result.failures:
            self._watcher.site_answered(number, failure["site"], failure["reason"])
        self._result = result
        return result

    def _order(self, number: int, train: bool) -> RoundOrder:
        plan = self._plan
        return RoundOrder(number, plan.rounds, plan.local_epochs, plan.seed, recipe_to_json(plan.recipe), train)

    def _messages(self, number: int, arrays: ArrayRecord, train: bool) -> list[Message]:
        order = self._order(number, train)
        weights = dict(arrays.to_torch_state_dict())
        kind = MessageType.TRAIN
        return [
            Message(self._aggregation.extend(order_content(order, weights), train, weights), self._nodes[name], kind)
            for name in self._asked(number)
        ]

    def _asked(self, number: int) -> list[str]:
        return drawn_sites(self._nodes, self._plan.asked_sites, self._plan.seed, number)

    def _collect(self, number: int, replies: Iterable[Message]) -> dict[str, Any]:
        """Read the replies as they come; name whoever failed or is silent. Returns answers in name order."""
        names = {node: name for name, node in self._nodes.items()}
        asked = self._asked(number)
        silent = set(asked)
        answers: dict[str, Any] = {}
        self._failures = []
        for reply in replies:
            site = names[reply.metadata.src_node_id]
            silent.discard(site)
            answer = failure_reason(reply) if reply.has_error() else self._aggregation.read(reply, site)
            problem = answer if isinstance(answer, str) else None
            if problem is None:
                answers[site] = answer
            else:
                self._failures.append({"site": site, "reason": problem})
            self._watcher.site_answered(number, site, problem)
        for site in sorted(silent):
            problem = f"no answer within {self._plan.round_timeout:g} s"
            self._failures.append({"site": site, "reason": problem})
            self._watcher.site_answered(number, site, problem)
        self._failures.sort(key=lambda failure: failure["site"])
        if len(answers) < self._plan.needed_sites:
            reasons = "; ".join(f"{failure['site']}: {failure['reason']}" for failure in self._failures)
            raise UserError(
                f"round {number}: {len(answers)} of {len(asked)} sites answered, "
                f"{self._plan.needed_sites} are needed ({reasons}); mend them and go on with "
                f"--resume {self._plan.run}"
            )
        return dict(sorted(answers.items()))

    def _write_validation(self, result: RoundResult) -> FederationState:
        """Write the line of the model that the answers scored; return the state that knows of it."""
        private = self._plan.secure is not None and self._plan.secure.private
        line = {
            **self._state.pending,
            "validation": figures(result.counts, private),
            "validation_by_site": list(result.validation_by_site),
        }
        append_line(self._folder.rounds, line)
        self._watcher.round_validated(line)
        return self._state.validated(result.counts, keep_last=private)

    def _line(self, number: int, result: RoundResult, seconds: float, bytes_down: int) -> dict[str, Any]:
        return {
            "round": number,
            "asked": self._asked(number),
            "sites": list(result.sites),
            "failures": self._failures,
            "aborted": self._aborted,
            "images": result.images,
            "train_loss": result.loss,
            "train_accuracy": result.accuracy,
            "by_site": list(result.by_site),
            "local_epochs": self._plan.local_epochs,
            "bytes_down_per_site": bytes_down,
            "seconds": round(seconds, 3),
            **result.notes,
        }
