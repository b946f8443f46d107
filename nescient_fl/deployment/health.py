"""``/health`` on the loopback interface: 200 and a line of JSON while all is well, 503 when it is not."""

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from nescient_fl.errors import UserError

Check = Callable[[], tuple[bool, dict[str, Any]]]
"""Says whether all is well, and what else is to be told."""


class Health:
    """Serves ``/health`` while the context lasts; port 0 serves nothing."""

    def __init__(self, port: int, check: Check) -> None:
        self._server: ThreadingHTTPServer | None = None
        if port:
            try:
                self._server = ThreadingHTTPServer(("127.0.0.1", port), _handler(check))
            except OSError as error:
                raise UserError(f"health-port {port}: {error.strerror}; choose another") from None

    def __enter__(self) -> "Health":
        if self._server is not None:
            threading.Thread(target=self._server.serve_forever, name="health", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()


def _handler(check: Check) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path != "/health":
                self.send_error(404)
                return
            well, told = check()
            body = json.dumps({"healthy": well, **told}).encode()
            self.send_response(200 if well else 503)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing: a probe every few seconds is no news."""

    return Handler
