"""Small synthetic folders in the layouts of CheXpert and NIH, and where the real tables are."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

CHEXPERT_HEADER = (
    "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,"
    "Lung Lesion,Edema,Consolidation,Pneumonia,Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,"
    "Fracture,Support Devices"
)
NIH_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)


def chexpert_row(
    patient: int,
    lesion: str = "",
    *,
    study: int = 1,
    view: str = "AP",
    side: str = "Frontal",
    sex: str = "Female",
    age: str = "68",
    devices: str = "",
    path: str | None = None,
) -> str:
    """One line of CheXpert's ``train.csv``."""
    folder = f"CheXpert-v1.0-small/train/patient{patient:05d}/study{study}"
    path = f"{folder}/view1_{side.lower()}.jpg" if path is None else path
    return f"{path},{sex},{age},{side},{view},,,,,{lesion},,,,,,,,,{devices}"


def nih_row(
    image: str,
    findings: str = "No Finding",
    *,
    follow_up: int = 0,
    age: str = "58",
    sex: str = "M",
    view: str = "PA",
) -> str:
    """One line of NIH's ``Data_Entry_2017_v2020.csv``."""
    return f"{image},{findings},{follow_up},{int(image[:8])},{age},{sex},{view},2500,2048,0.171,0.171"


def write_csv(path: Path, header: str, rows: Sequence[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def write_image(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (32, 39), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def write_chexpert(folder: Path, rows: Sequence[str], images: bool = True) -> Path:
    """Write ``train.csv`` and, below ``folder``, the image of every row whose path has the usual form."""
    write_csv(folder / "train.csv", CHEXPERT_HEADER, rows)
    for number, row in enumerate(rows):
        path = row.split(",")[0].removeprefix("CheXpert-v1.0-small/")
        if images and path.startswith("train/"):
            write_image(folder / path, number)
    return folder


def write_nih(folder: Path, rows: Sequence[str], place: str = "images") -> Path:
    """Write ``Data_Entry_2017_v2020.csv`` and an image for every row."""
    write_csv(folder / "Data_Entry_2017_v2020.csv", NIH_HEADER, rows)
    for number, row in enumerate(rows):
        write_image(folder / place / row.split(",")[0], number)
    return folder


def packaged_table(name: str) -> Path:
    """A table that ships in the wheel of torchxrayvision, found without importing that package."""
    spec = importlib.util.find_spec("torchxrayvision")
    path = None if spec is None or spec.origin is None else Path(spec.origin).parent / "data" / name
    if path is None or not path.is_file():
        pytest.skip(f"torchxrayvision, which ships {name}, is not installed")
    return path


def by_image(table: pd.DataFrame, column: str) -> dict[str, object]:
    """A column of a table as a dictionary by image."""
    return dict(zip(table["image"], table[column].tolist(), strict=True))
