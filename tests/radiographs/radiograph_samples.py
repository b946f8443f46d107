"""Tables and image files that the tests of this folder make."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image


def make_table(
    patients: int = 60, images: Sequence[int] = (1, 2, 3), source: str = "made", seed: int = 0
) -> pd.DataFrame:
    """A standard table in which about a third of the images are positive and every label occurs."""
    generator = np.random.default_rng(seed)
    rows = []
    for patient in range(patients):
        for study in range(int(generator.choice(images))):
            rows.append(
                {
                    "image": f"train/patient{patient:05d}/study{study}/view1_frontal.jpg",
                    "patient": f"patient{patient:05d}",
                    "study": f"study{study}",
                    "view": str(generator.choice(["AP", "PA"], p=[0.7, 0.3])),
                    "sex": str(generator.choice(["F", "M", "unknown"])),
                    "age": int(generator.integers(-1, 91)),
                    "devices": bool(generator.random() < 0.5),
                    "label": str(
                        generator.choice(["positive", "negated", "uncertain", "unmentioned"], p=[0.3, 0.1, 0.1, 0.5])
                    ),
                    "source": source,
                }
            )
    return pd.DataFrame(rows)


def make_cohort(patients: int = 200, seed: int = 0, source: str = "made") -> pd.DataFrame:
    """A cohort's table: ``make_table`` with a target."""
    table = make_table(patients, source=source, seed=seed)
    return table.assign(target=(table["label"] == "positive").astype("int64"))


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Grey noise, uint8 [height, width]."""
    return np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)


def write_images(root: Path, table: pd.DataFrame, height: int = 40, width: int = 50) -> None:
    """Write a small image of its own for every row of ``table``."""
    for number, image in enumerate(table["image"]):
        path = root / image
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(height, width, number)).save(path)
