"""CrypTen over our exchange: its sums are right, its randomness is ours, and what is not ours raises."""

import json
import threading
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nescient_fl.mpc import crypten_bridge
from nescient_fl.mpc.crypten_bridge import SessionCommunicator, crypten_party
from nescient_fl.mpc.errors import SessionAborted
from tests.mpc.in_memory import InMemoryExchange, run_parties

import crypten  # isort: skip
from crypten.mpc.primitives import ArithmeticSharedTensor, BinarySharedTensor  # isort: skip
from crypten.mpc.provider import TTPServer  # isort: skip

ADD, XOR = torch.distributed.ReduceOp.SUM, torch.distributed.ReduceOp.BXOR
WORDS = st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=12)


def at_every_party(parties: int, work: Any) -> list[Any]:
    def party(end: InMemoryExchange) -> Any:
        with crypten_party(end) as communicator:
            return work(communicator)

    return run_parties(parties, party)


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 4), WORDS)
def test_collectives_sum_and_xor_modulo_two_to_the_64(parties: int, words: list[int]) -> None:
    mine = [torch.tensor(words) * (rank + 1) for rank in range(parties)]

    def work(communicator: SessionCommunicator) -> Any:
        own = mine[communicator.get_rank()]
        both = communicator.all_reduce([own, own[:1]], batched=True)
        return (
            communicator.all_reduce(own),
            communicator.all_reduce(own, XOR),
            communicator.all_gather(own),
            both,
            communicator.broadcast(own.clone(), 1),
            communicator.broadcast_obj((3, 4), 0),
        )

    total = torch.stack(mine).sum(0)
    xored = torch.from_numpy(np.bitwise_xor.reduce([part.numpy() for part in mine]))
    for added, mixed, gathered, both, sent, size in at_every_party(parties, work):
        assert added.equal(total)
        assert mixed.equal(xored)
        assert all(one.equal(other) for one, other in zip(gathered, mine, strict=True))
        assert both[0].equal(total)
        assert both[1].equal(total[:1])
        assert sent.equal(mine[1])
        assert size == torch.Size([3, 4])


def test_rounds_and_bytes_are_counted() -> None:
    def work(communicator: SessionCommunicator) -> tuple[int, int]:
        communicator.all_reduce(torch.zeros(5, dtype=torch.int64))
        communicator.all_gather(torch.zeros(2, 2, dtype=torch.int64))
        return communicator.comm_rounds, communicator.comm_bytes

    assert at_every_party(2, work) == [(2, 72), (2, 72)]


def test_a_message_of_another_length_ends_the_session() -> None:
    def work(communicator: SessionCommunicator) -> None:
        communicator.all_reduce(torch.zeros(3 + communicator.get_rank(), dtype=torch.int64))

    with pytest.raises(SessionAborted, match=r"rank \d sent \d+ bytes, not \d+"):
        at_every_party(2, work)


def test_a_size_that_is_none_ends_the_session() -> None:
    def party(end: InMemoryExchange) -> None:
        if end.rank == 1:
            end.exchange(json.dumps({"__reduce__": "os.system"}).encode())
            return
        with crypten_party(end) as communicator:
            communicator.broadcast_obj(None, 1)

    with pytest.raises(SessionAborted, match="something else than a tensor's size"):
        run_parties(2, party)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int32, torch.bool])
def test_only_ring_elements_travel(dtype: torch.dtype) -> None:
    with pytest.raises(TypeError, match="only int64"):
        at_every_party(2, lambda communicator: communicator.all_reduce(torch.zeros(3, dtype=dtype)))


def test_a_reduce_to_one_would_show_shares_to_all_and_is_refused() -> None:
    with pytest.raises(NotImplementedError):
        at_every_party(2, lambda communicator: communicator.reduce(torch.zeros(3, dtype=torch.int64), 0))


@pytest.mark.parametrize("parties", [2, 3])
def test_a_tensor_is_shared_and_opened(parties: int) -> None:
    secret = torch.tensor([5, -7, 2**40])

    def work(_: SessionCommunicator) -> Any:
        arithmetic = ArithmeticSharedTensor(secret, src=0, precision=0)
        binary = BinarySharedTensor(secret, src=0)
        return arithmetic.share.clone(), arithmetic.reveal(), binary.share.clone(), binary.reveal()

    found = at_every_party(parties, work)
    for _, added, _, mixed in found:
        assert added.equal(secret)
        assert mixed.equal(secret)
    # The source's own share is masked too.
    assert not found[0][0].equal(secret)
    assert not found[0][2].equal(secret)


def test_sharing_draws_nothing_from_torchs_generator() -> None:
    shares = []
    with torch.random.fork_rng():
        for _ in range(2):
            torch.manual_seed(1)
            fresh = torch.get_rng_state()
            found = at_every_party(
                2, lambda _: ArithmeticSharedTensor(torch.zeros(50).long(), src=0, precision=0).share
            )
            at_every_party(2, lambda _: BinarySharedTensor(torch.zeros(50).long(), src=0).share)
            assert torch.get_rng_state().equal(fresh)
            shares.append(torch.cat(found))
    assert (shares[0] == shares[1]).sum() == 0


def test_a_neighbours_stream_is_shared_with_it_alone() -> None:
    def work(_: SessionCommunicator) -> tuple[bytes, bytes]:
        party = crypten_bridge._party()
        return party.stream("prev").take_bytes(16), party.stream("next").take_bytes(16)

    found = at_every_party(3, work)
    for rank, (_, following) in enumerate(found):
        assert following == found[(rank + 1) % 3][0]
    assert len({drawn for pair in found for drawn in pair}) == 3


@pytest.mark.parametrize(
    "work",
    [
        lambda: crypten.init(),
        lambda: crypten.init_thread(0, 2),
        lambda: crypten.manual_seed(1, 2, 3),
        lambda: TTPServer(None),
        lambda: crypten_bridge._ring_element((3,), ring_size=2**32),
        lambda: crypten_bridge._ring_element((3,), device="cuda"),
    ],
    ids=["init", "init_thread", "manual_seed", "TTPServer", "small ring", "cuda"],
)
def test_what_opens_connections_or_draws_by_itself_is_refused(work: Any) -> None:
    with pytest.raises(NotImplementedError):
        work()


def test_a_generator_of_torch_is_refused() -> None:
    with pytest.raises(NotImplementedError, match="a generator of torch"):
        at_every_party(2, lambda _: crypten_bridge._ring_element((3,), generator=torch.Generator()))


def test_outside_of_a_session_nothing_works_and_threads_are_apart() -> None:
    assert not crypten.communicator.is_initialized()
    with pytest.raises(RuntimeError, match="outside of crypten_party"):
        ArithmeticSharedTensor(torch.zeros(2).long(), src=0, precision=0)
    inside, outside = threading.Event(), threading.Event()
    seen: list[bool] = []

    def other() -> None:
        inside.wait(20)
        seen.append(crypten.communicator.is_initialized())
        outside.set()

    thread = threading.Thread(target=other)
    thread.start()

    def party(end: InMemoryExchange) -> None:
        with crypten_party(end):
            inside.set()
            outside.wait(20)

    run_parties(2, party)
    thread.join()
    assert seen == [False]


def test_what_needs_correlated_randomness_has_none_without_a_dealer() -> None:
    def work(_: SessionCommunicator) -> Any:
        one = BinarySharedTensor(torch.ones(2).long(), src=0)
        return one & one

    with pytest.raises(RuntimeError, match="no provider"):
        at_every_party(2, work)


def test_a_party_is_left_as_it_was_found_after_an_error() -> None:
    def party(end: InMemoryExchange) -> None:
        with crypten_party(end):
            raise KeyError("x")

    with pytest.raises(KeyError):
        run_parties(2, party)
    assert not crypten.communicator.is_initialized()
