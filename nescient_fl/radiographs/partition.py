"""Which hospital holds which patients: partitions of a cohort into sites, all by patient.

A patient has one site. The rules work on a table with one row a patient, so no image of a patient can be at
two sites; ``splits.py`` then divides each site's patients into train, validation and test.
"""

from dataclasses import dataclass
from math import isfinite
from typing import Final, Literal, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd

from nescient_fl.errors import UserError
from nescient_fl.radiographs.splits import SPLITS, NotEnough, allot, split_patients
from nescient_fl.radiographs.table import patient_keys
from nescient_fl.seeds import derive_seed, numpy_generator

Kind = Literal["iid", "dirichlet", "quantity", "setting", "source"]

SETTINGS: Final = ("icu", "ward", "outpatient")
DEFAULT_ALPHA: Final = {"dirichlet": 0.5, "quantity": 1.0}
DIRICHLET_DRAWS: Final = 40
"""Draws of the label proportions before giving up on the minimum at every site."""


@dataclass(frozen=True)
class PartitionRule:
    """How to divide a cohort among ``clients`` sites.

    - ``iid``: every site is a small copy of the whole.
    - ``dirichlet``: label skew. For each label a site's share of its patients comes from a symmetric
      Dirichlet distribution with concentration ``alpha`` (default 0.5; smaller is more uneven).
    - ``quantity``: size skew. Site k gets a share of the patients proportional to k to the power ``-alpha``
      (default 1.0; 0 is even), labels as in the whole.
    - ``setting``: intensive care (AP with support devices), ward (AP without) and outpatients (PA), by the
      majority of a patient's images. More than three clients divide the settings into several sites each.
    - ``source``: each dataset has its own sites, in proportion to its patients.

    Every site has at least ``minimum_images`` images and ``minimum_positives`` positive ones, or
    ``assign_sites`` refuses. Raises ``UserError`` where the values do not go together.
    """

    kind: Kind = "iid"
    clients: int = 5
    alpha: float | None = None
    seed: int = 0
    minimum_images: int = 40
    minimum_positives: int = 8

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise UserError(f"--partition {self.kind} is unknown; choose one of {', '.join(get_args(Kind))}")
        if self.clients < 1:
            raise UserError(f"--clients {self.clients} must be 1 or more")
        if self.kind == "setting" and self.clients < len(SETTINGS):
            raise UserError(
                f"--partition setting has {len(SETTINGS)} settings ({', '.join(SETTINGS)}), so --clients"
                f" {self.clients} is too few; use --clients {len(SETTINGS)} or more, or another --partition"
            )
        if self.alpha is not None and not (isfinite(self.alpha) and self.alpha >= 0):
            raise UserError(f"--alpha {self.alpha} must be a number, 0 or more")
        if self.kind == "dirichlet" and self.alpha == 0:
            raise UserError("--alpha 0 has no Dirichlet distribution; use a number above 0, such as 0.5")
        if self.minimum_images < 0 or self.minimum_positives < 0:
            raise UserError("the fewest images and positives a site may have cannot be negative")

    @property
    def concentration(self) -> float:
        """``alpha``, or the default for this kind (0 where it plays no part)."""
        return DEFAULT_ALPHA.get(self.kind, 0.0) if self.alpha is None else self.alpha


def assign_sites(cohort: pd.DataFrame, rule: PartitionRule) -> pd.DataFrame:
    """Assign every image of a cohort's table to a site and a split.

    Returns one row an image, in the cohort's order and with its index: ``source``, ``image``, ``patient``,
    ``site`` (a name such as ``site-3``, ``icu-1``; sorted names are the sites' order) and ``split``
    (``train``, ``validation`` or ``test``). A patient has one site and one split; every split of every site
    has a positive and a negative image. The assignment depends on the rows and the seed, not on the order
    of the rows.

    Raises ``UserError`` that names the site, what it has, and which option to turn, when the cohort cannot
    supply ``rule.clients`` sites of the asked size.
    """
    keys = patient_keys(cohort)
    patients = _patient_table(cohort, keys)
    if rule.clients > len(patients):
        raise UserError(
            f"--clients {rule.clients} is more than the {len(patients):,} patients of the cohort; use fewer"
            f" clients or more images"
        )
    sites = _draw_sites(patients, rule)
    _check_minimum(patients, sites, rule)
    splits = pd.Series("", index=patients.index, dtype=str)
    for site, members in patients.groupby(sites, sort=True):
        try:
            chosen = split_patients(members, numpy_generator(rule.seed, "split", rule.kind, str(site)))
        except NotEnough as error:
            raise UserError(f"{site} has {error}; {_what_to_turn(rule)}") from error
        splits.loc[members.index] = chosen
    frame = cohort[["source", "image", "patient"]].copy()
    frame["site"] = keys.map(sites)
    frame["split"] = keys.map(splits)
    return frame


def partition_summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Count what each site has, for a table or a picture.

    ``frame`` is a cohort's table with ``site`` and ``split`` beside its columns. Returns one row for each
    site and split, and one for each site with the split ``all``, in order of site: int64 ``images``,
    ``patients``, ``positives``, ``ap``, ``pa``, ``devices`` (all but patients count images).
    """
    counted = pd.DataFrame(
        {
            "site": frame["site"].astype(str),
            "split": frame["split"].astype(str),
            "images": 1,
            "patients": patient_keys(frame),
            "positives": frame["target"].astype("int64"),
            "ap": (frame["view"] == "AP").astype("int64"),
            "pa": (frame["view"] == "PA").astype("int64"),
            "devices": frame["devices"].astype("int64"),
        }
    )
    both = pd.concat([counted, counted.assign(split="all")], ignore_index=True)
    rules = {c: "nunique" if c == "patients" else "sum" for c in counted.columns[2:]}
    counts = both.groupby(["site", "split"]).agg(rules).reset_index()
    order = {split: place for place, split in enumerate([*SPLITS, "all"])}
    counts = counts.sort_values(["site", "split"], key=lambda c: c.map(order) if c.name == "split" else c)
    return counts.reset_index(drop=True)


def _patient_table(cohort: pd.DataFrame, keys: "pd.Series[str]") -> pd.DataFrame:
    """One row a patient, indexed by key and sorted: source, images, positives, label, setting."""
    icu = (cohort["view"] == "AP") & cohort["devices"]
    ward = (cohort["view"] == "AP") & ~cohort["devices"]
    counts = pd.DataFrame(
        {
            "images": np.ones(len(cohort), dtype=np.int64),
            "positives": cohort["target"].astype("int64"),
            "icu": icu.astype("int64"),
            "ward": ward.astype("int64"),
            "outpatient": (~icu & ~ward).astype("int64"),
        }
    )
    patients = counts.groupby(keys, sort=True).sum()
    patients["source"] = cohort["source"].groupby(keys, sort=True).first()
    # A tie goes to the lesion, and to the setting with the sicker patients.
    patients["label"] = (2 * patients["positives"] >= patients["images"]).astype("int64")
    patients["setting"] = patients[list(SETTINGS)].idxmax(axis="columns")
    return patients


def _draw_sites(patients: pd.DataFrame, rule: PartitionRule) -> "pd.Series[str]":
    """Return the site's name for each patient, with the index of ``patients``."""
    if rule.kind == "dirichlet":
        return _dirichlet(patients, rule)
    if rule.kind == "setting":
        return _grouped(patients, patients["setting"], SETTINGS, rule)
    if rule.kind == "source":
        sources = tuple(sorted(patients["source"].unique()))
        if len(sources) < 2:
            raise UserError(
                f"--partition source needs two datasets or more and there is only {sources[0]};"
                f" name another folder or use another --partition"
            )
        if rule.clients < len(sources):
            raise UserError(
                f"--partition source has {len(sources)} datasets, so --clients {rule.clients} is too few;"
                f" use --clients {len(sources)} or more"
            )
        return _grouped(patients, patients["source"], sources, rule)
    shares = np.arange(1, rule.clients + 1, dtype=np.float64) ** -rule.concentration
    return _deal(patients, shares if rule.kind == "quantity" else np.ones(rule.clients), "site", rule)


def _names(prefix: str, count: int) -> list[str]:
    """Number the sites from 1, with zeros in front so that sorted names are in the order of numbers."""
    return [f"{prefix}-{number:0{len(str(count))}d}" for number in range(1, count + 1)]


def _deal(
    patients: pd.DataFrame, shares: npt.NDArray[np.float64], prefix: str, rule: PartitionRule
) -> "pd.Series[str]":
    """Deal patients to sites by share, those with a positive image and those without each by themselves."""
    generator = numpy_generator(rule.seed, "partition", rule.kind, prefix)
    sites = np.zeros(len(patients), dtype=np.int64)
    order = np.arange(len(shares))
    with_positive = patients["positives"].to_numpy() > 0
    for stratum in (with_positive, ~with_positive):
        members = generator.permutation(np.flatnonzero(stratum))
        # What is left over after rounding goes to the last sites in one stratum, the first in the other.
        counts = np.empty(len(shares), dtype=np.int64)
        counts[order] = allot(len(members), shares[order])
        sites[members] = np.repeat(np.arange(len(shares)), counts)
        order = order[::-1]
    names = np.array(_names(prefix, len(shares)), dtype=object)
    return pd.Series(names[sites], index=patients.index, dtype=str)


def _grouped(
    patients: pd.DataFrame, group: "pd.Series[str]", groups: tuple[str, ...], rule: PartitionRule
) -> "pd.Series[str]":
    """Give each group one site, and further ones in proportion to its patients; deal within each group."""
    sizes = np.array([int((group == name).sum()) for name in groups])
    for name, size in zip(groups, sizes, strict=True):
        if size == 0:
            raise UserError(f"no patient of the cohort is mostly {name} ({_MEANING[name]}); use another --partition")
    counts = np.ones(len(groups), dtype=np.int64)
    while counts.sum() < rule.clients:
        counts[int(np.argmax(sizes / (counts + 1)))] += 1
    sites = pd.Series("", index=patients.index, dtype=str)
    for name, count in zip(groups, counts, strict=True):
        members = patients[group == name]
        sites.loc[members.index] = _deal(members, np.ones(int(count)), name, rule)
    return sites


_MEANING: Final = {
    "icu": "AP with support devices, which this dataset may not record",
    "ward": "AP without support devices",
    "outpatient": "PA",
}


def _dirichlet(patients: pd.DataFrame, rule: PartitionRule) -> "pd.Series[str]":
    """Draw label proportions until every site has the minimum, and return the last draw in any case."""
    # Slow to import, so only where it is asked for.
    from datasets import Dataset
    from flwr_datasets.partitioner import DirichletPartitioner

    # The partitioner cuts each label's patients in the order they come, so the order must mean nothing.
    generator = numpy_generator(rule.seed, "partition", rule.kind)
    shuffled = generator.permutation(len(patients))
    rows = Dataset.from_dict({"place": shuffled, "label": patients["label"].to_numpy()[shuffled]})
    names = np.array(_names("site", rule.clients), dtype=object)
    numbers = np.zeros(len(patients), dtype=np.int64)
    for draw in range(DIRICHLET_DRAWS):
        partitioner = DirichletPartitioner(
            num_partitions=rule.clients,
            partition_by="label",
            alpha=rule.concentration,
            min_partition_size=0,
            self_balancing=False,
            shuffle=False,
            seed=derive_seed(rule.seed, "partition", rule.kind, draw),
        )
        partitioner.dataset = rows
        for number in range(rule.clients):
            places = partitioner.load_partition(number).with_format("numpy")["place"][:]
            numbers[np.asarray(places, dtype=np.int64)] = number  # An empty partition has no type.
        sites = pd.Series(names[numbers], index=patients.index, dtype=str)
        if _enough(patients, sites, rule):
            return sites
    return sites


def _site_counts(patients: pd.DataFrame, sites: "pd.Series[str]") -> pd.DataFrame:
    return patients.groupby(sites, sort=True)[["images", "positives"]].sum()


def _enough(patients: pd.DataFrame, sites: "pd.Series[str]", rule: PartitionRule) -> bool:
    counts = _site_counts(patients, sites)
    if len(counts) < rule.clients:
        return False
    if (counts["images"] < rule.minimum_images).any() or (counts["positives"] < rule.minimum_positives).any():
        return False
    try:
        for _, members in patients.groupby(sites, sort=True):
            split_patients(members, np.random.default_rng(0))
    except NotEnough:
        return False
    return True


def _check_minimum(patients: pd.DataFrame, sites: "pd.Series[str]", rule: PartitionRule) -> None:
    counts = _site_counts(patients, sites)
    if len(counts) < rule.clients:
        raise UserError(f"{rule.clients - len(counts)} of the sites would have no patient; {_what_to_turn(rule)}")
    short = counts[(counts["images"] < rule.minimum_images) | (counts["positives"] < rule.minimum_positives)]
    if len(short):
        worst = int(short["images"].argmin())
        site, images, positives = short.index[worst], *(int(count) for count in short.iloc[worst])
        raise UserError(
            f"{site} would have {images:,} images, {positives:,} of them positive; each site needs"
            f" {rule.minimum_images} and {rule.minimum_positives}; {_what_to_turn(rule)}"
        )


def _what_to_turn(rule: PartitionRule) -> str:
    fewer = f"use fewer --clients than {rule.clients}"
    if rule.kind == "dirichlet":
        higher = f"an --alpha above {rule.concentration:g}"
        return f"{DIRICHLET_DRAWS} draws gave no better; {fewer}, {higher}, or more images"
    if rule.kind == "quantity":
        return f"{fewer}, an --alpha below {rule.concentration:g}, or more images"
    if rule.kind == "iid":
        return f"{fewer} or more images"
    return f"{fewer}, more images, or --partition iid"
