"""A run that a coordinator without radiographs begins with."""

from pathlib import Path

import pytest

from nescient_fl.deployment.founding import found_run, noise_of, own_words
from nescient_fl.deployment.roles import SiteSettings, read_role
from nescient_fl.errors import UserError
from nescient_fl.mpc.privacy import noise_multiplier_for
from nescient_fl.mpc.vault import Vault, create_vault
from nescient_fl.study.run_folder import read_json, write_json
from strategies.server import make_plan

PRIVATE = {"dp_epsilon": 8.0, "dp_delta": 1e-5, "rounds": 4, "clip": 1.0}


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return create_vault(tmp_path / "vault", "lungs", ["a", "b", "c"], 2, 3)


def test_a_founded_run_has_no_noise_unless_asked(tmp_path: Path, vault: Vault) -> None:
    run = found_run(tmp_path / "run", vault.roster_path, vault.authority, 300, {"rounds": 4})
    plan = make_plan(run.path).secure
    assert plan is not None
    assert (noise_of(run), plan.private, plan.weight_max) == (0.0, False, 512)


def test_a_private_run_pays_for_a_sum_a_round_and_one_more(tmp_path: Path, vault: Vault) -> None:
    run = found_run(tmp_path / "run", vault.roster_path, vault.authority, 300, PRIVATE)
    assert noise_of(run) == noise_multiplier_for(8.0, 1e-5, 5)
    plan = make_plan(run.path).secure
    assert plan is not None
    assert plan.private
    assert plan.ledger is not None
    assert plan.ledger.epsilon == 0.0


def test_a_founded_run_is_never_in_clear(tmp_path: Path, vault: Vault) -> None:
    with pytest.raises(UserError, match="leave aggregation away"):
        found_run(tmp_path / "run", vault.roster_path, vault.authority, 300, {"aggregation": "plain"})


@pytest.mark.parametrize(("written", "problem"), [("1.25", None), ("-1.0", "0 or more"), ('"much"', "takes a float")])
def test_a_hospital_says_what_noise_it_insists_on(tmp_path: Path, written: str, problem: str | None) -> None:
    path = tmp_path / "site.toml"
    fields = ("name", "superlink", "ca", "node-key", "data", "state")
    values = dict.fromkeys(fields, '"x"') | {"superlink": '"127.0.0.1:9092"', "noise-multiplier": written}
    path.write_text("\n".join(f"{name} = {value}" for name, value in values.items()))
    if problem is None:
        assert read_role(SiteSettings, path, {}).noise_multiplier == 1.25
    else:
        with pytest.raises(UserError, match=problem):
            read_role(SiteSettings, path, {})


@pytest.mark.parametrize("images", [0, -5])
def test_a_hospital_has_an_image_or_more(tmp_path: Path, vault: Vault, images: int) -> None:
    with pytest.raises(UserError, match=f"--largest-site must be 1 or more, got {images}"):
        found_run(tmp_path / "run", vault.roster_path, vault.authority, images, {})
    assert not (tmp_path / "run").exists()


def test_options_that_the_roster_decides_are_not_overruled_in_silence(tmp_path: Path, vault: Vault) -> None:
    for options, words in (({"clients": 7}, "clients is 7, and the roster has 3"), ({"parties": 4}, "parties is 4")):
        with pytest.raises(UserError, match=words):
            found_run(tmp_path / "run", vault.roster_path, vault.authority, 300, options)
    found_run(tmp_path / "run", vault.roster_path, vault.authority, 300, {"clients": 3, "parties": 2})


def test_a_founded_run_goes_on_from_a_copy(tmp_path: Path, vault: Vault) -> None:
    """On another host: what the coordinator trusts is in the folder itself."""
    run = found_run(tmp_path / "run", vault.roster_path, vault.authority, 300, {"rounds": 4})
    run.path.rename(tmp_path / "elsewhere")
    plan = make_plan(tmp_path / "elsewhere")
    assert plan.secure is not None
    assert plan.secure.roster.digest == vault.roster().digest


def test_a_founded_run_goes_on_with_its_own_command(tmp_path: Path, vault: Vault) -> None:
    run = found_run(tmp_path / "run", vault.roster_path, vault.authority, 300, {})
    reason = f"round 1: 0 of 3 sites answered; mend them and go on with --resume {run.path}"
    assert (
        own_words(run, reason) == "round 1: 0 of 3 sites answered; mend them and start the coordinator again to go on"
    )
    config = read_json(run.config)
    del config["founded"]
    write_json(run.config, config)
    assert own_words(run, reason) == reason
