"""The Flower ClientApp of every node: a thin adapter between a message and the actor that answers it.

Flower starts a process for each message of a real node. Such a process reaches the actor in its worker, whose
socket the node's configuration names, and so imports no more than Flower itself. Without a socket the actor is
made here, from a run folder and the node's number: a simulation.
"""

from pathlib import Path

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from nescient_fl.actions import AGGREGATE, DEAL
from nescient_fl.errors import UserError
from sites.wire import ask

SOCKET = "socket"
"""Key of a node's configuration."""


def make_app(run: str | None = None) -> ClientApp:
    """Make the app for one run folder; without one, the run configuration's ``run`` names it."""
    app = ClientApp()

    def answer(message: Message, context: Context) -> Message:
        return Message(_answer(run, message, context), reply_to=message)

    for register in (app.train(), app.query(), app.query(AGGREGATE), app.query(DEAL)):
        register(answer)
    return app


def _answer(run: str | None, message: Message, context: Context) -> RecordDict:
    kind = message.metadata.message_type
    socket = str(context.node_config.get(SOCKET, ""))
    if socket:
        return ask(Path(socket), kind, message.content)
    folder = run or str(context.run_config["run"])
    if not folder:
        raise UserError("name the run folder: --run-config 'run=\"PATH\"', as simulate --prepare-only wrote it")
    from sites.simulated import open_actor  # everything that is heavy

    return open_actor(Path(folder), int(context.node_config["partition-id"])).handle(kind, message.content)


app = make_app()
