"""Carries messages from a member's SuperNode to its worker and back: the node's executor, one process for all.

Flower's own executor starts a process for each message and runs the application that the coordinator sent. This
one takes the place of it (``--isolation process``): it stays, so that Flower is imported once, and it never runs
what was sent: it compares the bundle's hash with the one that the member trusts and calls the installed
``sites.client`` app, which asks the worker over its Unix socket. A bundle that differs is refused by name.

Run as a program with the SuperNode's address, the file of the secret they share, and the bundle's hash.
"""

import hashlib
import sys
import time
from pathlib import Path

import httpx
from flwr.app import Context, Message
from flwr.app.error import Error
from flwr.common.constant import ErrorCode, SubStatus
from flwr.proto.runtime_pb2 import AcquireTaskRequest  # pylint: disable=no-name-in-module
from flwr.supercore.constant import TaskType
from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output

from nescient_fl.deployment.logs import Log, make_log
from sites.client import app

_POLL_SECONDS = 0.2
_START_SECONDS = 120.0
_ACQUIRE = "/flwr.proto.Runtime/AcquireTask"


def main() -> None:
    """Carry messages until the SuperNode is gone."""
    address, secret, bundle = sys.argv[1:]
    log = make_log("courier", address)
    client = RuntimeHttpClient.from_server_address(
        server_address=address,
        insecure=True,
        root_certificates=None,
        interceptors=[
            RuntimeVersionHttpInterceptor(component_name="SuperExec"),
            SuperExecAuthHttpInterceptor(
                master_secret=Path(secret).read_bytes(), protected_methods=frozenset({_ACQUIRE})
            ),
        ],
    )
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            found = client.AcquireTask(AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP]))
        except httpx.TransportError as error:
            # The node may not listen yet; later, its end is this one's.
            if time.monotonic() > deadline:
                log("ended", reason=str(error))
                raise SystemExit(1) from None
            time.sleep(_POLL_SECONDS)
            continue
        deadline = time.monotonic()
        if found.HasField("task") and found.token:
            carry(address, found.token, bundle, log)
        else:
            time.sleep(_POLL_SECONDS)


def carry(address: str, token: str, bundle: str, log: Log) -> None:
    """Take one message to the worker and its answer back; whatever goes wrong is the answer then."""
    client = RuntimeHttpClient.from_server_address(
        server_address=address,
        insecure=True,
        root_certificates=None,
        interceptors=[
            RuntimeVersionHttpInterceptor(component_name="flwr-clientapp"),
            RuntimeTokenHttpInterceptor(token),
        ],
    )
    heartbeat = HeartbeatSender(make_task_heartbeat_fn_http(client))
    context: Context | None = None
    status, details = SubStatus.FAILED, "the message could not be read"
    try:
        heartbeat.start()
        message, context, _, fab = pull_task_input(client)
        reply, details = answer(message, context, fab.content, bundle, log)
        status = SubStatus.FAILED if details else SubStatus.COMPLETED
        push_message(client, reply, context)
    except Exception as error:  # the node hears of it, and the next message is waited for
        details = f"{type(error).__name__}: {error}"
        log("lost", reason=details)
    finally:
        push_task_output(client=client, context=context, sub_status=status, details=details)
        if heartbeat.is_running:
            heartbeat.stop()
        client.close()


def answer(message: Message, context: Context, content: bytes, bundle: str, log: Log) -> tuple[Message, str]:
    """Return the answer to a message that came with a bundle, and what went wrong, empty when nothing did."""
    found = hashlib.sha256(content).hexdigest()
    if found != bundle:
        reason = f"the coordinator's application bundle {found[:12]} is not the one trusted here, {bundle[:12]}"
        log("refused", reason=reason)
        return Message(Error(ErrorCode.INVALID_FAB, reason), reply_to=message), reason
    try:
        return app(message, context), ""
    except Exception as error:  # as Flower's own executor answers
        reason = str(error) or type(error).__name__
        return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message), reason


if __name__ == "__main__":
    main()
