"""One hospital's folder: its own images' pixels, labels and split, and nobody else's."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from nescient_fl.errors import UserError
from nescient_fl.radiographs.cache import FORMAT, PixelCache, open_cache
from nescient_fl.study.run_folder import write_json
from sites.site import SiteData, load_site_data

_PIXELS, _PARTITION = "pixels", "partition.csv"


def write_site_folder(folder: Path, cache: PixelCache, partition: pd.DataFrame, name: str) -> None:
    """Write one site's rows of a cache and of a partition, in their order, to a new folder of mode 0700.

    partition has one row an image, in the order of the cache, with ``site``, ``split`` and ``target``. A site
    trained from its folder gives bit for bit what it gives in a simulation.
    """
    mine = (partition["site"] == name).to_numpy()
    rows = np.flatnonzero(mine)
    pixels = folder / _PIXELS
    pixels.mkdir(parents=True, mode=0o700)
    folder.chmod(0o700)
    shape = (len(rows), *cache.pixels.shape[1:])
    own = np.lib.format.open_memmap(pixels / "pixels.npy", mode="w+", dtype=np.uint8, shape=shape)
    for slot, row in enumerate(rows):
        own[slot] = cache.pixels[row]
    own.flush()
    del own
    table = cache.table.iloc[rows].assign(mean=cache.mean[rows], std=cache.std[rows])
    table.to_csv(pixels / "table.csv", index=False, float_format="%.9g", lineterminator="\n")
    sizes = {file: (pixels / file).stat().st_size for file in ("pixels.npy", "table.csv")}
    record = {"format": FORMAT, "key": f"{cache.key}/{name}", "geometry": cache.geometry, "images": len(rows)}
    write_json(pixels / "cache.json", {**record, "bytes": sizes, "rejected": []})
    columns = ["source", "image", "patient", "site", "split", "target"]
    partition[mine][columns].to_csv(folder / _PARTITION, index=False, lineterminator="\n")


def open_site_folder(folder: Path, name: str) -> SiteData:
    """Open a site's folder. Raises UserError when it is damaged, empty, or holds images of another site."""
    try:
        partition = pd.read_csv(folder / _PARTITION, dtype={"image": str, "patient": str, "site": str})
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} is no prepared folder of a site ({error})") from None
    cache = open_cache(folder / _PIXELS)
    if len(cache.pixels) != len(partition):
        raise UserError(f"{folder} is damaged: its pixels and its partition disagree")
    strangers = sorted(set(partition["site"]) - {name})
    if strangers or partition.empty:
        raise UserError(f"{folder} holds images of {', '.join(strangers) or 'nobody'}, not of {name} alone")
    return load_site_data(cache, partition, name)


def describe_site_folder(folder: Path) -> dict[str, int]:
    """Return how many images each split of a site's folder has."""
    partition = pd.read_csv(folder / _PARTITION)
    counts: dict[str, int] = json.loads(partition["split"].value_counts().to_json())
    return counts
