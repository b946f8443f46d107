"""What a user is told beside the study itself."""

from pathlib import Path

import pytest

from nescient_fl.arms.session import run_study


@pytest.mark.parametrize(("aggregation", "nodes"), [("plain", 3), ("secure", 6)])
def test_a_prepared_run_says_how_many_nodes_it_needs(
    tmp_path: Path, toy_dataset: Path, capsys: pytest.CaptureFixture[str], aggregation: str, nodes: int
) -> None:
    options = {"data": [str(toy_dataset)], "clients": 3, "partition": "iid", "min_images": 20, "min_positives": 4}
    run = tmp_path / "run"
    assert run_study({**options, "aggregation": aggregation}, out=run, prepare_only=True) is None
    said = capsys.readouterr().out.replace("\n", "")
    assert f"num-supernodes={nodes}" in said
    assert f'run="{run}"' in said
    assert (run / "partition.csv").exists()
