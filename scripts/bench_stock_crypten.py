"""One process of stock CrypTen 0.4.1, as it comes, scoring images with the lesion network; for bench_encrypted.py.

    python scripts/bench_stock_crypten.py --rank 0 --rendezvous tcp://127.0.0.1:4000 --provider TFP --batch 8

Rank 0 owns the model, rank 1 the images, and rank 2 is the trusted third party where the provider is TTP. Rank 1
prints what it measured as one line of JSON. Nothing of the product's own cryptography is imported: the modules are
CrypTen's, the transport is gloo, the settings are CrypTen's defaults.
"""

import argparse
import json
import os
import time
from typing import Any

import torch
from bench_common import plain_network

from nescient_fl.mpc import crypten_alias  # noqa: F401 - before crypten

import crypten  # isort: skip
import crypten.nn  # isort: skip


def stock_network(plain: torch.nn.Sequential) -> Any:
    """Return the network as CrypTen's own modules, with the weights of ``plain``, in clear still."""
    nn = crypten.nn
    network = nn.Sequential(
        nn.Conv2d(1, 8, 10, stride=3),
        nn.ReLU(),
        nn.MaxPool2d(8),
        nn.Flatten(),
        nn.Linear(1560, 64),
        nn.ReLU(),
        nn.Linear(64, 32),
        nn.ReLU(),
        nn.Linear(32, 1),
    )
    weights = dict(plain.state_dict())
    with torch.no_grad():
        for name, value in network.named_parameters():
            value.copy_(weights.pop(name))
    assert not weights
    return network


def measure(batch: int, repeats: int, warm: int, seed: int) -> dict[str, Any]:
    """Score ``warm + repeats`` batches under encryption, and each in clear. The network stays encrypted throughout."""
    plain = plain_network(seed=seed)
    network = stock_network(plain).encrypt(src=0)
    network.eval()
    communicator = crypten.communicator.get()
    generator = torch.Generator().manual_seed(seed)
    seconds, errors = [], []
    for number in range(warm + repeats):
        images = torch.randn(batch, 1, 320, 390, generator=generator)
        communicator.barrier()
        communicator.reset_communication_stats()
        started = time.monotonic()
        logits = network(crypten.cryptensor(images, src=1)).get_plain_text(dst=1)
        if number < warm:
            continue
        seconds.append(time.monotonic() - started)
        if communicator.get_rank() == 1:
            with torch.inference_mode():
                errors.append(float((logits - plain(images)).abs().max()))
    traffic = communicator.get_communication_stats()
    # CrypTen counts what a party sends and what it receives; the two are alike.
    return {
        "seconds": seconds,
        "errors": errors,
        "rounds": traffic["rounds"],
        "bytes_sent": traffic["bytes"] / 2,
    }


def main() -> None:
    """Take one rank's part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--rendezvous", required=True, help="tcp://HOST:PORT of rank 0")
    parser.add_argument("--provider", choices=("TFP", "TTP"), default="TFP")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--warm", type=int, default=1, help="batches before those that are timed")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    os.environ |= {
        "RANK": str(arguments.rank),
        "WORLD_SIZE": "2",
        "RENDEZVOUS": arguments.rendezvous,
        "DISTRIBUTED_BACKEND": "gloo",
    }
    torch.set_num_threads(1)
    crypten.cfg.mpc.provider = arguments.provider
    crypten.cfg.communicator.verbose = True  # counts rounds and bytes
    if arguments.rank == 2:
        crypten.mpc.provider.TTPServer()
        return
    crypten.init()
    found = measure(arguments.batch, arguments.repeats, arguments.warm, arguments.seed)
    if arguments.rank == 1:
        print(json.dumps(found), flush=True)
    crypten.uninit()


if __name__ == "__main__":
    main()
