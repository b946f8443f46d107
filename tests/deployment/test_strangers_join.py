"""Strangers with real processes: a coordinator and one hospital, of which one or the other is not as it should be.

Three such pairs run at once, each hospital told something else by its environment.
"""

import shutil
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from host_federation import STUDY, Role, start_role, terminate_all

from nescient_fl.arms.conduct import prepare_run
from nescient_fl.deployment import reaper
from nescient_fl.deployment.bundle import build_bundle, bundle_sha256
from nescient_fl.deployment.certificates import create_authority
from nescient_fl.deployment.layout import lay_out
from nescient_fl.deployment.site_data import write_site_folder
from nescient_fl.study.run_folder import RunFolder
from nescient_fl.study.settings import make_settings
from sites.site import open_run_data

pytestmark = pytest.mark.slow

LIAR, CHANGED, FOREIGN = "liar", "changed", "foreign"


@dataclass(frozen=True)
class Pair:
    """A coordinator that ended and its hospital."""

    coordinator: Role
    site: Role


@pytest.fixture(scope="module")
def pairs(toy_dataset: Path) -> Iterator[dict[str, Pair]]:
    mark = uuid.uuid4().hex
    # Short, since sockets lie below it.
    with tempfile.TemporaryDirectory(prefix="j", dir="/tmp") as name:
        folder = Path(name)
        run = RunFolder.create(folder / "run")
        options: dict[str, Any] = {**STUDY, "clients": 1, "aggregation": "plain", "partition": "iid"}
        prepare_run(
            make_settings({**options, "data": [str(toy_dataset)]}),
            run,
            SimpleNamespace(preparing=lambda *_: None),  # type: ignore[arg-type]
        )
        cache, partition = open_run_data(run.path)
        write_site_folder(folder / "data", cache, partition.assign(site="site-9"), "site-9")
        told = {
            LIAR: {"NESCIENT_NAME": "site-9", "NESCIENT_DATA": str(folder / "data")},
            CHANGED: {"NESCIENT_BUNDLE": "0" * 64},
            FOREIGN: {"NESCIENT_CA": str(create_authority(folder / "ca", "tests"))},
        }
        started = {}
        try:
            for kind, environment in told.items():
                private = folder / kind
                private.mkdir()
                own_run = RunFolder(Path(shutil.copytree(run.path, folder / f"run-{kind}")))
                places = lay_out(own_run, private, "cpu")
                own = {reaper.MARK: mark, "NESCIENT_JOIN_TIMEOUT": "12" if kind == FOREIGN else "100"}
                roles = [
                    start_role(place.role, place.settings, place.state, place.log, {**own, **extra})
                    for place, extra in zip(places, ({}, environment), strict=True)
                ]
                started[kind] = Pair(*roles)
            started[FOREIGN].site.until(lambda: started[FOREIGN].site.count("node ended"))
            for pair in started.values():
                assert pair.coordinator.ended() == 2, pair.coordinator.said
            assert terminate_all(pair.site for pair in started.values()) == [0, 0, 0]
            yield started
        finally:
            reaper.end_all(mark, gentle=0.0)


def test_a_site_that_claims_anothers_name_is_refused_by_name(pairs: dict[str, Pair]) -> None:
    said = pairs[LIAR].coordinator.said
    assert "error: the node of site site-1 says that it is site site-9: it is not trusted" in said
    assert pairs[LIAR].site.count("answered", kind="query") == 1, "it was asked who it is, and nothing else"
    assert pairs[LIAR].site.count("asked", kind="train") == 0


def test_a_bundle_that_is_not_the_one_trusted_is_not_run_and_named(pairs: dict[str, Pair]) -> None:
    ours = bundle_sha256(build_bundle())[:12]
    reason = f"the coordinator's application bundle {ours} is not the one trusted here, 000000000000"
    assert f"error: a node could not start: {reason}" in pairs[CHANGED].coordinator.said
    site = pairs[CHANGED].site
    assert reason in (site.state / "courier.log").read_text()
    assert site.count("asked") == 0, "nothing reached the hospital's worker"


def test_a_link_of_a_foreign_authority_is_never_joined_and_named(pairs: dict[str, Pair]) -> None:
    assert "error: only 0 of 1 nodes joined within 12 s" in pairs[FOREIGN].coordinator.said
    site = pairs[FOREIGN].site
    refused = [line["reason"] for line in site.events if line["event"] == "node ended"]
    assert any("has no certificate of" in reason for reason in refused)
    assert site.count("asked") == 0
    assert "SuperNode ID" not in (site.state / "supernode.log").read_text()
