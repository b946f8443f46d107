"""Tensors and state in one file: a checkpoint is either whole on disk or not there."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from nescient_fl.errors import UserError
from nescient_fl.study.run_folder import write_atomically


def save_checkpoint(path: Path, groups: Mapping[str, Mapping[str, Tensor]], state: Any) -> None:
    """Write groups of named tensors and a JSON-able state atomically, in the safetensors format.

    Everything comes back as it was, the order of the names included.
    """
    # Copied: one tensor may stand in two groups, which the format refuses.
    tensors = {
        f"{group}/{name}": value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for group, values in groups.items()
        for name, value in values.items()
    }
    # The format sorts its tensors; the order of a network's parameters is kept beside them.
    text = json.dumps({"state": state, "order": list(tensors)}, allow_nan=False)
    write_atomically(path, save(tensors, metadata={"state": text, "sha256": _digest(tensors, text)}))


def load_checkpoint(path: Path) -> tuple[dict[str, dict[str, Tensor]], Any]:
    """Read what ``save_checkpoint`` wrote. Raises UserError naming the file when one bit of it is damaged."""
    groups: dict[str, dict[str, Tensor]] = {}
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - it is no mapping
            about = file.metadata()
        if about["sha256"] != _digest(tensors, about["state"]):
            raise ValueError("its content does not fit its digest")
        kept = json.loads(about["state"])
        for key in kept["order"]:
            group, name = key.split("/", 1)
            groups.setdefault(group, {})[name] = tensors[key]
        return groups, kept["state"]
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"checkpoint {path} cannot be read ({error}): remove it and run again") from None


def _digest(tensors: Mapping[str, Tensor], state: str) -> str:
    digest = hashlib.sha256(state.encode())
    for name, value in sorted(tensors.items()):
        digest.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()
