"""What all tests share: a cache of their own, and a small study's radiographs."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from nescient_fl.cli import run_command


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--renew-golden",
        action="store_true",
        help="write tests/golden/ anew from this machine's results; look at the difference before committing",
    )


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep phantoms and pixel caches of tests away from the user's, and from those of earlier code."""
    folder = tmp_path_factory.mktemp("cache")
    before = os.environ.get("NESCIENT_CACHE")
    os.environ["NESCIENT_CACHE"] = str(folder)
    yield folder
    if before is None:
        del os.environ["NESCIENT_CACHE"]
    else:
        os.environ["NESCIENT_CACHE"] = before


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Sites and baselines train with one thread; what tests compare with them must too."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def toy_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CheXpert-shaped folder of 90 images with an easy lesion, one image a patient."""
    from toy_dataset import write_toy_dataset

    return write_toy_dataset(tmp_path_factory.mktemp("toy") / "dataset")


@pytest.fixture
def run_as_module(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run a command in this process, as its module does. Returns status, standard output and standard error."""

    def run(function: Callable[..., Any], *arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["nescient", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            run_command(function)
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return run
