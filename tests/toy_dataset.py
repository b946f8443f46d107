"""A CheXpert-shaped folder of small, quick pictures in which a lesion is a plain bright disc."""

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nescient_fl.lesion.batches import Examples

COLUMNS = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", "Lung Lesion", "Support Devices")
HEIGHT, WIDTH = 320, 390


def toy_picture(positive: bool, generator: np.random.Generator) -> NDArray[np.uint8]:
    """Draw grey noise, uint8 [320, 390], with a bright disc of radius 45 somewhere when positive."""
    picture = generator.integers(60, 120, (HEIGHT, WIDTH))
    row, column = generator.integers(80, HEIGHT - 80), generator.integers(80, WIDTH - 80)
    if positive:
        down, right = np.ogrid[:HEIGHT, :WIDTH]
        picture[(down - row) ** 2 + (right - column) ** 2 < 45**2] += 110
    return picture.astype(np.uint8)


def toy_examples(images: int = 64, seed: int = 0) -> Examples:
    """Return that many toy pictures as examples, every other one positive."""
    generator = np.random.default_rng(seed)
    targets = (np.arange(images) % 2).astype(np.float32)
    pixels = np.stack([toy_picture(target > 0, generator) for target in targets])
    flat = pixels.reshape(images, -1).astype(np.float64)
    mean, std = flat.mean(1).astype(np.float32), flat.std(1).astype(np.float32)
    return Examples(pixels, mean, std, targets, np.arange(images, dtype=np.int64))


def write_toy_dataset(folder: Path, patients: int = 90, seed: int = 0) -> Path:
    """Write one frontal image a patient, every other one positive, the rest negated."""
    generator = np.random.default_rng(seed)
    rows = []
    for number in range(1, patients + 1):
        positive = number % 2 == 0
        inside = f"train/patient{number:05d}/study1/view1_frontal.jpg"
        path = folder / inside
        path.parent.mkdir(parents=True)
        Image.fromarray(toy_picture(positive, generator)).save(path, quality=95)
        view, sex = ("AP", "PA")[number % 3 == 0], ("Female", "Male")[number % 5 == 0]
        rows.append((f"CheXpert-v1.0-small/{inside}", sex, 40 + number % 40, "Frontal", view, float(positive), ""))
    write_table(folder, rows)
    return folder


def write_table(folder: Path, rows: list[tuple[object, ...]], columns: tuple[str, ...] = COLUMNS) -> None:
    """Write a ``train.csv``."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "train.csv").open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
