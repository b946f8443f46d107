"""One party's material of all its deliveries, in a folder."""

import contextlib
import json
from dataclasses import asdict
from pathlib import Path

from nescient_fl.mpc.errors import MaterialError
from nescient_fl.mpc.inference.material import Delivery, Material
from nescient_fl.mpc.inference.store import MaterialStore
from nescient_fl.study.run_folder import write_json

_ABOUT = "delivery.json"


class Stock:
    """Deliveries in a folder; each batch of them can be had once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def deliveries(self, plan: str) -> list[MaterialStore]:
        """Return the deliveries for a plan that have batches left."""
        found = []
        for about in sorted(self._folder.glob(f"*/{_ABOUT}")):
            try:
                delivery = Delivery(**json.loads(about.read_text()))
            except (ValueError, TypeError, MaterialError):
                continue  # one that was cut off as it was begun
            store = MaterialStore(self._folder, delivery)
            store.discard()
            if delivery.plan == plan and store.numbers():
                found.append(store)
        return found

    def delivery(self, plan: str, name: str) -> MaterialStore:
        """Return one delivery. Raises MaterialError when it is used up or was never here."""
        for store in self.deliveries(plan):
            if store.delivery.name == name:
                return store
        raise MaterialError("the delivery is used up, or was never here")

    def begin(self, delivery: Delivery) -> MaterialStore:
        """Make room for a delivery; every batch and the seed of masks are added to what is returned."""
        folder = self._folder / delivery.name
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_json(folder / _ABOUT, asdict(delivery))
        return MaterialStore(self._folder, delivery)

    def add(self, material: Material) -> None:
        """Store a batch, and begin its delivery where it is the first; one that is or was here stays as it is."""
        delivery = material.delivery
        store = MaterialStore(self._folder, delivery)
        if store.finished:
            return
        if not (self._folder / delivery.name / _ABOUT).exists():
            self.begin(delivery)
        with contextlib.suppress(MaterialError):
            store.add(material)
