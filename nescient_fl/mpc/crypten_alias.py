"""Lets crypten 0.4.1 be imported on newer versions of torch; import this before crypten. It changes nothing else."""

import importlib
import sys

# crypten asks for this module by the name it had up to torch 2.8.
sys.modules.setdefault(
    "torch.onnx._internal.registration",
    importlib.import_module("torch.onnx._internal.torchscript_exporter.registration"),
)
