"""Secret streams: the cipher's own, each byte once, every bit of the seed counts."""

import pickle
import time

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from nescient_fl.mpc.randomness import SecretStream, derive_key, fresh_seed, fresh_stream

SEED = bytes(range(32))


def test_the_stream_is_that_of_the_standard() -> None:
    # NIST SP 800-38A's AES-256 key; its block for a zero counter, from FIPS 197's cipher: E(k, 0).
    key = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
    assert SecretStream(key).take_bytes(16).hex() == "e568f68194cf76d6174d4cc04310a854"


def test_every_bit_of_the_seed_counts() -> None:
    streams = {SecretStream(SEED).take_bytes(32)}
    for bit in range(256):
        flipped = bytearray(SEED)
        flipped[bit // 8] ^= 1 << bit % 8
        streams.add(SecretStream(bytes(flipped)).take_bytes(32))
    assert len(streams) == 257


@settings(deadline=None)  # megabytes, on a machine that may be busy
@given(st.lists(st.integers(0, 5000) | st.sampled_from([1 << 17, (1 << 17) + 1]), max_size=5))
def test_pieces_follow_each_other_without_gap_or_overlap(sizes: list[int]) -> None:
    stream = SecretStream(SEED)
    pieces = b""
    for index, size in enumerate(sizes):
        if index % 2:
            pieces += stream.take_bytes(8 * size)
        else:
            pieces += stream.take_int64(size).astype("<i8").tobytes()
    assert pieces == SecretStream(SEED).take_bytes(8 * sum(sizes))


def test_a_tensor_is_filled_in_place_with_the_same_words() -> None:
    tensor = torch.zeros(3, 5, dtype=torch.int64)
    assert SecretStream(SEED).fill(tensor) is tensor
    np.testing.assert_array_equal(tensor.numpy(), SecretStream(SEED).take_int64(3, 5))
    for bad in (torch.zeros(3), torch.zeros(4, 4, dtype=torch.int64).t()):
        with pytest.raises(ValueError, match="contiguous int64"):
            SecretStream(SEED).fill(bad)


def test_two_labels_and_two_seeds_give_two_keys() -> None:
    keys = {derive_key(SEED, b"a"), derive_key(SEED, b"b"), derive_key(SEED[::-1], b"a"), SEED}
    assert len(keys) == 4
    assert derive_key(SEED, b"a") == derive_key(SEED, b"a")


@pytest.mark.parametrize("bound", [1, 2, 3, 7, 1000, 2**62, 3 * 2**60])
def test_integers_below_a_bound_are_in_range_and_even(bound: int) -> None:
    drawn = SecretStream(SEED).below(bound, 20_000)
    assert drawn.min() >= 0
    assert drawn.max() < bound
    assert drawn.mean() == pytest.approx((bound - 1) / 2, rel=0.03, abs=1e-9)


def test_bounds_that_cannot_be() -> None:
    for bound in (0, 2**62 + 1):
        with pytest.raises(ValueError, match="bound"):
            SecretStream(SEED).below(bound, 1)


def test_bits_are_bits() -> None:
    bits = SecretStream(SEED).take_bits(10_001)
    assert bits.shape == (10_001,)
    assert set(bits.tolist()) == {0, 1}
    assert bits.mean() == pytest.approx(0.5, abs=0.02)


def test_seeds_are_fresh_and_streams_show_nothing() -> None:
    assert fresh_seed() != fresh_seed()
    assert fresh_stream().take_bytes(16) != fresh_stream().take_bytes(16)
    assert SEED.hex() not in repr(SecretStream(SEED))
    with pytest.raises(TypeError):
        pickle.dumps(SecretStream(SEED))
    with pytest.raises(ValueError, match="32 bytes"):
        SecretStream(b"short")


def test_a_tensor_is_filled_at_about_the_ciphers_own_speed() -> None:
    # Loosely: one core's AES does a gigabyte a second or more; a generator in Python would do a thousandth of it.
    tensor = torch.empty(4_000_000, dtype=torch.int64)
    stream, fill, cipher = SecretStream(SEED), [], []
    zeros = bytes(8 * tensor.numel())
    for _ in range(5):
        started = time.perf_counter()
        stream.fill(tensor)
        fill.append(time.perf_counter() - started)
        encryptor = Cipher(algorithms.AES(SEED), modes.CTR(bytes(16))).encryptor()
        started = time.perf_counter()
        encryptor.update(zeros)
        cipher.append(time.perf_counter() - started)
    assert min(fill) < 4 * min(cipher)
    assert len(tensor.unique()) == tensor.numel()
