"""Settings: bounds, types, layers, and what may not change on resume."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nescient_fl.errors import UserError
from nescient_fl.study.settings import (
    AGGREGATIONS,
    COHORTS,
    GEOMETRIES,
    LOCAL_OBJECTIVES,
    PARTITIONS,
    SERVER_OPTIMISERS,
    UNCERTAIN,
    ServerStep,
    StudySettings,
    differences,
    make_settings,
    read_config_file,
)


def write_config(folder: Path, text: str) -> Path:
    path = folder / "study.toml"
    path.write_text(text)
    return path


@st.composite
def some_options(draw: st.DrawFn) -> dict[str, Any]:
    """Any of the options, each with a value that can be."""
    clients = draw(st.integers(3, 200))
    every = {
        "rounds": st.integers(1, 1000),
        "local_epochs": st.integers(1, 50),
        "data": st.lists(st.text(), min_size=1).map(tuple),
        "cohort": st.sampled_from(COHORTS),
        "uncertain": st.sampled_from(UNCERTAIN),
        "balance": st.floats(0.01, 100),
        "geometry": st.sampled_from(GEOMETRIES),
        "partition": st.sampled_from(PARTITIONS),
        "aggregation": st.sampled_from(AGGREGATIONS),
        "server_optimiser": st.sampled_from(SERVER_OPTIMISERS),
        "local_objective": st.sampled_from(LOCAL_OBJECTIVES),
        "clip": st.floats(0.01, 100),
        "share_metrics": st.lists(st.text(), min_size=1).map(tuple),
        "alpha": st.none() | st.floats(0, 100),
        "learning_rate": st.none() | st.floats(1e-9, 10),
        "clip_norm": st.none() | st.floats(1e-9, 10),
        "dropout": st.none() | st.floats(0, 0.9),
        "seed": st.integers(0, 2**63),
        "min_sites": st.none() | st.integers(1, clients),
        "baselines": st.booleans(),
        "target_recall": st.floats(0.01, 1),
    }
    chosen = draw(st.sets(st.sampled_from(sorted(every))))
    return {"clients": clients, **{name: draw(every[name]) for name in sorted(chosen)}}


@given(some_options())
def test_settings_survive_their_way_through_json(options: dict[str, Any]) -> None:
    settings = make_settings(options)
    assert make_settings(settings.as_dict()) == settings
    assert differences(settings, options) == []


def test_no_options_are_the_defaults() -> None:
    assert make_settings() == make_settings({}) == StudySettings()


def test_the_first_layer_that_names_an_option_decides() -> None:
    settings = make_settings({"rounds": 3}, {"rounds": 7, "local-epochs": 4})
    assert (settings.rounds, settings.local_epochs, settings.clients) == (3, 4, 5)


@pytest.mark.parametrize(
    ("key", "hint"), [("cleints", "'clients'"), ("learning-rat", "'learning-rate'"), ("zzz", "--help")]
)
def test_an_unknown_option_is_answered_with_the_nearest(key: str, hint: str) -> None:
    with pytest.raises(UserError, match=hint) as caught:
        make_settings({key: 1})
    assert key in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("clients", "five"),
        ("clients", 5.0),
        ("clients", True),
        ("clients", None),
        ("rounds", [3]),
        ("baselines", 1),
        ("target_recall", "0.9"),
        ("target_recall", True),
        ("alpha", "small"),
        ("data", 3),
        ("data", [1, 2]),
        ("cohort", 1),
    ],
)
def test_a_value_of_the_wrong_type_is_named_with_what_is_wanted(key: str, value: Any) -> None:
    with pytest.raises(UserError) as caught:
        make_settings({key: value})
    assert key.replace("_", "-") in str(caught.value)
    assert repr(value) in str(caught.value)
    assert "NoneType" not in str(caught.value)


def test_a_whole_number_serves_as_a_real_one_and_one_folder_as_a_list() -> None:
    settings = make_settings({"balance": 2, "data": "images", "source": ("nih",)})
    assert settings.balance == 2.0
    assert isinstance(settings.balance, float)
    assert (settings.data, settings.source) == (("images",), ("nih",))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"clients": 0}, "--clients"),
        ({"rounds": 0}, "--rounds"),
        ({"rounds": -4}, "--rounds"),
        ({"local_epochs": 0}, "--local-epochs"),
        ({"phantom_images": 0}, "--phantom-images"),
        ({"min_images": 0}, "--min-images"),
        ({"min_positives": 0}, "--min-positives"),
        ({"seed": -1}, "--seed"),
        ({"cohort": "all"}, "--cohort"),
        ({"uncertain": "maybe"}, "--uncertain"),
        ({"geometry": "sideways"}, "--geometry"),
        ({"partition": "random"}, "--partition"),
        ({"device": "tpu"}, "--device"),
        ({"recipe": "best"}, "recipe"),
        ({"balance": 0.0}, "--balance"),
        ({"balance": float("nan")}, "--balance"),
        ({"round_timeout": 0.0}, "--round-timeout"),
        ({"alpha": -0.1}, "--alpha"),
        ({"target_recall": 0.0}, "--target-recall"),
        ({"target_recall": 1.1}, "--target-recall"),
        ({"target_recall": float("nan")}, "--target-recall"),
        ({"learning_rate": -1.0}, "learning rate"),
        ({"batch_size": 0}, "batch size"),
        ({"dropout": 1.0}, "dropout"),
        ({"activation": "tanh"}, "activation"),
        ({"min_sites": 6}, "--min-sites"),
        ({"min_sites": 0}, "--min-sites"),
        ({"source": ("nih", "nih")}, "--source"),
    ],
)
def test_values_out_of_bounds_are_refused_by_name(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        make_settings(options)


def test_the_recipe_is_changed_by_the_options_given_alone() -> None:
    recipe = make_settings({"recipe": "paper", "clip-norm": 1.0, "activation": "gelu"}).resolved_recipe()
    assert (recipe.learning_rate, recipe.clip_norm) == (5e-4, 1.0)
    assert (recipe.network.activation, recipe.network.dropout) == ("gelu", 0.0)


def test_more_than_half_of_the_sites_must_answer_unless_said_otherwise() -> None:
    plain = make_settings({"aggregation": "plain"})
    assert [plain.needed_sites(sites) for sites in (1, 2, 3, 4, 5)] == [1, 2, 2, 3, 3]
    assert make_settings({"aggregation": "plain", "min_sites": 1}).needed_sites(5) == 1


def test_a_secure_sum_is_of_four_fifths_and_three_sites_at_least() -> None:
    assert [StudySettings().needed_sites(sites) for sites in (3, 4, 5, 10, 100)] == [3, 4, 4, 8, 80]
    assert make_settings({"min_sites": 1}).needed_sites(5) == 3
    assert make_settings({"min_sites": 5}).needed_sites(5) == 5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"clients": 2}, "--aggregation plain"),
        ({"parties": 1}, "--parties must be from 2"),
        ({"clip": 0.0}, "--clip must be above 0"),
        ({"aggregation": "none"}, "--aggregation is one of"),
        ({"aggregation": "plain", "dp_epsilon": 1.0, "dp_delta": 1e-5}, "need --aggregation secure"),
        ({"aggregation": "plain", "strict_membership": True}, "need --aggregation secure"),
        ({"dp_epsilon": 1.0}, "both --dp-epsilon and --dp-delta"),
        ({"dp_epsilon": 1.0, "dp_delta": 1.0}, "--dp-delta between"),
        ({"dp_epsilon": 0.0, "dp_delta": 1e-5}, "--dp-epsilon must be above 0"),
    ],
)
def test_privacy_options_that_cannot_be(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        make_settings(options)


@pytest.mark.parametrize(
    ("options", "step"),
    [
        ({}, ServerStep("avgm", momentum=0.7)),
        ({"server_momentum": 0.5}, ServerStep("avgm", momentum=0.5)),
        ({"server_momentum": 0.0}, ServerStep("avg")),
        ({"server_optimiser": "avg"}, ServerStep("avg")),
        ({"server_optimiser": "avg", "server_momentum": 0.0}, ServerStep("avg")),
        ({"server_optimiser": "avgm", "server_momentum": 0}, ServerStep("avg")),
        ({"server_optimiser": "adam"}, ServerStep("adam", learning_rate=0.03)),
        ({"server_optimiser": "yogi", "server_learning_rate": 0.1}, ServerStep("yogi", learning_rate=0.1)),
    ],
)
def test_what_the_servers_options_come_to(options: dict[str, Any], step: ServerStep) -> None:
    assert make_settings(options).server_step() == step


def test_only_the_federated_arm_has_a_proximal_term() -> None:
    assert make_settings().federated_recipe() == make_settings().resolved_recipe()
    prox = make_settings({"local_objective": "prox"})
    assert (prox.federated_recipe().proximal, prox.resolved_recipe().proximal) == (0.01, 0.0)
    assert make_settings({"local_objective": "prox", "proximal_mu": 1}).federated_recipe().proximal == 1.0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"server_optimiser": "sgd"}, "--server-optimiser is one of avg, avgm, adam, yogi"),
        ({"server_momentum": 1.0}, "--server-momentum is from 0"),
        ({"server_optimiser": "avg", "server_momentum": 0.5}, "--server-momentum 0.5 goes with .* avgm, not avg"),
        ({"server_optimiser": "adam", "server_momentum": 0.0}, "--server-momentum 0 goes with .* avgm, not adam"),
        ({"server_learning_rate": 0.1}, "--server-learning-rate 0.1 goes with .* adam or yogi, not avgm"),
        ({"server_optimiser": "adam", "server_learning_rate": 0.0}, "--server-learning-rate must be above 0"),
        ({"local_objective": "near"}, "--local-objective is one of plain, prox"),
        ({"proximal_mu": 0.1}, "--proximal-mu 0.1 goes with --local-objective prox"),
        ({"local_objective": "prox", "proximal_mu": 0.0}, "--proximal-mu must be above 0"),
        ({"participation": 0.0}, "--participation is a share above 0"),
        ({"participation": 1.1}, "--participation is a share above 0"),
        ({"clients": 10, "participation": 0.8, "strict_membership": True}, "leave one of them away"),
        (
            {"clients": 10, "participation": 0.5},
            "--participation 0.5 asks 5 of 10 hospitals, but a secure sum is of 8 or more: "
            "say --participation 0.8 or more, or --min-sites 5$",
        ),
        ({"clients": 10, "participation": 0.2}, "asks 2 of 10 .* --participation 0.8 or more$"),
        ({"clients": 3, "participation": 0.5}, "asks 2 of 3 .* of 3 or more: say --participation 1 or more$"),
        (
            {"clients": 10, "participation": 0.5, "min_sites": 7, "aggregation": "plain"},
            "asks 5 of 10 hospitals, but a round is of 7 or more: say --participation 0.7 or more, or --min-sites 5$",
        ),
    ],
)
def test_options_of_the_federation_that_cannot_be(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        make_settings(options)


def test_a_share_of_the_sites_is_asked_and_more_than_half_of_those_must_answer() -> None:
    plain = make_settings({"clients": 10, "participation": 0.3, "aggregation": "plain"})
    assert [plain.asked_sites(sites) for sites in (1, 5, 10, 100)] == [1, 2, 3, 30]
    assert plain.needed_sites(10) == 2
    secure = make_settings({"clients": 10, "participation": 0.5, "min_sites": 4})
    assert (secure.asked_sites(10), secure.needed_sites(10)) == (5, 4)
    assert make_settings().asked_sites(7) == 7


def test_a_file_says_options_as_the_command_line_does(tmp_path: Path) -> None:
    path = write_config(
        tmp_path, 'clients = 4\nlocal-epochs = 3\ntarget_recall = 0.8\ndata = ["a", "b"]\nbaselines = false\n'
    )
    settings = make_settings({"clients": 3}, read_config_file(path))
    assert (settings.clients, settings.local_epochs, settings.target_recall) == (3, 3, 0.8)
    assert (settings.data, settings.baselines) == (("a", "b"), False)


def test_a_file_may_need_what_the_command_line_adds(tmp_path: Path) -> None:
    path = write_config(tmp_path, "min-sites = 8\n")
    assert make_settings({"clients": 10}, read_config_file(path)).min_sites == 8


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("clinets = 4", "'clinets'.*'clients'"),
        ("[study]\nclients = 4", "unknown option 'study'"),
        ('rounds = "many"', "'rounds' takes int"),
        ("rounds = ", "Invalid value"),
        ("rounds = 1\nrounds = 2", "overwrite"),
    ],
)
def test_a_broken_file_is_named_with_its_fault(tmp_path: Path, text: str, words: str) -> None:
    path = write_config(tmp_path, text)
    with pytest.raises(UserError, match=words) as caught:
        read_config_file(path)
    assert f"--config {path}" in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "none.toml", tmp_path, binary):
        with pytest.raises(UserError, match=str(path)):
            read_config_file(path)


def test_differences_name_what_is_and_what_was() -> None:
    saved = make_settings({"rounds": 20, "data": ["a"]})
    assert differences(saved, {"rounds": 20, "data": ("a",), "balance": 1}) == []
    assert differences(saved, {"rounds": 30, "local_epochs": 1}) == [
        "--rounds 30 (was 20)",
        "--local-epochs 1 (was 2)",
    ]


def test_every_option_is_on_the_command_line_and_no_other() -> None:
    import inspect

    from nescient_fl.simulate import simulate

    given = set(inspect.signature(simulate).parameters) - {"out", "resume", "config", "prepare_only"}
    assert given == {field.name for field in fields(StudySettings)}
