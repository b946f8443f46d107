"""What all attacks are made on: synthetic radiographs of 51 patients, and a federation of five sites."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from nescient_fl.attacks.federation import Federation
from nescient_fl.attacks.victims import Scene, draw_scene
from nescient_fl.lesion.recipe import choose_recipe


@pytest.fixture(scope="session")
def scene() -> Scene:
    return draw_scene(choose_recipe("default"))


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    found = Federation(tmp_path)
    yield found
    found.close()
