"""The pixel cache: what is in it, when it is made again, and what it says about damage."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from radiograph_samples import make_table, noise, write_images

from nescient_fl.errors import UserError
from nescient_fl.radiographs import cache as cache_module
from nescient_fl.radiographs.cache import SMALLEST_STD, Progress, build_cache, cache_key, open_cache
from nescient_fl.radiographs.geometry import GEOMETRIES, Geometry, place, read_radiograph


@pytest.fixture
def dataset(tmp_path: Path) -> tuple[Path, pd.DataFrame]:
    table = make_table(12)
    write_images(tmp_path / "data", table)
    return tmp_path / "data", table


def build(dataset: tuple[Path, pd.DataFrame], out: Path, geometry: Geometry = "upright", **options: object):  # type: ignore[no-untyped-def]
    return build_cache({"made": dataset[0]}, dataset[1], geometry, out, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("workers", [1, 3])
def test_cache_equals_decoding_one_by_one(
    dataset: tuple[Path, pd.DataFrame], tmp_path: Path, geometry: Geometry, workers: int
) -> None:
    root, table = dataset
    seen: list[tuple[int, int]] = []
    progress: Progress = lambda done, total: seen.append((done, total))  # noqa: E731
    result = build(dataset, tmp_path / "out", geometry, workers=workers, progress=progress)
    cache = result.cache
    assert not result.reused
    assert result.rejected == ()
    assert seen == [(done, len(table)) for done in range(1, len(table) + 1)]
    assert isinstance(cache.pixels, np.memmap)
    assert not cache.pixels.flags.writeable
    assert len(cache) == len(table)
    assert cache.pixels.dtype == np.uint8
    assert cache.mean.dtype == cache.std.dtype == np.float32
    pd.testing.assert_frame_equal(result.table, table)
    assert cache.table["image"].tolist() == table["image"].tolist()
    for row, image in enumerate(table["image"]):
        framed = place(read_radiograph(root / image), geometry)
        assert np.array_equal(cache.pixels[row], framed.pixels)
        assert cache.mean[row] == pytest.approx(framed.area.mean(dtype=np.float64), rel=1e-6)
        assert cache.std[row] == pytest.approx(framed.area.std(dtype=np.float64), rel=1e-6)
        assert cache.table["sha256"].iloc[row] == hashlib.sha256((root / image).read_bytes()).hexdigest()


def test_a_second_build_reuses_the_first(dataset: tuple[Path, pd.DataFrame], tmp_path: Path) -> None:
    first = build(dataset, tmp_path / "out")
    written = (first.cache.directory / "pixels.npy").stat()
    done: list[tuple[int, int]] = []
    again = build(dataset, tmp_path / "out", progress=lambda *step: done.append(step))
    assert again.reused
    assert again.cache.directory == first.cache.directory
    assert (again.cache.directory / "pixels.npy").stat() == written
    assert done == [(len(first.table), len(first.table))]
    assert [path.name for path in (tmp_path / "out").iterdir()] == [first.cache.directory.name]


def test_content_order_and_settings_make_the_key(dataset: tuple[Path, pd.DataFrame], tmp_path: Path) -> None:
    root, table = dataset
    first = build(dataset, tmp_path / "out").cache
    assert build(dataset, tmp_path / "out", "paper").cache.key != first.key
    assert build((root, table.iloc[::-1]), tmp_path / "out").cache.key != first.key
    relabelled = table.assign(label="positive", age=3)
    assert build((root, relabelled), tmp_path / "out").reused
    Image.fromarray(noise(40, 50, 999)).save(root / table["image"].iloc[3])
    changed = build(dataset, tmp_path / "out")
    assert not changed.reused
    assert changed.cache.key != first.key
    elsewhere = tmp_path / "moved"
    root.rename(elsewhere)
    assert build((elsewhere, table), tmp_path / "out").reused


def test_the_key_is_that_of_its_parts() -> None:
    table = make_table(3)
    hashes = [str(number) * 64 for number in range(len(table))]
    keys = {
        cache_key(table, hashes, "paper"),
        cache_key(table, hashes, "upright"),
        cache_key(table, hashes[::-1], "paper"),
        cache_key(table.assign(source="other"), hashes, "paper"),
    }
    assert len(keys) == (4 if len(table) > 1 else 3)
    assert all(len(key) == 64 for key in keys)


def test_bad_files_are_left_out_and_reported(dataset: tuple[Path, pd.DataFrame], tmp_path: Path) -> None:
    root, table = dataset
    images = table["image"].tolist()
    (root / images[0]).write_bytes(b"")
    (root / images[4]).unlink()
    (root / images[5]).write_bytes((root / images[5]).read_bytes()[:700])
    Image.fromarray(np.full((40, 50), 7, np.uint8)).save(root / images[-1])
    for _ in range(2):  # A reused cache reports the same.
        result = build(dataset, tmp_path / "out", workers=2)
        assert [(bad.image, bad.reason) for bad in result.rejected] == [
            (images[0], "empty file"),
            (images[4], "no such file"),
            (images[5], "truncated"),
            (images[-1], "all pixels have one value"),
        ]
        assert {bad.source for bad in result.rejected} == {"made"}
        kept = [image for place, image in enumerate(images) if place not in (0, 4, 5, len(images) - 1)]
        assert result.table["image"].tolist() == result.cache.table["image"].tolist() == kept
        assert result.cache.pixels.shape == (len(kept), 320, 390)
        for row in (0, -1):
            expected = place(read_radiograph(root / kept[row]), "upright").pixels
            assert np.array_equal(result.cache.pixels[row], expected)
    assert result.reused
    Image.fromarray(noise(40, 50, 4)).save(root / images[4])  # The missing file arrives: a new cache.
    later = build(dataset, tmp_path / "out")
    assert not later.reused
    assert len(later.rejected) == 3


def test_no_usable_file_at_all(dataset: tuple[Path, pd.DataFrame], tmp_path: Path) -> None:
    root, table = dataset
    for image in table["image"]:
        (root / image).write_text("<html>404</html>")
    with pytest.raises(UserError, match=rf"none of the {len(table)} radiographs can be used .*not an image"):
        build(dataset, tmp_path / "out")
    with pytest.raises(UserError, match="the table is empty"):
        build((root, table.head(0)), tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_several_sources_and_copies(tmp_path: Path) -> None:
    table = make_table(6, images=(1,))
    write_images(tmp_path / "a", table)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    Image.fromarray(noise(44, 44, 77)).save(tmp_path / "b" / table["image"].iloc[0])
    both = pd.concat([table, table.assign(source="other")], ignore_index=True)
    result = build_cache({"made": tmp_path / "a", "other": tmp_path / "b"}, both, "paper", tmp_path / "out")
    assert not np.array_equal(result.cache.pixels[0], result.cache.pixels[6])
    assert np.array_equal(result.cache.pixels[1], result.cache.pixels[7])
    assert result.copies == 10
    with pytest.raises(ValueError, match=r"no dataset folder given for the source.s. other"):
        build_cache({"made": tmp_path / "a"}, both, "paper", tmp_path / "out")


def test_a_nearly_flat_image_has_a_std_to_divide_by(tmp_path: Path) -> None:
    table = make_table(1, images=(1,))
    pixels = np.full((320, 390), 100, np.uint8)
    pixels[0, 0] = 101
    (tmp_path / table["image"].iloc[0]).parent.mkdir(parents=True)
    Image.fromarray(pixels).save(tmp_path / table["image"].iloc[0], "PNG")
    cache = build((tmp_path, table), tmp_path / "out").cache
    assert cache.std[0] == SMALLEST_STD
    assert cache.mean[0] == pytest.approx(100, abs=1e-3)


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda folder: (folder / "cache.json").unlink(), "no finished pixel cache"),
        (lambda folder: (folder / "pixels.npy").unlink(), "no finished pixel cache"),
        (lambda folder: _cut(folder / "pixels.npy", 100), "bytes of"),
        (lambda folder: _cut(folder / "table.csv", 20), "bytes of"),
        (lambda folder: _cut(folder / "cache.json", 30), "damaged"),
        (lambda folder: (folder / "cache.json").write_text("[]"), "damaged"),
        (lambda folder: _edit(folder, images=3), "damaged"),
        (lambda folder: _edit(folder, format=99), "cache format 99"),
        (shutil.rmtree, "no finished pixel cache"),
    ],
)
def test_a_damaged_cache_is_refused_and_built_again(dataset, tmp_path, harm, says) -> None:  # type: ignore[no-untyped-def]
    first = build(dataset, tmp_path / "out").cache
    expected = first.pixels[:].copy()
    harm(first.directory)
    with pytest.raises(UserError, match=says) as raised:
        open_cache(first.directory)
    assert str(first.directory) in str(raised.value)
    again = build(dataset, tmp_path / "out")
    assert not again.reused
    assert np.array_equal(again.cache.pixels, expected)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [first.directory.name]


def _cut(path: Path, count: int) -> None:
    path.write_bytes(path.read_bytes()[:-count])


def _edit(folder: Path, **fields: object) -> None:
    record = json.loads((folder / "cache.json").read_text())
    (folder / "cache.json").write_text(json.dumps({**record, **fields}))


def test_a_file_that_changes_meanwhile_stops_the_build(
    dataset: tuple[Path, pd.DataFrame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, table = dataset
    hashing = cache_module._hash_file

    def hash_then_change(path: Path) -> str:
        digest = hashing(path)
        if path.name and path == root / table["image"].iloc[2]:
            Image.fromarray(noise(41, 51, 5)).save(path)
        return digest

    monkeypatch.setattr(cache_module, "_hash_file", hash_then_change)
    with pytest.raises(UserError, match="changed while it was read"):
        build(dataset, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
