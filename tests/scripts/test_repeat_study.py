"""What several seeds come to, by hand."""

from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


def metrics(**aurocs: float | None) -> dict[str, Any]:
    arms = {
        arm: {"test": {"auroc": {"value": value}}, "operating_point": {"recall": {"value": 0.5}}}
        for arm, value in aurocs.items()
    }
    return {"arms": arms}


def test_differences_are_federated_minus_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    from repeat_study import differences, table

    runs = {0: metrics(federated=0.8, pooled=0.9, local=0.6), 1: metrics(federated=0.9, pooled=0.8, local=None)}
    pooled, local = differences(runs)
    assert "pooled, AUROC: mean +0.000, from -0.100 to +0.100 over 2 seeds" in pooled
    assert "local, AUROC: mean +0.200, from +0.200 to +0.200" in local
    assert table(runs).row_count == 3


def test_a_seed_that_fails_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    from repeat_study import run_seed

    with pytest.raises(RuntimeError, match=r"seed 3: error: --clients must be 1 or more"):
        run_seed(tmp_path, 3, ["--clients", "0"])
