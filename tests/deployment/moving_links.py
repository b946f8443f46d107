"""A link between a member and its coordinator that leads to another port when the coordinator's host is another."""

import contextlib
import select
import socket
import threading
from dataclasses import dataclass

_PIECE = 1 << 16


@dataclass
class MovingLink:
    """Carries connections at ``port`` to ``target`` on this machine, as a name in the DNS would lead there."""

    target: int

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                inner, _ = self._listener.accept()
                threading.Thread(target=self._carry, args=(inner, self.target), daemon=True).start()

    def _carry(self, inner: socket.socket, target: int) -> None:
        with (
            inner,
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", target)) as outer,
        ):
            while True:
                ready, _, _ = select.select([inner, outer], [], [])
                for source in ready:
                    piece = source.recv(_PIECE)
                    if not piece:
                        return
                    (outer if source is inner else inner).sendall(piece)
