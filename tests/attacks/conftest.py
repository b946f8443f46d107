"""What all attacks are made on: synthetic radiographs of 51 patients, and a federation of five sites."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nescient_fl.attacks.federation import Federation
from nescient_fl.attacks.victims import Scene, draw_scene
from nescient_fl.lesion.recipe import choose_recipe


@pytest.fixture(scope="session")
def scene() -> Scene:
    return draw_scene(choose_recipe("default"))


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Federation]]:
    """Make federations whose keys and sockets are gone after the test."""
    made: list[Federation] = []

    def new(**options: Any) -> Federation:
        made.append(Federation(tmp_path / f"federation-{len(made)}", **options))
        return made[-1]

    yield new
    for federation in made:
        federation.close()


@pytest.fixture
def federation(make: Callable[..., Federation]) -> Federation:
    return make()
