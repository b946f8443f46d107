"""Owner and dealer as threads, over real TLS; the clinic is the test itself."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nescient_fl.mpc.keys import MemberKeys, load_keys, new_keys, public_part
from nescient_fl.mpc.roster import Roster
from nescient_fl.serving.clinic import Inputs, Scored, score
from nescient_fl.serving.dealing import DealerDesk
from nescient_fl.serving.desk import Desk
from nescient_fl.serving.messages import Card
from nescient_fl.serving.owner import OwnerDesk
from nescient_fl.serving.plans import ServedModel
from nescient_fl.serving.settings import state_folder
from nescient_fl.serving.tuning import TuningDesk

WAIT = 60.0


@dataclass
class Roles:
    """Keys and a roster of an owner, two clinics and a dealer, and what the standing two say."""

    folder: Path
    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        members = []
        for name, role in (("owner", "owner"), ("dealer", "dealer"), ("clinic", "clinic"), ("other", "clinic")):
            address = None if role == "clinic" else f"unix:{self.folder / name}.s"
            members.append(public_part(new_keys(self.folder / name, name, role), address))
        self.roster = Roster("test", 1, tuple(members), 3).check_complete()

    def keys(self, name: str) -> MemberKeys:
        return load_keys(self.folder / name)

    def state(self, name: str) -> Path:
        return state_folder(self.keys(name))

    def owner_desk(self, model: ServedModel, limit: int = 100) -> OwnerDesk:
        return OwnerDesk(self.keys("owner"), self.roster, model, self.state("owner"), limit, self.said.append)

    @contextmanager
    def standing(self, name: str, desk: OwnerDesk | DealerDesk | TuningDesk) -> Iterator[None]:
        """Have a role serve while the block runs."""
        own = next(member for member in self.roster.members if member.name == name)
        expected = [member for member in self.roster.members if member.name != name]
        stop = threading.Event()
        standing = Desk(self.keys(name), self.roster, own, expected, desk.answer, self.said.append)
        thread = threading.Thread(target=standing.run, args=(stop,))
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(WAIT)
            assert not thread.is_alive()

    @contextmanager
    def serving(self, model: ServedModel, limit: int = 100) -> Iterator[None]:
        """Have owner and dealer serve while the block runs."""
        with (
            self.standing("dealer", DealerDesk(self.roster, self.state("dealer"), self.said.append)),
            self.standing("owner", self.owner_desk(model, limit)),
        ):
            yield

    def score(self, images: NDArray[np.float32], clinic: str = "clinic", batch: int = 1, **options: Any) -> Scored:
        """Have images float32 [n, 1, 320, 390] scored as a clinic."""

        def inputs(card: Card) -> Inputs:
            assert card.standardise
            return Inputs(lambda numbers: images[numbers], np.arange(len(images)))

        keys: Any = self.keys(clinic)
        return score(keys, self.roster, "owner", inputs, self.state(clinic), batch, **options)
