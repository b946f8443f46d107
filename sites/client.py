"""The Flower ClientApp of every node: a site, a compute party or the dealer, by the node's number.

Nodes are numbered: first the sites in name order, then the parties, then the dealer. The app is a thin adapter
between messages and what does the work.
"""

import time
from functools import lru_cache
from pathlib import Path

import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from nescient_fl.errors import UserError
from nescient_fl.lesion.network import Weights
from nescient_fl.messages import (
    DEALER,
    ORDER,
    PARTY,
    SITE,
    RoundOrder,
    node_content,
    read_order,
    report_content,
)
from nescient_fl.mpc.vault import Vault
from nescient_fl.sealed_messages import (
    AGGREGATE,
    DEAL,
    SecureOrder,
    SharedMetrics,
    read_secure_order,
    sealed_content,
)
from nescient_fl.study.run_folder import RunFolder, read_json
from sites.sealing import Answer, SitePolicy, check_order, seal_answer
from sites.site import Site, open_site
from sites.transcript import record_departure


def make_app(run: str | None = None) -> ClientApp:
    """Make the app for one run folder; without one, the run configuration's ``run`` names it."""
    app = ClientApp()

    @app.query()
    def say_who(message: Message, context: Context) -> Message:
        folder = _run(run, context)
        name, role = _who(folder, _number(context))
        if role == SITE:
            open_site(folder, _number(context))  # found out now, whether its data are there
        content = node_content(name, role)
        record_departure(folder, name, None, content)
        return Message(content, reply_to=message)

    @app.train()
    def take_round(message: Message, context: Context) -> Message:
        # One thread a site: sites run side by side, and sums come out the same on every machine's core count.
        torch.set_num_threads(1)
        folder = _run(run, context)
        site = open_site(folder, _number(context))
        order, weights = read_order(message.content)
        secure = read_secure_order(message.content)
        if secure is None:
            answer = Answer(*site.answer(order, weights))
            content, seconds = report_content(answer.report, answer.counts, answer.update), None
        else:
            content, seconds = _sealed(folder, site, order, weights, message, secure)
        record_departure(folder, site.data.name, order, content, seconds)
        return Message(content, reply_to=message)

    @app.query(AGGREGATE)
    def take_part_in_sum(message: Message, context: Context) -> Message:
        # Only parties need CrypTen, which takes a second to import.
        from sites.parties import open_sum

        torch.set_num_threads(1)
        folder = _run(run, context)
        vault, name = _vault(folder), _who(folder, _number(context))[0]
        with vault.store(name) as store:
            content = open_sum(message.content, vault.keys(name), vault.roster(), store)
        return Message(content, reply_to=message)

    @app.query(DEAL)
    def deal_randomness(message: Message, context: Context) -> Message:
        from sites.parties import deal

        folder = _run(run, context)
        vault = _vault(folder)
        content = deal(message.content, vault.keys(_who(folder, _number(context))[0]), vault.roster())
        return Message(content, reply_to=message)

    return app


def _sealed(
    folder: Path, site: Site, order: RoundOrder, weights: Weights, message: Message, secure: SecureOrder
) -> tuple[RecordDict, float]:
    """Return the site's sealed answer, and the seconds that clipping, sharing, sealing and signing took."""
    policy = _policy(folder, site.data.name)
    check_order(secure, policy)
    answer = Answer(*site.answer(order, weights))
    started = time.perf_counter()
    record: ConfigRecord = message.content.config_records[ORDER]
    report = seal_answer(answer, order, str(record["json"]).encode(), weights, secure, policy)
    seconds = time.perf_counter() - started
    return sealed_content(report, _shared(answer) if policy.share_metrics else None), seconds


def _shared(answer: Answer) -> SharedMetrics:
    counts, report = answer.counts, answer.report
    return SharedMetrics(
        site=report.site,
        images=report.images,
        loss=report.loss,
        accuracy=report.accuracy,
        validation={
            "images": counts.images,
            "loss": counts.loss,
            "auroc": counts.auroc,
            "recall": counts.recall(0.5),
        },
        seconds=report.seconds,
    )


@lru_cache(maxsize=8)
def _policy(folder: Path, name: str) -> SitePolicy:
    config = read_json(RunFolder(folder).config)
    vault = _vault(folder)
    shared = config["settings"]["share_metrics"]
    return SitePolicy(vault.keys(name), vault.roster(), config["secure"]["minimum"], name in shared or "all" in shared)


def _vault(folder: Path) -> Vault:
    secure = read_json(RunFolder(folder).config)["secure"]
    if secure is None:
        raise UserError("this run has no keys: it was begun with --aggregation plain")
    return Vault(Path(secure["vault"]))


@lru_cache(maxsize=32)
def _who(folder: Path, number: int) -> tuple[str, str]:
    """Return name and role of a node by its number."""
    config = read_json(RunFolder(folder).config)
    nodes = [(name, SITE) for name in config["sites"]]
    if config["secure"] is not None:
        roster = _vault(folder).roster()
        nodes += [(party.name, PARTY) for party in roster.parties] + [(roster.dealer.name, DEALER)]
    return nodes[number]


def _run(run: str | None, context: Context) -> Path:
    return Path(run or str(context.run_config["run"]))


def _number(context: Context) -> int:
    return int(context.node_config["partition-id"])


app = make_app()
