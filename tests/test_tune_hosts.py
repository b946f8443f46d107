"""Tuning with owner, clinic and dealer on hosts of their own: commands, mistakes, and roles that are killed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from serving.role_threads import Roles
from serving.saved_models import write_model

from nescient_fl.mpc.ceremony import write_member
from nescient_fl.mpc.keys import load_keys, new_keys, public_part
from nescient_fl.mpc.roster import sign_roster, write_signed
from nescient_fl.serve_model import serve_model
from nescient_fl.serving.layers import tuned_layers
from nescient_fl.serving.model import load_model
from nescient_fl.tune import tune

Run = Callable[..., tuple[int, str, str]]
SOON = 60.0


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, run_as_module: Run) -> Run:
    monkeypatch.chdir(tmp_path)
    return partial(run_as_module, tune)


@pytest.fixture
def offering(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, run_as_module: Run) -> Run:
    monkeypatch.chdir(tmp_path)
    return partial(run_as_module, serve_model)


def write_config(folder: Path, name: str, **more: str) -> Path:
    """Write the TOML file of a member of ``Roles``, whose roster is signed where it is not yet."""
    lines = [f'keys = "{name}"', 'roster = "roster.json"', f'authority = "{(folder / "key").read_text()}"']
    path = folder / f"{name}.toml"
    path.write_text("\n".join([*lines, *(f"{key} = {value}" for key, value in more.items())]) + "\n")
    return path


@pytest.fixture
def roles(tmp_path: Path) -> Roles:
    made = Roles(tmp_path)
    authority = new_keys(tmp_path / "authority", "authority", "authority")
    write_signed(sign_roster(made.roster, authority), tmp_path / "roster.json")
    (tmp_path / "key").write_text(public_part(authority).signing_key)
    for name in ("owner", "dealer", "clinic"):
        write_config(tmp_path, name)
    return made


@pytest.mark.usefixtures("roles")
def test_an_authoritys_file_in_a_configuration_is_found_beside_it(
    tmp_path: Path, toy_dataset: Path, command: Run
) -> None:
    write_model(tmp_path / "model.safetensors")
    write_member(load_keys(tmp_path / "authority"), None, tmp_path / "authority.member.json")
    config = tmp_path / "clinic.toml"
    config.write_text(config.read_text().replace((tmp_path / "key").read_text(), "authority.member.json"))
    (tmp_path / "elsewhere").mkdir()
    os.chdir(tmp_path / "elsewhere")
    for name, words in (("authority.member.json", "owner"), ("nothing.json", "nothing.json cannot be read")):
        config.write_text(config.read_text().replace("authority.member.json", name))
        arguments = ("--encrypted", "--config", config, tmp_path / "model.safetensors", toy_dataset)
        status, _, error = command(*arguments)
        assert status == 2
        assert words in error


class Started:
    """A command in a process of its own, with what it says in a file."""

    def __init__(self, folder: Path, name: str, *arguments: str | Path) -> None:
        self._log = folder / f"{name}.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "nescient_fl", *map(str, arguments)],
                cwd=folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )

    @property
    def said(self) -> str:
        return self._log.read_text(errors="replace")

    def until(self, *words: str) -> None:
        """Wait until it has said any of some words."""
        end = time.monotonic() + SOON
        while not any(each in self.said for each in words):
            assert self.process.poll() is None or any(each in self.said for each in words), self.said
            assert time.monotonic() < end, self.said
            time.sleep(0.05)

    def ended(self) -> int:
        return self.process.wait(SOON)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Started]]:
    processes = []

    def begin(name: str, *arguments: str | Path) -> Started:
        processes.append(Started(tmp_path, name, *arguments))
        return processes[-1]

    yield begin
    for started in processes:
        started.process.kill()
        started.process.wait()


OFFER = ("serve-model", "model.safetensors", "--tune", "--config", "owner.toml", "--rate", "0.5")


@pytest.mark.slow
@pytest.mark.usefixtures("roles")
def test_on_hosts_of_their_own_the_owner_gets_the_tuned_model_and_all_end_by_themselves(
    tmp_path: Path, toy_dataset: Path, start: Callable[..., Started]
) -> None:
    write_model(tmp_path / "model.safetensors")
    offer = (*OFFER, "--steps", "5", "--out", "tuned.safetensors", "--frozen", "frozen.safetensors")
    dealer, owner = start("d", "deal", "--config", "dealer.toml"), start("o", *offer)
    dealer.until("ready")
    owner.until("ready")
    give = ("tune", "--encrypted", "--config", "clinic.toml", "frozen.safetensors", toy_dataset)
    clinic = start("c", *give)
    assert clinic.ended() == 0, clinic.said
    assert "owner tuned its model on 90 radiographs in 5 steps" in clinic.said
    assert owner.ended() == 0, owner.said
    assert "clinic: step 5 of 5" in owner.said
    assert "tuned with clinic on 90 images" in owner.said
    tuned, before = (load_model(tmp_path / f"{name}.safetensors") for name in ("tuned", "model"))
    moved = [np.abs(a - b).max() for a, b in zip(*(tuned_layers(m.weights, 2) for m in (tuned, before)), strict=True)]
    assert min(moved) > 1e-3
    assert bool((tuned.weights["dense1.weight"] == before.weights["dense1.weight"]).all())
    # Another clinic's frozen file, or none, is refused; so is an owner that is gone.
    again = start("c", *give)
    assert again.ended() == 2
    assert again.said.startswith("error: ")
    assert again.said.count("\n") == 1


@pytest.mark.slow
@pytest.mark.usefixtures("roles")
@pytest.mark.parametrize("who", ["o", "c", "d"])
def test_a_role_that_is_killed_leaves_the_others_with_one_line_and_no_model(
    tmp_path: Path, toy_dataset: Path, start: Callable[..., Started], who: str
) -> None:
    write_model(tmp_path / "model.safetensors")
    offer = (*OFFER, "--steps", "1000", "--out", "tuned.safetensors", "--frozen", "frozen.safetensors")
    dealer, owner = start("d", "deal", "--config", "dealer.toml"), start("o", *offer)
    dealer.until("ready")
    owner.until("ready")
    clinic = start("c", "tune", "--encrypted", "--config", "clinic.toml", "frozen.safetensors", toy_dataset)
    owner.until("clinic: tuning on 90 images asked for" if who == "d" else "clinic: step ")
    {"o": owner, "c": clinic, "d": dealer}[who].process.kill()
    if who != "c":
        assert clinic.ended() == 2, clinic.said
        assert clinic.said.startswith("error: ")
        assert clinic.said.count("\n") == 1
    if who != "o":
        lost = "dealer" if who == "d" else "clinic"
        owner.until(
            f"clinic: {lost} closed",
            f"connection to {lost} was lost",
            f"{lost} cannot be reached",
            f"{lost} was silent",
            f"{lost} could not prove who it is",
        )
        owner.process.send_signal(signal.SIGINT)
        assert owner.ended() == 0
        assert "ended before any clinic tuned" in owner.said
        assert not (tmp_path / "owner" / "serving" / "spool").exists()
    assert not (tmp_path / "tuned.safetensors").exists()
    assert list((tmp_path / "owner" / "serving").glob("*.jsonl")) == []


@pytest.mark.usefixtures("roles")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["model.safetensors", "--out", "t", "--config", "owner.toml"], "--out has no place without --tune"),
        (["model.safetensors", "--tune", "--limit", "3", "--config", "owner.toml"], "--limit has no place beside"),
        (["model.safetensors", "--tune", "--config", "owner.toml"], "--out is missing"),
        (["--tune", "--config", "owner.toml"], "name a run's folder"),
        (["model.safetensors", "--tune", "--out", "t", "--config", "owner.toml"], "--rate is missing"),
        (["model.safetensors", "--tune", "--out", "t", "--config", "clinic.toml"], "an owner"),
        (["model.safetensors", "--tune", "--out", "key", "--config", "owner.toml"], "name a new file"),
        (["model.safetensors", "--tune", "--out", "t", "--frozen", "key", "--config", "owner.toml"], "something else"),
        (["model.safetensors", "--tune", "--out", "t", "--layers", "0", "--config", "owner.toml"], "--layers"),
        (["model.safetensors", "--tune", "--out", "t", "--rate", "-2", "--config", "owner.toml"], "rate is from"),
        (["model.safetensors", "--tune", "--out", "t", "--steps", "2000", "--config", "owner.toml"], "--steps"),
        (["nowhere", "--tune", "--out", "t", "--config", "owner.toml"], "does not exist"),
        (["model.safetensors", "--tune", "--out", "t", "--clinic", "x", "--config", "owner.toml"], "clinic, other"),
    ],
)
def test_every_mistake_of_the_owner_is_one_line(
    tmp_path: Path, offering: Run, arguments: list[str], words: str
) -> None:
    write_model(tmp_path / "model.safetensors")
    status, _, error = offering(*arguments)
    assert (status, error.count("\n")) == (2, 1)
    assert error.startswith("error: ")
    assert words in error
    assert not (tmp_path / "t").exists()
