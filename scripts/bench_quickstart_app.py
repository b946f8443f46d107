"""A federation as a newcomer to Flower would write it, to compare with: images a second over rounds.

    python scripts/bench_quickstart_app.py --partition FILE.json [--rounds 4] [--epochs 1]

Shaped like Flower's PyTorch quickstart: each round each client builds a Dataset of JPEGs opened with PIL and
a DataLoader, makes the network, trains it and sends it back; FedAvg; one processor a client on Ray. Only the
radiographs, the network, Adam and the batch size are those of the study's default recipe. The partition file
is a list of clients, each a list of [path, target]. Prints JSON: seconds from the end of one round to that of
the next, for the rounds after the first.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_common import plain_network
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from nescient_fl.lesion.recipe import choose_recipe

RECIPE = choose_recipe("default")


class Radiographs(Dataset[tuple[Tensor, Tensor]]):
    """JPEGs and their targets; opened, decoded and brought to 320 x 390 whenever they are asked for."""

    def __init__(self, rows: list[tuple[str, int]]) -> None:
        from torchvision.transforms import CenterCrop, Compose, Normalize, ToTensor

        self.rows = rows
        # Padding or cutting to size is the cheapest way there; resizing would be slower.
        self.transforms = Compose([CenterCrop((320, 390)), ToTensor(), Normalize((0.5,), (0.25,))])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        path, target = self.rows[index]
        with Image.open(path) as image:
            return self.transforms(image.convert("L")), torch.tensor([float(target)])


def load_data(partition: Path, client: int) -> DataLoader[tuple[Tensor, Tensor]]:
    """Return a loader of one client's training images."""
    rows = json.loads(partition.read_text())[client]
    return DataLoader(Radiographs(rows), batch_size=RECIPE.batch_size, shuffle=True)


def train(network: nn.Module, loader: DataLoader[tuple[Tensor, Tensor]], epochs: int) -> float:
    """Train in place; return the mean loss of a batch."""
    criterion = nn.BCEWithLogitsLoss()
    optimiser = torch.optim.Adam(network.parameters(), lr=RECIPE.learning_rate, weight_decay=RECIPE.weight_decay)
    network.train()
    running = 0.0
    for _ in range(epochs):
        for images, targets in loader:
            optimiser.zero_grad()
            loss = criterion(network(images), targets)
            torch.autograd.backward(loss)
            optimiser.step()
            running += loss.item()
    return running / (epochs * len(loader))


def make_client(partition: Path, epochs: int) -> ClientApp:
    """Make the ClientApp."""
    app = ClientApp()

    @app.train()
    def take_round(message: Message, context: Context) -> Message:
        network = plain_network(seed=0)
        network.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
        loader = load_data(partition, int(context.node_config["partition-id"]))
        loss = train(network, loader, epochs)
        metrics = MetricRecord({"train_loss": loss, "num-examples": len(loader.dataset)})  # type: ignore[arg-type]
        arrays = ArrayRecord(network.state_dict())
        return Message(content=RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)

    return app


def make_server(clients: int, rounds: int, ends: list[float], losses: list[float]) -> ServerApp:
    """Make the ServerApp; it notes when each round ended, and its loss at the end."""
    app = ServerApp()

    @app.main()
    def conduct(grid: Grid, context: Context) -> None:  # noqa: ARG001 - Flower's signature
        def note(number: int, arrays: ArrayRecord) -> MetricRecord | None:  # noqa: ARG001
            ends.append(time.perf_counter())
            return None

        strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=clients, min_available_nodes=clients)
        result = strategy.start(
            grid, ArrayRecord(plain_network(seed=0).state_dict()), num_rounds=rounds, evaluate_fn=note
        )
        losses.extend(float(str(m["train_loss"])) for m in result.train_metrics_clientapp.values())

    return app


def measure(partition: Path, rounds: int, epochs: int) -> dict[str, Any]:
    """Run the app and return what the module's docstring promises."""
    clients = json.loads(partition.read_text())
    ends: list[float] = []
    losses: list[float] = []
    run_simulation(
        server_app=make_server(len(clients), rounds, ends, losses),
        client_app=make_client(partition, epochs),
        num_supernodes=len(clients),
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )
    if len(losses) != rounds or not np.isfinite(losses).all():
        raise RuntimeError(f"the app did not train in all of {rounds} rounds: {losses}")
    return {
        "images_per_round": sum(map(len, clients)) * epochs,
        "seconds": np.diff(ends[1:]).tolist(),
        "losses": losses,
    }


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--partition", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=1)
    arguments = parser.parse_args()
    print(json.dumps(measure(arguments.partition, arguments.rounds, arguments.epochs)))


if __name__ == "__main__":
    main()
