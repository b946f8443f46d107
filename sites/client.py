"""The Flower ClientApp of a site: a thin adapter between messages and ``Site``."""

from pathlib import Path

import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from nescient_fl.messages import node_content, read_order, report_content
from sites.site import Site, open_site
from sites.transcript import record_departure


def make_app(run: str | None = None) -> ClientApp:
    """Make the app for one run folder; without one, the run configuration's ``run`` names it."""
    app = ClientApp()

    @app.query()
    def say_which_site(message: Message, context: Context) -> Message:
        name = _site(run, context).data.name
        content = node_content(name)
        record_departure(_run(run, context), name, None, content)
        return Message(content, reply_to=message)

    @app.train()
    def take_round(message: Message, context: Context) -> Message:
        # One thread a site: sites run side by side, and sums come out the same on every machine's core count.
        torch.set_num_threads(1)
        site = _site(run, context)
        order, weights = read_order(message.content)
        report, counts, update = site.answer(order, weights)
        content = report_content(report, counts, update)
        record_departure(_run(run, context), site.data.name, order, content)
        return Message(content, reply_to=message)

    return app


def _run(run: str | None, context: Context) -> Path:
    return Path(run or str(context.run_config["run"]))


def _site(run: str | None, context: Context) -> Site:
    return open_site(_run(run, context), int(context.node_config["partition-id"]))


app = make_app()
