"""ptqc: a post-training quantization compiler for ONNX models."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# The public interface lives in ptqc.api, which is imported on first use: `ptqc --help` does not need it.
_PUBLIC = ("QuantizeOptions", "Result", "quantize")


def __getattr__(name: str) -> Any:
    """``ptqc.quantize`` and its types."""
    if name in _PUBLIC:
        return getattr(import_module("ptqc.api"), name)
    raise AttributeError(f"module 'ptqc' has no attribute '{name}'")


def __dir__() -> list[str]:
    """Public names, those that are not imported yet too."""
    return sorted({*globals(), *_PUBLIC})
