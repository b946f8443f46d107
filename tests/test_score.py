"""``nescient serve-model``, ``deal`` and ``score`` as their three users give them, and every mistake in one line."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from serving.saved_models import write_model

from nescient_fl.deal import deal
from nescient_fl.mpc.keys import new_keys, public_part
from nescient_fl.mpc.roster import Roster, sign_roster, write_signed
from nescient_fl.score import score
from nescient_fl.serve_model import serve_model
from nescient_fl.serving.model import load_model
from nescient_fl.serving.plans import to_input

Ran = tuple[int, str, str]
Run = Callable[..., Ran]
WAIT = 180.0


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, toy_dataset: Path) -> Path:
    """A folder with everybody's keys, a signed roster, a model and some radiographs."""
    folder = tmp_path_factory.mktemp("place")
    addresses = {"owner": f"unix:{folder}/o.s", "dealer": f"unix:{folder}/d.s", "clinic": None}
    members = [public_part(new_keys(folder / role, role, role), where) for role, where in addresses.items()]
    authority = new_keys(folder / "authority", "authority", "authority")
    write_signed(sign_roster(Roster("test", 1, tuple(members), 3), authority), folder / "roster.json")
    other = public_part(new_keys(folder / "other", "other", "authority")).signing_key
    trusted = public_part(authority).signing_key
    for role in addresses:
        (folder / f"{role}.toml").write_text(f'keys = "{role}"\nroster = "roster.json"\nauthority = "{trusted}"\n')
    (folder / "wrong.toml").write_text(f'keys = "clinic"\nroster = "roster.json"\nauthority = "{other}"\n')
    (folder / "swapped.toml").write_text(f'keys = "owner"\nroster = "roster.json"\nauthority = "{trusted}"\n')
    (folder / "unknown.toml").write_text('keyz = "clinic"\n')
    (folder / "typed.toml").write_text("keys = 3\n")
    (folder / "broken.toml").write_text("keys =\n")
    write_model(folder / "model.safetensors", threshold=0.45)
    write_model(folder / "gelu.safetensors", activation="gelu")
    (folder / "typical").mkdir()
    for number, path in enumerate(sorted(toy_dataset.rglob("*.jpg"))[:6]):
        (folder / "typical" / f"{number}.jpg").write_bytes(path.read_bytes())
    (folder / "empty.jpg").write_bytes(b"")
    Image.fromarray(np.full((50, 60), 7, np.uint8)).save(folder / "flat.png")
    return folder


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, place: Path, run_as_module: Run) -> Run:
    monkeypatch.chdir(place)
    return run_as_module


@pytest.mark.parametrize(
    ("function", "arguments", "words"),
    [
        (score, ["typical/0.jpg"], "--keys is missing"),
        (score, ["typical/0.jpg", "--config", "nowhere.toml"], "cannot be read"),
        (score, ["typical/0.jpg", "--config", "broken.toml"], "is no TOML"),
        (score, ["typical/0.jpg", "--config", "unknown.toml"], "keyz is unknown"),
        (score, ["typical/0.jpg", "--config", "typed.toml"], "keys is a path"),
        (score, ["typical/0.jpg", "--config", "wrong.toml"], "signed by another authority"),
        (score, ["typical/0.jpg", "--config", "swapped.toml"], "are for an owner: this takes those of a clinic"),
        (score, ["typical/0.jpg", "--config", "clinic.toml", "--owner", "nobody"], "--owner is one of owner"),
        (score, ["typical/0.jpg", "--config", "clinic.toml", "--batch", "0"], "--batch is a whole number"),
        (score, ["typical/0.jpg", "--config", "clinic.toml", "--out", "nowhere/s.json"], "there is no folder"),
        (score, ["typical/0.jpg", "--config", "clinic.toml", "--keys", "nowhere"], "nowhere"),
        (score, [], "IMAGE"),
        (serve_model, ["--config", "owner.toml"], "name a run's folder"),
        (serve_model, ["model.safetensors", "--config", "owner.toml"], "--calibration"),
        (serve_model, ["model.safetensors", "--config", "owner.toml", "--calibration", "owner"], "no image in it"),
        (serve_model, ["gelu.safetensors", "--config", "owner.toml", "--calibration", "typical"], "GELU"),
        (serve_model, ["model.safetensors", "--config", "owner.toml", "--limit", "-1"], "--limit is a whole number"),
        (serve_model, ["model.safetensors", "--config", "owner.toml", "--batch", "65"], "--batch is a whole number"),
        (serve_model, ["model.safetensors", "--config", "clinic.toml"], "this takes those of an owner"),
        (deal, ["--config", "clinic.toml"], "are for a clinic: this takes those of a dealer"),
        (deal, ["--roster", "roster.json"], "--keys is missing"),
    ],
)
def test_every_mistake_is_one_line(
    command: Run, function: Callable[..., Any], arguments: list[str], words: str
) -> None:
    status, _, error = command(function, *arguments)
    assert status == 2
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert words in error


class Standing:
    """A command that serves until it is told to stop."""

    def __init__(self, place: Path, name: str, *arguments: str) -> None:
        self._log = place / f"{name}.log"
        with self._log.open("wb") as log:
            command = [sys.executable, "-m", f"nescient_fl.{name}", *arguments]
            self.process = subprocess.Popen(command, cwd=place, stdout=log, stderr=subprocess.STDOUT)

    @property
    def said(self) -> str:
        return self._log.read_text()

    def wait_for(self, words: str) -> None:
        end = time.monotonic() + WAIT
        while words not in self.said:
            assert self.process.poll() is None, self.said
            assert time.monotonic() < end, self.said
            time.sleep(0.02)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(WAIT)


@pytest.fixture(scope="module")
def standing(place: Path) -> Iterator[list[Standing]]:
    ahead = ("--calibration", "typical", "--limit", "5", "--ahead", "3", "--batch", "2")
    started = [
        Standing(place, "deal", "--config", "dealer.toml"),
        Standing(place, "serve_model", "model.safetensors", "--config", "owner.toml", *ahead),
    ]
    try:
        for one in started:
            one.wait_for("ready")
        started[1].wait_for("dealt ahead for clinic")
        yield started
    finally:
        for one in started:
            one.process.kill()
            one.process.wait()


@pytest.mark.slow
def test_three_hosts_score_radiographs_until_the_limit_and_stop_when_told(
    command: Run, place: Path, standing: list[Standing]
) -> None:
    images = ["typical/0.jpg", "typical/1.jpg", "typical/3.jpg"]
    status, said, error = command(score, *images, "--config", "clinic.toml", "--out", "scores.json")
    assert (status, error) == (0, "")
    found = json.loads((place / "scores.json").read_text())
    saved = load_model(place / "model.safetensors")
    inputs = torch.from_numpy(np.stack([to_input(place / path, "upright", True) for path in images]))
    with torch.inference_mode():
        logits = saved.network()(inputs).squeeze(1).double()
    for image, path, logit in zip(found["images"], images, logits, strict=True):
        assert image["image"] == path
        assert image["logit"] == pytest.approx(float(logit), abs=1e-3)
        assert image["score"] == pytest.approx(float(torch.sigmoid(logit)), abs=1e-3)
        assert image["lesion"] is (image["score"] >= 0.45)
        assert f"{image['score']:.3f}" in said
    assert found["left"] == 2
    assert not found["dealer_checked"]
    standing[1].wait_for("clinic: 3 images scored in ")
    standing[0].wait_for("dealt 3 batches of 2 images for owner and clinic")
    assert found["offline"]["bytes"] == 0, "material was dealt ahead"
    for images, words in (
        (["typical/0.jpg", "typical/1.jpg", "typical/3.jpg"], "2 are left"),
        (["typical/0.jpg", "typical/1.jpg", "--check-dealer"], "4 images are asked for, 2 are left"),
        (["empty.jpg"], "empty.jpg: empty file"),
        (["flat.png"], "all pixels have one value"),
        (["nowhere.jpg"], "nowhere.jpg: no such file"),
    ):
        status, said, error = command(score, *images, "--config", "clinic.toml")
        assert (status, said) == (2, "")
        assert words in error
        assert error.count("\n") == 1
    checked = (place / "clinic.toml").read_text() + "check-dealer = true\n"
    (place / "checked.toml").write_text(checked)
    status, said, error = command(score, "typical/5.jpg", "--config", "checked.toml")
    assert (status, error) == (0, "")
    assert "no two scores of an image differ; 0 images are left" in " ".join(said.split())
    assert [one.stop() for one in standing] == [0, 0]
    status, _, error = command(score, "typical/5.jpg", "--config", "clinic.toml", "--batch", "1")
    assert status == 2
    assert "owner cannot be reached" in error
