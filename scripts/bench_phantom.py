"""How fast the phantom is written: images a second with one worker and with two.

python scripts/bench_phantom.py [--images 480]
"""

import argparse
import tempfile
import time
from pathlib import Path

from nescient_fl.radiographs.phantom import write_phantom


def seconds_to_write(images: int, workers: int) -> float:
    """Write a phantom into a fresh temporary folder and return the seconds it took."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        write_phantom(Path(folder) / "phantom", images, seed=7, workers=workers)
        return time.perf_counter() - started


def main() -> None:
    """Print the rates, their ratio, and what 2,400 images would take."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--images", type=int, default=480)
    images = parser.parse_args().images
    seconds_to_write(20, 1)  # imports and caches are nobody's rate
    rates = {workers: images / seconds_to_write(images, workers) for workers in (1, 2)}
    for workers, rate in rates.items():
        print(f"{workers} worker{'s' * (workers > 1)}: {rate:6.1f} images/s, 2,400 in {2400 / rate:5.1f} s")
    print(f"ratio: {rates[2] / rates[1]:.2f}")


if __name__ == "__main__":
    main()
