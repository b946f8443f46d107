"""A whole study through the Ray engine, on drawn radiographs: its files, its figures, its sameness."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from studies import METRICS, SMOKE, StudyProcess, check_shape, last_model_sha256, model_sha256, run_study

from nescient_fl.radiographs.cache import open_cache
from nescient_fl.study.checkpoint import load_checkpoint
from nescient_fl.study.run_folder import read_json, read_lines

GOLDEN = Path(__file__).parent / "golden" / "smoke_metrics.json"
SITES = ["site-1", "site-2", "site-3"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("simulate")


@pytest.fixture(scope="module")
def smoke(place: Path) -> StudyProcess:
    return run_study(*SMOKE, "--encrypted-images", "8", "--out", "smoke", folder=place)


@pytest.fixture(scope="module")
def run(place: Path, smoke: StudyProcess) -> Path:  # noqa: ARG001 - the run must have happened
    return place / "smoke"


@pytest.fixture(scope="module")
def metrics(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = read_json(run / "metrics.json")
    return found


def test_every_file_of_a_run_is_there(run: Path) -> None:
    expected = {
        *("config.json", "cohort.csv", "partition.csv", "rounds.jsonl", "metrics.json", "model.safetensors"),
        *("checkpoint", "report.html", "figures", "transcript.jsonl"),
    }
    assert expected <= {path.name for path in run.iterdir()}
    assert list((run / "figures").iterdir())
    assert not [path.name for path in run.rglob("*.tmp")]


def test_the_terminal_shows_progress_and_the_table_and_no_warning(smoke: StudyProcess) -> None:
    shown = smoke.output
    for words in (
        *("Run folder: smoke", "3 sites joined: site-1, site-2, site-3", "Federated training: round 2/2"),
        *("Pooled: round 2/2", "recall", "precision", "AUROC", "federated", "pooled", "local"),
        *("operating point", "SYNTHETIC", "Report: smoke/report.html"),
    ):
        assert words in shown, words
    for unwanted in ("Traceback", "Warning", "WARNING", "DEPRECATED"):
        assert unwanted not in shown, shown


def test_the_metrics_have_the_shape_that_the_design_gives_them(metrics: dict[str, Any]) -> None:
    check_shape(metrics, METRICS)


def test_the_secure_sum_is_plain_averaging_within_its_encoding(metrics: dict[str, Any]) -> None:
    secure = metrics["secure"]
    assert 0 <= secure["max_abs_error"] < 1e-6
    assert secure["bytes_per_site_round"] < 830_000
    assert (secure["excluded"], secure["shared_metrics"], secure["epsilon"]) == (0, [], None)


def test_encryption_changes_no_decision_of_the_study(run: Path, metrics: dict[str, Any]) -> None:
    encrypted = metrics["encrypted"]
    assert encrypted["images"] == 8
    assert (encrypted["agreement"], encrypted["flipped"]) == (1.0, 0)
    assert 0 < encrypted["max_abs_logit_error"] <= 1e-3
    point = "operating_point"
    assert encrypted["encrypted"][point]["recall"] == encrypted["plain"][point]["recall"]
    assert encrypted["plain"][point]["threshold"] == metrics["arms"]["federated"][point]["threshold"]
    assert encrypted["rounds"] <= 70
    assert encrypted["bytes_per_party"] <= 3_000_000
    assert metrics["timing"]["encrypted"] > 0
    page = (run / "report.html").read_text()
    assert "never saw" in page
    assert (run / "figures" / "encrypted_time.svg").exists()


def test_the_metrics_agree_with_the_tables(run: Path, metrics: dict[str, Any]) -> None:
    partition = pd.read_csv(run / "partition.csv", dtype={"patient": str})
    cohort = pd.read_csv(run / "cohort.csv", dtype={"patient": str})
    test = partition[partition["split"] == "test"]
    assert metrics["data"]["images"] == len(partition) == len(cohort)
    assert metrics["data"]["patients"] == partition["patient"].nunique()
    assert metrics["data"]["positives"] == partition["target"].sum() == cohort["target"].sum()
    assert metrics["data"]["test_images"] == len(test)
    assert metrics["data"]["test_positives"] == test["target"].sum()
    assert partition.groupby("patient")[["site", "split"]].nunique().max().max() == 1
    assert list(partition["row"]) == list(range(len(partition)))
    for site in metrics["federation"]["sites"]:
        assert site["images"] == (partition["site"] == site["name"]).sum()
        assert (site["rounds_answered"], site["failures"]) == (2, [])


def test_the_arms_have_the_same_budget_and_the_same_held_out_patients(run: Path, metrics: dict[str, Any]) -> None:
    held_out = (metrics["data"]["test_images"], metrics["data"]["test_positives"])
    arms = metrics["arms"]
    assert len({arm["image_passes"] for arm in arms.values()}) == 1
    for arm in arms.values():
        half = arm["confusion"]["half"]
        assert sum(half.values()) == pytest.approx(held_out[0])
        assert half["tp"] + half["fn"] == pytest.approx(held_out[1])
        assert [line["round"] for line in arm["history"]] == [0, 1, 2]
        assert [site["site"] for site in arm["sites"]] == SITES
        assert sum(site["images"] for site in arm["sites"]) == held_out[0]
    # One model before the first round: the arms begin alike where they are scored on the same patients.
    first = [arms[name]["history"][0] for name in ("federated", "pooled")]
    assert first[0]["auroc"] == pytest.approx(first[1]["auroc"], abs=1e-6)
    # A site's sum of losses is sealed in steps of 1/1024; rounding moves it by half a step at most.
    images = read_lines(run / "rounds.jsonl")[0]["validation"]["images"]
    steps = len(SITES) * 0.5 / 1024 / images
    assert first[0]["loss"] == pytest.approx(first[1]["loss"], abs=steps + 1e-6)


def test_the_model_file_is_the_model_of_the_metrics(run: Path, metrics: dict[str, Any]) -> None:
    model_sha256(run)
    _, about = load_checkpoint(run / "model.safetensors")
    assert about["sha256"] == metrics["federation"]["model_sha256"]
    assert about["threshold"] == metrics["arms"]["federated"]["operating_point"]["threshold"]


def test_the_settings_are_written_with_versions_and_seed(run: Path) -> None:
    config = read_json(run / "config.json")
    assert (config["seed"], config["clients"], config["rounds"]) == (0, 3, 2)
    assert config["sites"] == SITES
    assert {"python", "torch", "flwr", "ray"} <= set(config["versions"])


def test_the_transcript_has_every_message_that_left_a_site(run: Path) -> None:
    transcript = read_lines(run / "transcript.jsonl")
    kinds = [(line["round"], line["kind"], line["site"]) for line in transcript]
    assert sorted(kinds) == sorted(
        [(0, "name", node) for node in SITES]
        + [(number, "sealed update", site) for number in (1, 2) for site in SITES]
        + [(3, "sealed scores", site) for site in SITES]
    )
    sent = {(line["round"], line["site"]): line["bytes"] for line in transcript}
    for line in read_lines(run / "rounds.jsonl"):
        for site in line.get("by_site", []):
            assert sent[line["round"], site["site"]] == site["bytes_up"]
    for line in transcript:
        assert line["to"] == "coordinator"
        assert re.fullmatch("[0-9a-f]{64}", line["sha256"])


def test_no_pixel_is_in_the_run_folder(run: Path) -> None:
    cache = open_cache(Path(read_json(run / "config.json")["cache"]))
    rows = [cache.pixels[image, 160].tobytes() for image in range(len(cache))]
    assert all(len(set(row)) > 20 for row in rows)
    for path in run.rglob("*"):
        if path.is_file():
            assert path.suffix in {".json", ".jsonl", ".csv", ".safetensors", ".html", ".svg", ".log", ""}
            content = path.read_bytes()
            assert not any(row in content for row in rows), path
    for path in (run / "figures").iterdir():
        assert "data:image" not in path.read_text()


def golden_part(metrics: dict[str, Any]) -> dict[str, Any]:
    return {
        "data": metrics["data"],
        "sites": [
            {key: site[key] for key in ("name", "images", "patients")} for site in metrics["federation"]["sites"]
        ],
        "bytes_up_per_site_round": metrics["federation"]["bytes_up_per_site_round"],
        "arms": {
            name: {
                "image_passes": arm["image_passes"],
                "test": {figure: interval["value"] for figure, interval in arm["test"].items()},
                "loss": [line["loss"] for line in arm["history"]],
                "auroc": [line["auroc"] for line in arm["history"]],
            }
            for name, arm in metrics["arms"].items()
        },
    }


TOLERANCES = {"brier": 0.01, "auroc": 0.05, "auprc": 0.05, "loss": 0.02}
"""Of figures that hang on the last bits of a processor's sums; of the rest 0.25, since one threshold's worth
of rounding may turn several of a few dozen images."""


def test_the_figures_are_those_of_the_golden_file(metrics: dict[str, Any], request: pytest.FixtureRequest) -> None:
    found = golden_part(metrics)
    if request.config.getoption("--renew-golden"):
        GOLDEN.write_text(json.dumps(found, indent=1) + "\n")
    golden = json.loads(GOLDEN.read_text())
    hint = "if the change is meant, renew it with pytest --renew-golden"
    for part in ("data", "sites"):
        assert found[part] == golden[part], hint
    assert found["bytes_up_per_site_round"] == pytest.approx(golden["bytes_up_per_site_round"], abs=50), hint
    for name, arm in golden["arms"].items():
        assert found["arms"][name]["image_passes"] == arm["image_passes"], hint
        for figure in ("loss", "auroc"):
            np.testing.assert_allclose(
                found["arms"][name][figure], arm[figure], atol=TOLERANCES[figure], err_msg=f"{name}: {hint}"
            )
        for figure, value in arm["test"].items():
            assert found["arms"][name]["test"][figure] == pytest.approx(value, abs=TOLERANCES.get(figure, 0.25)), (
                f"{name} {figure}: {hint}"
            )


def test_the_same_seed_gives_the_same_model(place: Path, run: Path) -> None:
    run_study(*SMOKE, "--no-baselines", "--out", "again", folder=place)
    assert model_sha256(place / "again") == model_sha256(run)
    assert last_model_sha256(place / "again") == last_model_sha256(run)
    assert last_model_sha256(run) != "0" * 64
    metrics = read_json(place / "again" / "metrics.json")
    check_shape(metrics, METRICS)
    assert metrics["arms"]["pooled"] is metrics["arms"]["local"] is metrics["timing"]["pooled"] is None
    first, again = ((path / "transcript.jsonl").read_text().splitlines() for path in (run, place / "again"))
    # Every array that left a site is the same; only times differ.
    assert len(first) == len(again)


def test_interrupted_and_killed_a_run_goes_on_to_the_same_model(place: Path, run: Path) -> None:
    out = place / "interrupted"

    interrupted = StudyProcess(*SMOKE, "--no-baselines", "--out", out, folder=place)
    try:
        interrupted.until(lambda: "3 sites joined" in interrupted.output)
        interrupted.press_ctrl_c()
        assert interrupted.wait() == 130, interrupted.output
        assert interrupted.left_after(10) == []
    finally:
        interrupted.sweep()
    assert "--resume" in interrupted.output
    assert "Traceback" not in interrupted.output
    assert not (out / "metrics.json").exists()

    killed = StudyProcess("--resume", out, folder=place)
    try:
        killed.until(lambda: "Federated training: round" in killed.output)
        killed.kill()
    finally:
        killed.sweep()
    assert not (out / "metrics.json").exists()

    run_study("--resume", out, folder=place)
    assert last_model_sha256(out) == last_model_sha256(run)
    assert model_sha256(out) == model_sha256(run)
    lines = [[line["round"], line["validation"]] for line in read_lines(out / "rounds.jsonl")]
    assert lines == [[line["round"], line["validation"]] for line in read_lines(run / "rounds.jsonl")]


def test_resuming_a_finished_run_with_other_settings_is_refused(place: Path, run: Path) -> None:
    study = StudyProcess("--resume", run, "--rounds", "5", folder=place)
    assert study.wait() == 2
    assert "--rounds 5 (was 2)" in study.output
    assert "Traceback" not in study.output
