"""The rules that keep the house: who may import whom, where randomness comes from, how long a file is."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LONGEST_FILE = 400
PACKAGES = ("nescient_fl", "sites", "strategies")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))

FORBIDDEN = {
    "nescient_fl.radiographs": ("flwr", "ray", "sites", "strategies", "nescient_fl.arms"),
    "nescient_fl.lesion": ("flwr", "ray", "sites", "strategies", "nescient_fl.arms"),
    "nescient_fl.mpc": ("flwr", "ray", "sites", "strategies", "nescient_fl.arms"),
    "nescient_fl.serving": ("flwr", "ray", "sites", "strategies", "nescient_fl.arms"),
    "nescient_fl.study": ("flwr", "ray", "sites", "strategies", "nescient_fl.arms"),
    "sites": ("strategies", "nescient_fl.arms", "ray"),
    "strategies": ("sites", "nescient_fl.arms", "ray"),
    "nescient_fl.attacks": (
        *("ray", "nescient_fl.cli", "nescient_fl.audit", "nescient_fl.simulate", "nescient_fl.prepare"),
        *("nescient_fl.centralize", "nescient_fl.phantom"),
    ),
}
"""What no module of a package imports, also not inside a function or for type checking."""

GLOBAL_RANDOMNESS = {
    "numpy.random": {"default_rng", "Generator", "SeedSequence", "BitGenerator", "PCG64"},
    "torch": {"Generator"},
}
"""Of numpy.random, all but these draws from global state; of torch, the functions named below do."""
TORCH_DRAWS = {
    "rand",
    "randn",
    "randint",
    "randperm",
    "normal",
    "bernoulli",
    "multinomial",
    "manual_seed",
    "seed",
}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(tree: ast.AST) -> Iterator[str]:
    """Yield every module that is imported, and every ``module.name`` of a from-import."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_a_module_imports_only_what_its_package_may(path: Path) -> None:
    name = module_name(path)
    rules = [banned for package, banned in FORBIDDEN.items() if within(name, package)]
    found = set(imported(ast.parse(path.read_text())))
    for banned in rules:
        broken = sorted(module for module in found if any(within(module, package) for package in banned))
        assert not broken, f"{name} imports {', '.join(broken)}"


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_only_the_audit_imports_the_attacks(path: Path) -> None:
    name = module_name(path)
    if within(name, "nescient_fl.attacks") or name == "nescient_fl.audit":
        return
    found = set(imported(ast.parse(path.read_text())))
    assert not [module for module in found if within(module, "nescient_fl.attacks")]


def dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_a_module_draws_from_no_global_generator(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert "random" not in set(imported(tree)), "use nescient_fl.seeds"
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = dotted(node.func)
        head, _, last = name.rpartition(".")
        if head in ("np.random", "numpy.random"):
            assert last in GLOBAL_RANDOMNESS["numpy.random"], f"line {node.lineno}: {name}"
            assert node.args or last != "default_rng", f"line {node.lineno}: a generator without a seed"
        if head in ("torch", "torch.random") and last in TORCH_DRAWS:
            # Dropout takes no generator; its one seeding is marked where it stands.
            allowed = module_name(path) == "nescient_fl.lesion.training" and last == "manual_seed"
            given = any(keyword.arg == "generator" for keyword in node.keywords)
            assert allowed or given, f"line {node.lineno}: {name}"


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_a_file_stays_short_enough_to_be_read(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LONGEST_FILE


def test_no_package_has_a_name_that_crypten_drops_into_site_packages() -> None:
    taken = {"test", "examples", "benchmarks", "configs"}
    tops = {path.name for path in ROOT.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert not tops & taken


def test_the_rules_see_a_broken_one() -> None:
    tree = ast.parse("def f():\n    from flwr.app import Message\n    import strategies.state as s\n")
    found = set(imported(tree))
    assert {"flwr.app", "flwr.app.Message", "strategies.state"} <= found
    assert within("flwr.app", "flwr")
    assert not within("flwrish", "flwr")


def test_no_two_test_files_share_a_name() -> None:
    """Folders of tests are no packages, so pytest would take the second file for the first."""
    names = [path.name for path in (ROOT / "tests").rglob("*.py") if path.name not in ("conftest.py", "__init__.py")]
    assert sorted({name for name in names if names.count(name) > 1}) == []
