"""Which sites a round asks."""

import pytest

from strategies.participation import drawn_sites

NAMES = [f"site-{number}" for number in range(10)]


def test_the_seed_and_the_round_decide_and_nothing_else() -> None:
    drawn = [drawn_sites(NAMES, 4, 7, number) for number in range(20)]
    assert drawn == [drawn_sites(reversed(NAMES), 4, 7, number) for number in range(20)]
    assert drawn != [drawn_sites(NAMES, 4, 8, number) for number in range(20)]
    assert len({tuple(names) for names in drawn}) > 10


def test_as_many_different_sites_as_asked_for_come_in_name_order() -> None:
    for number in range(50):
        names = drawn_sites(NAMES, 4, 0, number)
        assert len(set(names)) == 4
        assert names == sorted(names)
        assert set(names) <= set(NAMES)


def test_every_site_has_its_turn_about_equally_often() -> None:
    turns = [name for number in range(1000) for name in drawn_sites(NAMES, 4, 3, number)]
    # 400 each on average; five standard deviations are 77.
    assert all(abs(turns.count(name) - 400) < 77 for name in NAMES)


def test_all_are_all() -> None:
    assert drawn_sites(NAMES, 10, 0, 1) == NAMES


def test_more_than_there_are_cannot_be_drawn() -> None:
    with pytest.raises(ValueError, match="larger sample"):
        drawn_sites(NAMES, 11, 0, 1)
