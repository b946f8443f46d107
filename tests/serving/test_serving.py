"""Three roles over TLS: the clinic alone learns the scores, material serves once, and the limit holds."""

import json
import shutil
import threading
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from serving.role_threads import Roles
from serving.saved_models import write_model

from nescient_fl.mpc.channel import BYE, DATA, HELLO, Channel
from nescient_fl.mpc.errors import MaterialError, QueryLimitError, RangeError, SessionAborted, UnknownMemberError
from nescient_fl.serving import clinic, dealing
from nescient_fl.serving.clinic import score
from nescient_fl.serving.messages import AskDeal, AskParcel, Card, Go, decode
from nescient_fl.serving.model import SavedModel, load_model
from nescient_fl.serving.plans import ServedModel, compile_model

Frames = list[tuple[int, bytes]]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> SavedModel:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    write_model(path, threshold=0.4)
    return load_model(path)


@pytest.fixture(scope="module")
def images() -> "np.ndarray[Any, np.dtype[np.float32]]":
    return np.random.default_rng(3).standard_normal((3, 1, 320, 390)).astype(np.float32)


@pytest.fixture(scope="module")
def model(saved: SavedModel, images: Any) -> ServedModel:
    return compile_model(saved, images)


@pytest.fixture
def roles(tmp_path: Path) -> Roles:
    return Roles(tmp_path)


def in_clear(saved: SavedModel, images: Any) -> Any:
    with torch.inference_mode():
        return saved.network()(torch.from_numpy(images)).squeeze(1).double().numpy()


def test_the_logits_are_those_of_the_model_in_clear(
    roles: Roles, saved: SavedModel, model: ServedModel, images: Any
) -> None:
    with roles.serving(model):
        found = roles.score(images, batch=2)
    assert np.abs(found.logits - in_clear(saved, images)).max() <= 1e-3
    assert found.card.threshold == 0.4
    assert found.left == 97
    assert found.offline.bytes_sent > 1_000_000
    assert [session.batches for session in found.sessions] == [2]
    line = json.loads((roles.state("owner") / "sessions.jsonl").read_text())
    assert (line["clinic"], line["images"], line["left"]) == ("clinic", 3, 97)
    assert "logit" not in line


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, str], Frames]:
    """Keep every frame that anybody receives, by who hears it and who said it."""
    kept: dict[tuple[str, str], Frames] = {}
    receive = Channel.receive_any

    def listening(channel: Channel, kinds: Any, *rest: Any) -> tuple[int, bytes]:
        found = receive(channel, kinds, *rest)
        own = channel._connection.getsockname() or b""
        hearer = "clinic" if channel.peer in ("owner", "dealer") and not own else Path(str(own)).stem
        kept.setdefault((hearer, channel.peer), []).append(found)
        return found

    monkeypatch.setattr(Channel, "receive_any", listening)
    return kept


def is_uniform(data: bytes) -> bool:
    """Say whether bytes look like a one-time pad: their histogram's chi-square is near its mean of 255."""
    counts = np.bincount(np.frombuffer(data, np.uint8), minlength=256)
    chi_square = float(((counts - len(data) / 256) ** 2).sum() / (len(data) / 256))
    return abs(chi_square - 255) < 8 * np.sqrt(2 * 255)


def test_owner_and_dealer_receive_nothing_of_an_image_and_the_clinic_nothing_of_a_weight(
    roles: Roles, model: ServedModel, images: Any, heard: dict[tuple[str, str], Frames]
) -> None:
    # The plainest image there is: whatever of it shows through a mask that is not one stands out.
    flat = np.zeros_like(images[:1])
    with roles.serving(model):
        roles.score(flat)
    # Towards the dealer the owner is a client too, with no address of its own on that side.
    by_dealer = [frame for (hearer, _), frames in heard.items() if hearer == "dealer" for frame in frames]
    assert {kind for kind, _ in by_dealer} == {HELLO, DATA, BYE}
    asked = [decode(payload, "x") for kind, payload in by_dealer if kind == DATA]
    assert {type(message) for message in asked} == {AskDeal, AskParcel, Go}
    assert all(len(payload) < 20_000 for _, payload in by_dealer)
    by_owner = [payload for kind, payload in heard["owner", "clinic"] if kind == DATA]
    large = [payload for payload in by_owner if len(payload) > 20_000]
    assert sum(map(len, large)) > 1_000_000
    assert all(is_uniform(payload) for payload in large)
    # The last that the owner hears is its turn to open the logit: nothing comes back.
    assert by_owner[-1] == b""
    by_clinic = [payload for kind, payload in heard["clinic", "owner"] if kind == DATA]
    weights = max(by_clinic, key=len)
    assert len(weights) > 400_000
    assert is_uniform(weights)


def test_the_check_of_what_was_heard_can_fail() -> None:
    assert is_uniform(np.random.default_rng(0).bytes(200_000))
    assert not is_uniform(bytes(200_000))
    assert not is_uniform(
        np.random.default_rng(0).integers(0, 255, 200_000, dtype=np.uint8).tobytes()[:-1] + b"\0" * 9000
    )


def test_the_limit_holds_across_a_restart_and_for_each_clinic(roles: Roles, model: ServedModel, images: Any) -> None:
    with roles.serving(model, limit=3):
        assert roles.score(images[:2]).left == 1
        with pytest.raises(QueryLimitError, match="1 are left"):
            roles.score(images[:2])
    with roles.serving(model, limit=3):
        with pytest.raises(QueryLimitError, match="1 are left"):
            roles.score(images[:2])
        assert roles.score(images[:1]).left == 0
        assert roles.score(images[:1], clinic="other").left == 2


def test_a_clinic_that_ignores_what_is_left_is_refused_by_the_owner(
    roles: Roles, model: ServedModel, images: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = clinic.hear

    def greedy(channel: Channel, kind: Any, deadline: Any) -> Any:
        message = honest(channel, kind, deadline)
        if isinstance(message, Card):
            return Card(message.plans, message.geometry, message.standardise, None, message.model, 10**6)
        return message

    monkeypatch.setattr(clinic, "hear", greedy)
    with roles.serving(model, limit=1):
        with pytest.raises(QueryLimitError, match="2 images are asked for, 1 are left of 1"):
            roles.score(images[:2])
        assert roles.owner_desk(model)._ledger.used("clinic") == 0
        assert "clinic: 2 images are asked for, 1 are left of 1" in roles.said


def test_material_is_gone_once_used_also_from_a_copy(roles: Roles, model: ServedModel, images: Any) -> None:
    with roles.serving(model):
        roles.score(images[:1], batch=1)
        store = roles.state("clinic") / "owner"
        assert list(store.rglob("batch-*.bin")) == []
        assert list((roles.state("owner") / "material").rglob("batch-*.bin")) == []
        assert list(roles.state("dealer").rglob("*.bin")) == []
        roles.owner_desk(model).stock_up(5, 1, threading.Event())
        first = roles.score(images[:1], batch=1)
        assert first.offline.bytes_sent == 0, "what was dealt ahead is used"
        copy = roles.folder / "copy"
        shutil.copytree(store, copy)
        second = roles.score(images[:1], batch=1)
        shutil.rmtree(store)
        shutil.copytree(copy, store)
        # The clinic's old halves have no owner's half any more: other ones are taken.
        third = roles.score(images[:1], batch=1)
    assert np.ptp([first.logits, second.logits, third.logits]) < 1e-3


def test_an_image_out_of_the_narrow_bounds_takes_the_wide_plan_and_a_hopeless_one_is_named(
    roles: Roles, saved: SavedModel, model: ServedModel, images: Any
) -> None:
    bright = images.copy()
    bright[1] *= 5
    with roles.serving(model):
        found = roles.score(bright)
        assert [session.images for session in found.sessions] == [2, 1]
        assert np.abs(found.logits - in_clear(saved, bright)).max() <= 5e-3
        bright[2, 0, 0, 0] = np.nan
        with pytest.raises(RangeError) as refused:
            roles.score(bright)
        assert refused.value.images == (2,)
        assert roles.owner_desk(model)._ledger.used("clinic") == 3


def test_a_dealer_that_deals_what_does_not_fit_together_is_found_out(
    roles: Roles, model: ServedModel, images: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nescient_fl.mpc.inference.material import Material

    honest = dealing.deal_batch

    def crooked(*arguments: Any) -> Any:
        for_owner, for_clinic = honest(*arguments)
        seed, corrections = for_owner.open()
        changed = bytearray(corrections)
        changed[len(changed) // 2] ^= 1
        return Material(for_owner.delivery, for_owner.number, for_owner.rank, seed + bytes(changed)), for_clinic

    monkeypatch.setattr(dealing, "deal_batch", crooked)
    with roles.serving(model), pytest.raises(MaterialError, match="does not fit together"):
        roles.score(images[:1])
    assert any("does not fit together" in line for line in roles.said), roles.said


def test_who_is_not_in_the_roster_is_not_served(roles: Roles, model: ServedModel, images: Any) -> None:
    folder = roles.folder / "strangers"
    folder.mkdir()
    strangers = Roles(folder)
    strangers.roster = roles.roster
    with roles.serving(model), pytest.raises(SessionAborted):
        strangers.score(images[:1])
    with pytest.raises(UnknownMemberError):
        score(roles.keys("clinic"), roles.roster, "nobody", Mock(), roles.folder)
