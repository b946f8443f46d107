"""Where secrets are made, no generator but the secret stream is used, and nothing is pickled."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

MPC = Path(__file__).resolve().parents[2] / "nescient_fl" / "mpc"
FILES = sorted(MPC.rglob("*.py"))

FORBIDDEN_MODULES = {"random", "secrets", "pickle", "marshal", "shelve"}
FORBIDDEN_CALLS = {
    *(f"torch.{name}" for name in ("rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial")),
    *("torch.Generator", "torch.manual_seed", "torch.load", "torch.save", "torch.rand_like", "torch.randn_like"),
}


def dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def offences(source: str, may_ask_the_system: bool = False) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Attribute):
            name = dotted(node).replace("np.random", "numpy.random")
            if name in FORBIDDEN_CALLS or name.startswith("numpy.random") or name.endswith(".random_"):
                yield name
            if name == "os.urandom" and not may_ask_the_system:
                yield name
        for name in names:
            if name.partition(".")[0] in FORBIDDEN_MODULES or name.startswith("numpy.random") or name == "os.urandom":
                yield name
            if name in FORBIDDEN_CALLS:
                yield name


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_secrets_come_from_the_secret_stream_alone(path: Path) -> None:
    assert list(offences(path.read_text(), may_ask_the_system=path.stem == "randomness")) == []


@pytest.mark.parametrize(
    "line",
    [
        "import random",
        "from secrets import token_bytes",
        "import pickle",
        "import torch\ntorch.randint(0, 2, (3,))",
        "from torch import randn",
        "import numpy as np\nnp.random.default_rng()",
        "from numpy.random import default_rng",
        "import os\nos.urandom(3)",
        "from os import urandom",
        "import torch\ntorch.load('x')",
        "x.random_(0, 5)",
    ],
)
def test_the_rule_catches_what_it_is_for(line: str) -> None:
    assert list(offences(line))
