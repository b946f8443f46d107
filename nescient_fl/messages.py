"""What sites and the coordinator say to each other: record names, fields, and their one meaning.

A round is one exchange. The coordinator sends the global model with a ``RoundOrder``; a site scores that
model on its own validation patients, trains it, and answers with its update and a ``SiteReport``. With
``train`` false (after the last round) the site only scores. ``QUERY`` asks a node who it is.
"""

import json
from dataclasses import asdict, dataclass

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from nescient_fl.actions import DEALER as DEALER
from nescient_fl.actions import PARTY as PARTY
from nescient_fl.actions import SITE as SITE
from nescient_fl.lesion.counts import ScoreCounts
from nescient_fl.lesion.network import Weights

PROTOCOL = 2

ARRAYS = "arrays"
ORDER = "order"
REPORT = "report"
COUNTS = "counts"
NODE = "node"


@dataclass(frozen=True)
class RoundOrder:
    """What the coordinator asks of a site in one round.

    Attributes:
        round: the number of the round, from 1; the model sent is the one of round - 1.
        rounds: how many rounds the study has.
        local_epochs: epochs to train on the site's own images.
        seed: the study's seed.
        recipe: the recipe's values as JSON, so that every site trains alike.
        train: whether to train, or only to score the model.
    """

    round: int
    rounds: int
    local_epochs: int
    seed: int
    recipe: str
    train: bool


@dataclass(frozen=True)
class SiteReport:
    """What a site says beside its update.

    Attributes:
        site: the site's name.
        images: how many training images the update was made from: its weight in the average.
        loss, accuracy: means over the last local epoch, while training.
        seconds: time the site worked on this round.
    """

    site: str
    images: int
    loss: float
    accuracy: float
    seconds: float


def order_content(order: RoundOrder, weights: Weights) -> RecordDict:
    """Pack the global model and an order."""
    record = ConfigRecord({"protocol": PROTOCOL, "json": order_json(order)})
    return RecordDict({ARRAYS: _arrays(weights), ORDER: record})


def order_json(order: RoundOrder) -> str:
    """Return an order as it is sent, which sealed answers to it are bound to."""
    return json.dumps(asdict(order))


def read_order(content: RecordDict) -> tuple[RoundOrder, Weights]:
    """Unpack an order and the global model. Raises ValueError for another version of the protocol."""
    record = content.config_records[ORDER]
    if record["protocol"] != PROTOCOL:
        raise ValueError(f"the coordinator speaks protocol {record['protocol']!r}, this site {PROTOCOL}")
    return RoundOrder(**json.loads(str(record["json"]))), _weights(content)


def report_content(report: SiteReport, counts: ScoreCounts, update: Weights | None) -> RecordDict:
    """Pack a site's answer; update is None when the site only scored."""
    tallies = {
        "positives": torch.from_numpy(counts.positives),
        "negatives": torch.from_numpy(counts.negatives),
    }
    record = ConfigRecord({"json": json.dumps({**asdict(report), "loss_sum": counts.loss_sum})})
    content = RecordDict({REPORT: record, COUNTS: ArrayRecord(tallies)})
    if update is not None:
        content[ARRAYS] = _arrays(update)
    return content


def read_report(content: RecordDict) -> tuple[SiteReport, ScoreCounts, Weights | None]:
    """Unpack a site's answer."""
    fields = json.loads(str(content.config_records[REPORT]["json"]))
    loss_sum = float(fields.pop("loss_sum"))
    tallies = content.array_records[COUNTS].to_torch_state_dict()
    counts = ScoreCounts(
        tallies["positives"].numpy().astype(np.int64), tallies["negatives"].numpy().astype(np.int64), loss_sum
    )
    return SiteReport(**fields), counts, _weights(content) if ARRAYS in content.array_records else None


def node_content(name: str, role: str = SITE) -> RecordDict:
    """Pack a node's answer to the question who it is: its name, and site, party or dealer."""
    return RecordDict({NODE: ConfigRecord({"name": name, "role": role, "protocol": PROTOCOL})})


def read_node(content: RecordDict) -> tuple[str, str]:
    """Unpack a node's name and role. Raises ValueError for another version of the protocol."""
    record = content.config_records[NODE]
    if record["protocol"] != PROTOCOL:
        raise ValueError(f"a node speaks protocol {record['protocol']!r}, not {PROTOCOL}")
    return str(record["name"]), str(record["role"])


def payload_bytes(content: RecordDict) -> int:
    """Return the size of a message's content in bytes: arrays, and text as UTF-8."""
    arrays = sum(len(a.data) for record in content.array_records.values() for a in record.values())
    texts = sum(
        len(name.encode()) + (len(value) if isinstance(value, bytes) else len(str(value).encode()))
        for record in content.config_records.values()
        for name, value in record.items()
    )
    return arrays + texts


def _arrays(weights: Weights) -> ArrayRecord:
    return ArrayRecord(dict(weights))


def _weights(content: RecordDict) -> Weights:
    return dict(content.array_records[ARRAYS].to_torch_state_dict())
