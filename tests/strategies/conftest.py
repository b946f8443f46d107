"""Fixtures of the coordinator's tests."""

from collections.abc import Iterator

import pytest
from fake_grid import coordinator_identity


@pytest.fixture(autouse=True)
def coordinator() -> Iterator[None]:
    with coordinator_identity():
        yield
