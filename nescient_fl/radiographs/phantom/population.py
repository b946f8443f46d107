"""Who is in the phantom: patients, their studies, and a row of findings for every image.

A case-enriched sample: about as many images carry a lesion as do not, which is what is left of CheXpert after
its cohort is balanced. Within a class, view, devices, sex and age follow the real table's rounded rates, so
the metadata say as much about the label as they do there, and no more.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from nescient_fl.seeds import numpy_generator

Code = Literal["1.0", "0.0", "-1.0", ""]
Setting = Literal["icu", "ward", "outpatient"]

OBSERVATIONS = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)

# Share of images with each code for Lung Lesion. Uncertain images and the blank images of patients with a
# lesion leave the corrected cohort; what stays is balanced.
CODE_SHARES: dict[Code, float] = {"1.0": 0.45, "0.0": 0.05, "-1.0": 0.07, "": 0.43}
_BLANK_IN_POSITIVE_PATIENT = 0.03


@dataclass(frozen=True)
class ClassRates:
    """Rounded rates of one code's frontal images in CheXpert: P(view, devices), P(male), age."""

    ap_bare: float
    ap_devices: float
    pa_bare: float
    pa_devices: float
    male: float
    age_mean: float
    age_std: float


RATES: dict[Code, ClassRates] = {
    "1.0": ClassRates(0.378, 0.321, 0.234, 0.067, 0.57, 62.3, 17.0),
    "0.0": ClassRates(0.220, 0.132, 0.554, 0.094, 0.61, 57.6, 17.4),
    "-1.0": ClassRates(0.406, 0.269, 0.272, 0.053, 0.55, 66.0, 16.3),
    "": ClassRates(0.326, 0.529, 0.104, 0.041, 0.59, 60.6, 17.9),
}

# Rounded rates of the other observations (positive, negated, uncertain), with and without a lesion.
_OTHER: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "Enlarged Cardiomediastinum": ((0.05, 0.08, 0.06), (0.05, 0.08, 0.05)),
    "Cardiomegaly": ((0.07, 0.06, 0.03), (0.12, 0.04, 0.04)),
    "Lung Opacity": ((0.59, 0.01, 0.02), (0.49, 0.03, 0.02)),
    "Edema": ((0.11, 0.08, 0.05), (0.26, 0.08, 0.06)),
    "Consolidation": ((0.08, 0.12, 0.12), (0.07, 0.10, 0.13)),
    "Pneumonia": ((0.05, 0.01, 0.11), (0.02, 0.01, 0.08)),
    "Atelectasis": ((0.12, 0.00, 0.11), (0.16, 0.01, 0.16)),
    "Pneumothorax": ((0.11, 0.29, 0.02), (0.09, 0.25, 0.01)),
    "Pleural Effusion": ((0.36, 0.15, 0.05), (0.40, 0.13, 0.05)),
    "Pleural Other": ((0.03, 0.00, 0.01), (0.01, 0.00, 0.01)),
    "Fracture": ((0.04, 0.01, 0.00), (0.04, 0.01, 0.00)),
}
_NO_FINDING = 0.35  # of images with no positive and no uncertain finding
_DEVICES_NEGATED = 0.05  # of images without devices, the report says so

# Images a patient: P(at least k) = k ** -tail, which follows CheXpert's (half have one; the mean is near 3).
# Fewer of a patient's images name a lesion (1.4 on average), so those have a thinner tail.
_TAIL, _TAIL_NAMED, _MOST_IMAGES = 0.95, 1.75, 20
_KEEPS_SETTING = 0.75
_SECOND_VIEW = 0.02


@dataclass(frozen=True)
class ImagePlan:
    """One image to draw: where it goes, what its row says, and whether a lesion is to be seen in it."""

    patient: int
    study: int
    view_number: int
    sex: Literal["Male", "Female"]
    age: int
    view: Literal["AP", "PA"]
    devices: bool
    code: Code
    lesion: Literal["none", "present", "faint"]
    effusion: bool
    edema: bool
    cardiomegaly: bool
    findings: tuple[str, ...]

    @property
    def path(self) -> str:
        """The image's path below the dataset folder, POSIX."""
        return f"train/patient{self.patient:05d}/study{self.study}/view{self.view_number}_frontal.jpg"

    @property
    def setting(self) -> Setting:
        """Where in the hospital the image was taken."""
        if self.view == "PA":
            return "outpatient"
        return "icu" if self.devices else "ward"


def plan_population(images: int, seed: int) -> list[ImagePlan]:
    """Plan ``images`` images of as many patients as it takes, ordered by path."""
    rng = numpy_generator(seed, "phantom-population")
    codes = list(RATES)
    left = dict(zip(codes, _shares(images), strict=True))
    blank_with_lesion = round(images * _BLANK_IN_POSITIVE_PATIENT)
    drafts: list[list[Code]] = []
    for code in codes:
        while left[code] > 0:
            tail = _TAIL if code == "" else _TAIL_NAMED
            count = min(int(rng.random() ** (-1 / tail)), _MOST_IMAGES, left[code])
            left[code] -= count
            draft: list[Code] = [code] * count
            if code == "1.0" and blank_with_lesion > 0 and left[""] > 0 and rng.random() < 0.2:
                draft.insert(int(rng.integers(count + 1)), "")
                left[""] -= 1
                blank_with_lesion -= 1
            drafts.append(draft)
    order = rng.permutation(len(drafts))
    plans: list[ImagePlan] = []
    for number, place in enumerate(order, start=1):
        plans.extend(_plan_patient(number, drafts[place], numpy_generator(seed, "phantom-patient-plan", number)))
    return plans


def _shares(images: int) -> list[int]:
    counts = [int(images * share) for share in CODE_SHARES.values()]
    counts[-1] += images - sum(counts)
    return counts


def _plan_patient(number: int, codes: list[Code], rng: np.random.Generator) -> list[ImagePlan]:
    main: Code = "1.0" if "1.0" in codes else codes[0]
    rates = RATES[main]
    sex: Literal["Male", "Female"] = "Male" if rng.random() < rates.male else "Female"
    age = int(np.clip(rng.normal(rates.age_mean, rates.age_std), 18, 90))
    home = rng.random()
    plans: list[ImagePlan] = []
    study, view_number = 0, 1
    for code in codes:
        if study and rng.random() < _SECOND_VIEW:
            view_number += 1
        else:
            study, view_number = study + 1, 1
        draw = home if rng.random() < _KEEPS_SETTING else rng.random()
        view, devices = _view_and_devices(RATES[code], draw)
        findings = _findings(code, devices, rng)
        named = dict(zip(OBSERVATIONS, findings, strict=True))
        plans.append(
            ImagePlan(
                patient=number,
                study=study,
                view_number=view_number,
                sex=sex,
                age=age,
                view=view,
                devices=devices,
                code=code,
                lesion=_lesion(code, main, rng),
                effusion=named["Pleural Effusion"] == "1.0",
                edema=named["Edema"] == "1.0",
                cardiomegaly=named["Cardiomegaly"] == "1.0",
                findings=findings,
            )
        )
    return plans


def _view_and_devices(rates: ClassRates, draw: float) -> tuple[Literal["AP", "PA"], bool]:
    if draw < rates.ap_devices:
        return "AP", True
    if draw < rates.ap_devices + rates.ap_bare:
        return "AP", False
    return "PA", draw < rates.ap_devices + rates.ap_bare + rates.pa_devices


def _lesion(code: Code, main: Code, rng: np.random.Generator) -> Literal["none", "present", "faint"]:
    if code == "1.0":
        return "present"
    # A report that hedges is about something faint, or about nothing; one that is silent about a patient's
    # known lesion may have been written before it grew.
    if code == "-1.0" or (code == "" and main == "1.0"):
        return "faint" if rng.random() < 0.5 else "none"
    return "none"


def _findings(code: Code, devices: bool, rng: np.random.Generator) -> tuple[str, ...]:
    row = dict.fromkeys(OBSERVATIONS, "")
    row["Lung Lesion"] = code
    for name, both in _OTHER.items():
        positive, negated, uncertain = both[0 if code == "1.0" else 1]
        draw = rng.random()
        if draw < positive:
            row[name] = "1.0"
        elif draw < positive + negated:
            row[name] = "0.0"
        elif draw < positive + negated + uncertain:
            row[name] = "-1.0"
    if not {"1.0", "-1.0"} & set(row.values()) and rng.random() < _NO_FINDING:
        row["No Finding"] = "1.0"
    if devices:
        row["Support Devices"] = "1.0"
    elif rng.random() < _DEVICES_NEGATED:
        row["Support Devices"] = "0.0"
    return tuple(row.values())
