"""CrypTen over a session of ours: our transport, our randomness, one party a thread.

As it comes, CrypTen 0.4.1 draws from torch's generators (32 effective seed bits), talks over gloo without TLS and
without a time limit, and pickles. Here its secret-shared tensors run over any ``Exchange``, every random draw of
the modules in use comes from a ``SecretStream``, and what has no place here raises. Import this module before
crypten: it also mends an import that newer versions of torch broke.
"""

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from nescient_fl.mpc import crypten_alias  # noqa: F401 - before crypten
from nescient_fl.mpc.errors import SessionAborted
from nescient_fl.mpc.randomness import SecretStream, derive_key, fresh_stream

# isort: split
import crypten
import crypten.communicator
import crypten.mpc
from crypten.communicator import Communicator
from crypten.mpc.primitives import arithmetic, binary
from crypten.mpc.provider import TTPServer, tfp_provider, ttp_provider

_SUM = torch.distributed.ReduceOp.SUM
_XOR = torch.distributed.ReduceOp.BXOR


class Exchange(Protocol):
    """What a computation needs of a session between parties."""

    @property
    def rank(self) -> int: ...

    @property
    def parties(self) -> int: ...

    def exchange(self, payload: bytes) -> list[bytes]:
        """Give everybody ``payload`` and return everybody's by rank, the own one included."""


class SessionCommunicator(Communicator):  # type: ignore[misc]
    """CrypTen's collectives over an ``Exchange``: int64 words, lengths checked, no pickle.

    ``comm_rounds`` and ``comm_bytes`` count exchanges and the bytes that this party gave to each.
    """

    BYTES_PER_ELEMENT = 8

    def __init__(self, session: Exchange) -> None:
        self._session = session
        self.reset_communication_stats()

    def get_rank(self) -> int:
        return self._session.rank

    def get_world_size(self) -> int:
        return self._session.parties

    def all_reduce(self, input: Any, op: Any = _SUM, batched: bool = False) -> Any:
        """Sum (mod 2^64) or xor a tensor, or a list of them in one exchange; everybody gets the result."""
        tensors = list(input) if batched else [input]
        gathered = self._gather_words(tensors)
        if op == _SUM:
            whole = np.add.reduce(gathered, axis=0)
        elif op == _XOR:
            whole = np.bitwise_xor.reduce(gathered, axis=0)
        else:
            raise NotImplementedError(f"all_reduce by {op}")
        results, start = [], 0
        for tensor in tensors:
            piece = whole[start : start + tensor.numel()]
            results.append(torch.from_numpy(piece.copy()).view(tensor.shape))
            start += tensor.numel()
        return results if batched else results[0]

    def reduce(self, input: Any, dst: int, op: Any = _SUM, batched: bool = False) -> Any:
        """Like ``all_reduce``, but only ``dst`` is told the result."""
        # An all-gather would show the others' shares to everybody; only dst may see them.
        raise NotImplementedError("reduce to one party: open to all, or seal what is meant for one")

    def all_gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """Return everybody's tensor by rank; all have one shape."""
        return [torch.from_numpy(words.copy()).view(tensor.shape) for words in self._gather_words([tensor])]

    def broadcast(self, input: torch.Tensor, src: int, batched: bool = False) -> torch.Tensor:
        """Give everybody the tensor of rank ``src``, in place."""
        if batched:
            raise NotImplementedError("broadcast of several tensors at a time")
        mine = input if self.get_rank() == src else torch.zeros_like(input)
        input.copy_(self.all_gather(mine)[src])
        return input

    def broadcast_obj(self, obj: Any, src: int) -> Any:
        """Give everybody a tensor's size: the only kind of object that travels."""
        mine = [int(value) for value in obj] if self.get_rank() == src else None
        answers = self._session.exchange(json.dumps(mine).encode())
        size = json.loads(answers[src])
        if not isinstance(size, list) or not all(type(value) is int for value in size):
            raise SessionAborted("a party sent something else than a tensor's size")
        return torch.Size(size)

    def barrier(self) -> None:
        self._session.exchange(b"")

    def _gather_words(self, tensors: Sequence[torch.Tensor]) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Return everybody's words, int64 [parties, words]."""
        for tensor in tensors:
            if tensor.dtype != torch.int64:
                raise TypeError(f"only int64 tensors travel, got {tensor.dtype}")
        words = [tensor.detach().contiguous().view(-1).numpy() for tensor in tensors]
        payload = np.concatenate(words).astype("<i8", copy=False).tobytes()
        answers = self._session.exchange(payload)
        for rank, answer in enumerate(answers):
            if len(answer) != len(payload):
                raise SessionAborted(f"the party of rank {rank} sent {len(answer)} bytes, not {len(payload)}")
        self.comm_rounds += 1
        self.comm_bytes += len(payload)
        return np.stack([np.frombuffer(answer, "<i8") for answer in answers]).astype(np.int64, copy=False)


class _Party:
    """One thread's part in a session: its communicator, its provider, its streams."""

    def __init__(self, session: Exchange, provider: Any) -> None:
        self.session = session
        self.communicator = SessionCommunicator(session)
        self.provider = provider
        self._streams = {"local": fresh_stream()}

    def stream(self, kind: str) -> SecretStream:
        if kind not in self._streams:
            if kind not in ("prev", "next"):
                raise NotImplementedError(f"CrypTen's {kind!r} generator")
            self._agree()
        return self._streams[kind]

    def _agree(self) -> None:
        """Agree on a stream with each neighbour on the ring, by X25519, so that no third party knows it."""
        mine = X25519PrivateKey.generate()
        publics = self.session.exchange(mine.public_key().public_bytes_raw())
        rank, parties = self.session.rank, self.session.parties
        for kind, giver, other in (
            ("prev", (rank - 1) % parties, (rank - 1) % parties),
            ("next", rank, (rank + 1) % parties),
        ):
            shared = mine.exchange(X25519PublicKey.from_public_bytes(publics[other]))
            label = b"nescient/zero-shares/1/" + str(giver).encode()
            self._streams[kind] = SecretStream(derive_key(shared, label))


_current = threading.local()


def _party() -> _Party:
    party: _Party | None = getattr(_current, "party", None)
    if party is None:
        raise RuntimeError("CrypTen is used outside of crypten_party")
    return party


@contextmanager
def crypten_party(session: Exchange, provider: Any = None) -> Iterator[SessionCommunicator]:
    """Be one party of a session: inside, in this thread, CrypTen's tensors work over it.

    ``provider`` hands out correlated randomness; without one, what needs it raises.
    """
    before = getattr(_current, "party", None)
    _current.party = _Party(session, provider)
    try:
        yield _current.party.communicator
    finally:
        _current.party = before


def _provider() -> Any:
    provider = _party().provider
    if provider is None:
        raise RuntimeError("this computation has no provider of correlated randomness")
    return provider


def _ring_element(size: Any, ring_size: int = 2**64, generator: Any = None, **kwargs: Any) -> torch.Tensor:
    if ring_size != 2**64 or kwargs.get("device") not in (None, torch.device("cpu"), "cpu"):
        raise NotImplementedError("ring elements are 64 bits, in main memory")
    stream = _party().stream("local") if generator is None else generator
    if not isinstance(stream, SecretStream):
        raise NotImplementedError("randomness from a generator of torch")
    shape = (size,) if isinstance(size, int) else tuple(size)
    return stream.fill(torch.empty(shape, dtype=torch.int64))


def _kbit_tensor(size: Any, bitlength: int | None = None, generator: Any = None, **kwargs: Any) -> torch.Tensor:
    words = _ring_element(size, generator=generator, **kwargs)
    if bitlength is None or bitlength == 64:
        return words
    masked: torch.Tensor = words & (2**bitlength - 1)
    return masked


class _Streams:
    """Stands in for ``crypten.generators``: first the kind, then the device, then this thread's stream."""

    def __getitem__(self, kind: str) -> "_OfKind":
        return _OfKind(kind)


class _OfKind:
    def __init__(self, kind: str) -> None:
        self._kind = kind

    def __getitem__(self, device: Any) -> SecretStream:
        return _party().stream(self._kind)


def _refuse(*_: Any, **__: Any) -> Any:
    raise NotImplementedError("this part of CrypTen draws from torch's generators, or opens connections, by itself")


def _install() -> None:
    crypten.communicator.get = lambda: _party().communicator
    crypten.communicator.is_initialized = lambda: getattr(_current, "party", None) is not None
    crypten.mpc.get_default_provider = _provider
    crypten.generators = _Streams()
    for module in (crypten.common.rng, arithmetic, tfp_provider, ttp_provider):
        module.generate_random_ring_element = _ring_element
    for module in (crypten.common.rng, binary, tfp_provider, ttp_provider):
        module.generate_kbit_random_tensor = _kbit_tensor
    for name in ("init", "init_thread", "uninit", "_setup_prng", "_sync_seeds", "manual_seed"):
        if hasattr(crypten, name):
            setattr(crypten, name, _refuse)
    TTPServer.__init__ = _refuse
    ttp_provider.TTPClient.__init__ = _refuse


_install()
