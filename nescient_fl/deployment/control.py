"""What the coordinator asks of its SuperLink: to register nodes, start the run, and say how it goes."""

import time
from pathlib import Path
from typing import Any

import httpx
from flwr.common.constant import Status, SubStatus
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import (  # pylint: disable=no-name-in-module
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
)
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

from nescient_fl.deployment.bundle import bundle_sha256
from nescient_fl.errors import UserError

_POLL_SECONDS = 0.2
_SILENT_SECONDS = 120.0


class Control:
    """The SuperLink's control interface over TLS, ``authority`` the only certificate authority that counts."""

    def __init__(self, address: str, authority: Path) -> None:
        self._address = address
        self._heard = time.monotonic()
        self._client = ControlHttpClient.from_server_address(
            server_address=address,
            insecure=False,
            root_certificates=authority.read_bytes(),
            interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr CLI")],
        )

    def close(self) -> None:
        self._client.close()

    def reachable(self) -> bool:
        """Say whether the SuperLink answers now."""
        try:
            self._client.ListRuns(ListRunsRequest(limit=1))
        except httpx.HTTPError:
            return False
        return True

    def wait(self, seconds: float, alive: Any) -> None:
        """Wait until the SuperLink answers. Raises UserError when ``alive()`` is false before, or time is up."""
        deadline = time.monotonic() + seconds
        while not self.reachable():
            if not alive() or time.monotonic() > deadline:
                raise UserError(f"the SuperLink at {self._address} does not answer: see its log")
            time.sleep(_POLL_SECONDS)
        self._heard = time.monotonic()

    def register(self, name: str, public_pem: bytes) -> int:
        """Admit a node by its public key; returns its node id. Raises UserError when the SuperLink refuses."""
        try:
            response = self._client.RegisterNode(RegisterNodeRequest(public_key=public_pem, name=name))
        except httpx.HTTPStatusError as error:
            raise UserError(f"the SuperLink does not register {name}: {error.response.text}") from None
        return int(response.node_id)

    def start_run(self, bundle: bytes, config: dict[str, str]) -> int:
        """Start a run of the bundle. Returns its id. Raises UserError when the SuperLink refuses."""
        fab = Fab(bundle_sha256(bundle), bundle, {})
        try:
            response = self._client.StartRun(
                StartRunRequest(fab=fab_to_proto(fab), override_config=user_config_to_proto(dict(config)))
            )
        except httpx.HTTPStatusError as error:
            raise UserError(f"the SuperLink does not start the run: {error.response.text}") from None
        if not response.HasField("run_id"):
            raise UserError("the SuperLink does not start the run")
        return int(response.run_id)

    def failure(self, run_id: int) -> str | None:
        """Return why a run ended without its last round, None while it has not or the link is too busy to say.

        Raises httpx.TransportError when it has not answered for two minutes.
        """
        try:
            status = self._client.ListRuns(ListRunsRequest(run_id=run_id)).run_dict[run_id].status
        except httpx.TransportError:
            if time.monotonic() - self._heard > _SILENT_SECONDS:
                raise
            return None
        self._heard = time.monotonic()
        if status.status != Status.FINISHED or status.sub_status == SubStatus.COMPLETED:
            return None
        return str(status.details or f"the run was {status.sub_status}")
