"""The coordinator's link: Flower's SuperLink, whose controls are for the coordinator's own host alone.

Flower serves everything at one port: what nodes ask (``/v1/fleet``), and what starts runs, admits nodes and hands
tasks to executors (``/v1/control``, ``/v1/runtime``), the latter without any question who asks. Whoever reaches
the port could start a run of their own code on the coordinator's host. So the SuperLink is started by this
program, through Flower's hook for extensions, with one more rule: from other hosts only nodes' requests and
``/health`` are heard.

Run as a program with the arguments of ``flower-superlink``.
"""

import sys
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

OPEN = ("/v1/fleet/", "/health")
"""What other hosts may ask for."""
LOOPBACK = ("127.0.0.1", "::1")

_Message = MutableMapping[str, Any]
_App = Callable[[_Message, Callable[[], Awaitable[_Message]], Callable[[_Message], Awaitable[None]]], Awaitable[None]]


class OwnHostOnly:
    """ASGI middleware: 403 for anything but ``OPEN`` from a host that is not one of ``own``."""

    def __init__(self, app: _App, own: Iterable[str]) -> None:
        self._app = app
        self._own = frozenset(own)

    async def __call__(
        self,
        scope: _Message,
        receive: Callable[[], Awaitable[_Message]],
        send: Callable[[_Message], Awaitable[None]],
    ) -> None:
        if scope["type"] == "lifespan" or self._allowed(scope):
            await self._app(scope, receive, send)
            return
        print(f"refused: {scope.get('path')} from {(scope.get('client') or ['nobody'])[0]}", flush=True)
        if scope["type"] == "http":
            headers = [(b"content-type", b"text/plain")]
            await send({"type": "http.response.start", "status": 403, "headers": headers})
            await send({"type": "http.response.body", "body": b"this is for the coordinator's own host\n"})

    def _allowed(self, scope: _Message) -> bool:
        client = scope.get("client")
        if client is not None and client[0] in self._own:
            return True
        path = str(scope.get("path", ""))
        return scope["type"] == "http" and any(path == begin.rstrip("/") or path.startswith(begin) for begin in OPEN)


def main() -> None:
    """Be a SuperLink until it ends."""
    from flwr.superlink import extensions
    from flwr.superlink.cli.flower_superlink import flower_superlink
    from starlette.middleware import Middleware

    own = {*LOOPBACK, sys.argv[sys.argv.index("--host") + 1]}
    before = extensions.get_middleware

    def with_rule() -> tuple[Middleware, ...]:
        return (Middleware(OwnHostOnly, own=own), *before())

    extensions.get_middleware = with_rule
    flower_superlink()


if __name__ == "__main__":
    main()
