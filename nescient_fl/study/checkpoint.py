"""Tensors and state in one file: a checkpoint is either whole on disk or not there."""

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
    """Write groups of named tensors and a JSON-able state atomically, in the safetensors format."""
    # Copied: one tensor may stand in two groups, which the format refuses.
    tensors = {
        f"{group}/{name}": value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for group, values in groups.items()
        for name, value in values.items()
    }
    write_atomically(path, save(tensors, metadata={"state": json.dumps(state, allow_nan=False)}))


def load_checkpoint(path: Path) -> tuple[dict[str, dict[str, Tensor]], Any]:
    """Read what ``save_checkpoint`` wrote. Raises UserError naming the file when it is damaged."""
    groups: dict[str, dict[str, Tensor]] = {}
    try:
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 - a safetensors file is not a mapping
                group, name = key.split("/", 1)
                groups.setdefault(group, {})[name] = file.get_tensor(key)
            return groups, json.loads(file.metadata()["state"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"checkpoint {path} cannot be read ({error}): remove it and run again") from None
