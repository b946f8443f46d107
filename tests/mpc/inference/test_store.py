"""Material in files: claimed once, by one, and never again, whatever is put back; and what is left of it."""

import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nescient_fl.mpc.errors import MaterialError
from nescient_fl.mpc.inference.compile import compile_network
from nescient_fl.mpc.inference.correlations import DATA_OWNER, MODEL_OWNER
from nescient_fl.mpc.inference.material import Material, deal_batch, deal_batches, new_delivery
from nescient_fl.mpc.inference.owners import run_data_owner, run_model_owner
from nescient_fl.mpc.inference.store import MaterialInMemory, MaterialStore
from nescient_fl.mpc.randomness import fresh_seed, fresh_stream
from tests.mpc.in_memory import InMemoryExchange, run_parties
from tests.mpc.inference.networks import SMALL, dealt, plain, smooth, two_convolutions

NETWORK, INPUTS = two_convolutions(), smooth(4, SMALL)
PLAN, WEIGHTS = compile_network(NETWORK, SMALL, INPUTS)


def batch(number: int = 0, images: int = 2) -> tuple[Material, Material]:
    delivery, seed = new_delivery(PLAN, images, 8, fresh_stream())
    return deal_batch(PLAN, delivery, seed, number, fresh_stream())


def stored(directory: Path, batches: int) -> tuple[MaterialStore, MaterialStore]:
    delivery, seed = new_delivery(PLAN, 2, batches, fresh_stream())
    stores = MaterialStore(directory / "model owner", delivery), MaterialStore(directory / "data owner", delivery)
    stores[MODEL_OWNER].add_mask_seed(seed)
    for pair in deal_batches(PLAN, delivery, seed, fresh_stream()):
        for store, material in zip(stores, pair, strict=True):
            store.add(material)
    return stores


def run(stores: Any, inputs: Any, sacrifice: int = 0, weights: Any = WEIGHTS) -> Any:
    def party(end: InMemoryExchange) -> Any:
        if end.rank == MODEL_OWNER:
            return run_model_owner(end, PLAN, weights, stores[MODEL_OWNER], sacrifice)
        return run_data_owner(end, PLAN, inputs, stores[DATA_OWNER], sacrifice)

    return run_parties(2, party)[DATA_OWNER]


def test_a_stored_batch_is_private_claimed_once_and_deleted(tmp_path: Path) -> None:
    store, _ = stored(tmp_path, 2)
    folder = tmp_path / "model owner" / store.delivery.name
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in folder.iterdir())
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert store.numbers() == [0, 1]
    store.claim(1)
    assert store.numbers() == [0]
    assert not (folder / "batch-000001.bin").exists()
    with pytest.raises(MaterialError, match="used before"):
        store.claim(1)
    with pytest.raises(MaterialError, match="never dealt"):
        store.claim(5)


def test_a_batch_that_is_put_back_stays_refused(tmp_path: Path) -> None:
    store, _ = stored(tmp_path, 2)
    path = tmp_path / "model owner" / store.delivery.name / "batch-000000.bin"
    blob = path.read_bytes()
    store.claim(0)
    path.write_bytes(blob)
    assert store.numbers() == [1]
    with pytest.raises(MaterialError, match="used before"):
        store.claim(0)
    with pytest.raises(MaterialError, match="used before"):
        store.add(Material.from_bytes(blob))


def test_of_a_finished_delivery_one_line_is_left_and_nothing_of_it_ever_comes_back(tmp_path: Path) -> None:
    store, _ = stored(tmp_path, 2)
    directory = tmp_path / "model owner"
    folder = directory / store.delivery.name
    shutil.copytree(folder, tmp_path / "copy")
    blobs = [(folder / f"batch-00000{number}.bin").read_bytes() for number in (0, 1)]
    for number in (1, 0):
        assert folder.exists()
        assert not store.finished
        store.claim(number)
    assert [path.name for path in directory.iterdir()] == ["finished"]
    assert (directory / "finished").read_text().split() == [store.delivery.name]
    assert stat.S_IMODE((directory / "finished").stat().st_mode) == 0o600
    with pytest.raises(MaterialError, match="used before"):
        store.add(Material.from_bytes(blobs[0]))
    shutil.copytree(tmp_path / "copy", folder)
    for again in (store, MaterialStore(directory, store.delivery)):
        assert again.finished
        assert again.numbers() == []
        for number in (0, 1):
            with pytest.raises(MaterialError, match="used before"):
                again.claim(number)
            with pytest.raises(MaterialError, match="used before"):
                again.add(Material.from_bytes(blobs[number]))
        with pytest.raises(MaterialError, match="used up before"):
            again.add_mask_seed(bytes(32))
    store.discard()
    assert not folder.exists()


def test_a_delivery_is_finished_by_its_last_batch_only(tmp_path: Path) -> None:
    """Batches that are still on their way, as while a dealer deals, are stored and used like the others."""
    delivery, seed = new_delivery(PLAN, 2, 3, fresh_stream())
    store = MaterialStore(tmp_path, delivery)
    pairs = list(deal_batches(PLAN, delivery, seed, fresh_stream()))
    for number in (0, 2, 1):
        store.add(pairs[number][MODEL_OWNER])
        assert store.numbers() == [number]
        store.claim(number)
    assert store.finished
    outside = Material(delivery, 3, MODEL_OWNER, fresh_seed())
    with pytest.raises(MaterialError, match="another delivery"):
        store.add(outside)
    with pytest.raises(MaterialError, match="damaged header"):
        Material.from_bytes(outside.to_bytes())


def test_a_name_cut_short_by_a_crash_counts_for_nothing_and_spoils_no_other(tmp_path: Path) -> None:
    (store, _), (other, _) = stored(tmp_path, 1), stored(tmp_path, 1)
    finished = tmp_path / "model owner" / "finished"
    finished.write_text(f"\n{store.delivery.name[:20]}")
    assert not store.finished
    other.claim(0)
    assert other.finished
    assert not store.finished
    store.claim(0)
    assert store.finished


@pytest.mark.parametrize("at", ["noted", "half deleted"])
def test_a_batch_put_back_while_its_delivery_is_being_deleted_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """The worst moments: every mark stands, or the mark is deleted already, and the batch is there from a copy."""
    store, _ = stored(tmp_path, 1)
    folder = tmp_path / "model owner" / store.delivery.name
    blob = (folder / "batch-000000.bin").read_bytes()
    refused = []

    def meanwhile(*_: Any, **__: Any) -> None:
        if at == "half deleted":
            (folder / "batch-000000.used").unlink()
        (folder / "batch-000000.bin").write_bytes(blob)
        with pytest.raises(MaterialError, match="used before"):
            MaterialStore(tmp_path / "model owner", store.delivery).claim(0)
        refused.append(at)

    monkeypatch.setattr(shutil, "rmtree", meanwhile)
    store.claim(0)
    assert refused == [at]


def test_two_processes_never_claim_one_batch(tmp_path: Path) -> None:
    store, _ = stored(tmp_path, 1)
    other = MaterialStore(tmp_path / "model owner", store.delivery)

    def claim(end: InMemoryExchange) -> int:
        end.exchange(b"")
        try:
            (store, other)[end.rank].claim(0)
        except MaterialError:
            return 0
        return 1

    assert sum(run_parties(2, claim)) == 1


def test_two_processes_claim_the_last_two_batches_at_the_same_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first has marked its batch and not read it yet when the second, which reads the last one, is through."""
    store, _ = stored(tmp_path, 2)
    read, second = Path.read_bytes, []

    def meanwhile(path: Path) -> bytes:
        monkeypatch.undo()
        second.append(MaterialStore(tmp_path / "model owner", store.delivery).claim(1))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", meanwhile)
    assert [store.claim(0).number, second[0].number] == [0, 1]
    assert store.finished


def test_a_file_of_another_batch_is_refused(tmp_path: Path) -> None:
    store, _ = stored(tmp_path, 2)
    folder = tmp_path / "model owner" / store.delivery.name
    (folder / "batch-000001.bin").rename(folder / "batch-000000.bin")
    with pytest.raises(MaterialError, match="another one"):
        store.claim(0)


@pytest.mark.parametrize("make", [lambda path, d: MaterialStore(path, d), lambda _, d: MaterialInMemory(d)])
def test_a_batch_is_stored_once_and_in_its_own_delivery(tmp_path: Path, make: Callable[..., Any]) -> None:
    material, other = batch(), batch()
    store = make(tmp_path, material[0].delivery)
    store.add(material[0])
    with pytest.raises(MaterialError, match="before"):
        store.add(material[0])
    with pytest.raises(MaterialError, match="another delivery"):
        store.add(other[0])
    store.claim(0)
    with pytest.raises(MaterialError):
        store.claim(0)
    with pytest.raises(MaterialError):
        store.add(Material.from_bytes(batch()[0].to_bytes()))


def test_masks_hide_one_models_weights_only(tmp_path: Path) -> None:
    made = dealt(NETWORK, INPUTS, 2, 2)
    for source in (stored(tmp_path, 1)[MODEL_OWNER], made.sources[MODEL_OWNER]):
        assert source.mask_seed("a" * 64) == source.mask_seed("a" * 64)
        with pytest.raises(MaterialError, match="other weights"):
            source.mask_seed("b" * 64)
    for source in (stored(tmp_path, 1)[DATA_OWNER], made.sources[DATA_OWNER]):
        with pytest.raises(MaterialError, match="no masks"):
            source.mask_seed("a" * 64)


def test_images_are_scored_from_stored_material_which_is_then_gone(tmp_path: Path) -> None:
    stores = stored(tmp_path, 3)
    scores = run(stores, INPUTS[:3])
    np.testing.assert_allclose(scores.logits, plain(NETWORK, INPUTS[:3]), atol=1e-3)
    assert [store.numbers() for store in stores] == [[2], [2]]
    run(stores, INPUTS[:2])
    with pytest.raises(MaterialError, match="deal more"):
        run(stores, INPUTS[:2])


def test_a_batch_that_one_party_lost_is_used_by_neither(tmp_path: Path) -> None:
    stores = stored(tmp_path, 3)
    stores[MODEL_OWNER].claim(0)
    stores[DATA_OWNER].claim(1)
    run(stores, INPUTS[:2])
    assert [store.numbers() for store in stores] == [[1], [0]]


def test_an_honest_dealer_passes_its_check(tmp_path: Path) -> None:
    stores = stored(tmp_path, 4)
    scores = run(stores, INPUTS, sacrifice=2)
    np.testing.assert_allclose(scores.logits, plain(NETWORK, INPUTS), atol=1e-3)
    assert stores[DATA_OWNER].numbers() == []
