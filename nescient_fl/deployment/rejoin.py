"""Signing off a node whose SuperNode was killed, so that the next one is let in at once.

A killed SuperNode could not sign off itself, and its link takes it for present for another minute: it would
neither give up the question that died with it nor let its successor in.
"""

import re
from pathlib import Path
from typing import Any

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from nescient_fl.deployment.roles import MemberSettings

_NODE_ID = re.compile(rb"SuperNode ID: (\d+)")


def last_node_id(log: Path) -> int | None:
    """Return the node id that the last SuperNode was given, from its log; None when it had none."""
    found = _NODE_ID.findall(log.read_bytes()) if log.exists() else []
    return int(found[-1]) if found else None


def sign_off(settings: MemberSettings, node: int) -> bool:
    """Tell the link that a node is not there. Returns False when the link cannot be told, or does not know it."""
    # Flower's client takes half a second to import, and only a node that comes back needs it.
    from flwr.proto.fleet_pb2 import DeactivateNodeRequest  # pylint: disable=no-name-in-module
    from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
    from flwr.supernode.fleet_http_client import FleetHttpClient
    from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

    key = load_ssh_private_key(settings.node_key.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    interceptors: list[Any] = [
        RuntimeVersionHttpInterceptor(component_name="SuperNode"),
        NodeAuthHttpInterceptor(key, key.public_key()),
    ]
    try:
        with FleetHttpClient.from_server_address(
            settings.superlink, False, settings.ca.read_bytes(), interceptors=interceptors
        ) as client:
            client.DeactivateNode(DeactivateNodeRequest(node_id=node))
    except httpx.HTTPError:
        return False
    return True
