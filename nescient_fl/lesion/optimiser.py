"""Adam that leaves torch's compiler where it is.

torch's optimisers take care not to be compiled, and import the whole compiler to say so: a second and a half
and some 800 modules in every process that trains, for nothing where nothing is compiled. The same steps are
taken here without that; a test holds them equal, bit for bit.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch

_STEP: Callable[..., Any] = inspect.unwrap(torch.optim.Adam.step)


class LeanAdam(torch.optim.Adam):
    """torch's Adam, quick to start. Takes no closure and does not differentiate through its steps."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        _leave_compiler_out()
        super().__init__(*args, **kwargs)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take one step."""
        assert closure is None
        _STEP(self)


def _leave_compiler_out() -> None:
    # The wrapper of these methods keeps in this attribute what it found in the compiler; filled in before,
    # it finds the method itself. Where a later torch has no such wrapper, this does nothing.
    for name in ("add_param_group", "load_state_dict", "state_dict", "zero_grad"):
        method = getattr(getattr(torch.optim.Optimizer, name), "__wrapped__", None)
        if method is not None and not hasattr(method, "__dynamo_disable"):
            setattr(method, "__dynamo_disable", method)
