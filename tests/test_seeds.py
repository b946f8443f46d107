"""Seeds: one stream a purpose, the same everywhere."""

from hypothesis import given
from hypothesis import strategies as st

from nescient_fl.seeds import derive_seed, numpy_generator

names = st.text(st.characters(exclude_characters="\x1f", codec="utf-8"))
keys = st.lists(names | st.integers(), max_size=3)


@given(st.integers(), names, keys)
def test_a_seed_has_63_bits_and_repeats(seed: int, purpose: str, key: list[str | int]) -> None:
    assert derive_seed(seed, purpose, *key) == derive_seed(seed, purpose, *key)
    assert 0 <= derive_seed(seed, purpose, *key) < 2**63


@given(st.tuples(st.integers(), names, keys), st.tuples(st.integers(), names, keys))
def test_two_names_never_share_a_seed(
    one: tuple[int, str, list[str | int]], other: tuple[int, str, list[str | int]]
) -> None:
    same = derive_seed(one[0], one[1], *one[2]) == derive_seed(other[0], other[1], *other[2])
    assert same == (one == other)


def test_a_number_and_its_text_are_different_keys() -> None:
    assert derive_seed(0, "order", 1) != derive_seed(0, "order", "1")


def test_the_seed_of_a_known_purpose_stays_what_it_is() -> None:
    # Every run folder's hashes hang on this number.
    assert derive_seed(7, "shuffle", "site-1", 3) == 4586445238417167241


def test_generators_repeat() -> None:
    first, second = (numpy_generator(7, "shuffle", "site-1", 3).random(4).tolist() for _ in range(2))
    assert first == second
    assert numpy_generator(7, "shuffle", "site-1", 4).random(4).tolist() != first
