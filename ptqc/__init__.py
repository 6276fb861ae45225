"""ptqc: a post-training quantization compiler for ONNX models."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# Name -> module of the public interface, imported on first use: `ptqc --help` does not need it.
_PUBLIC = {
    "QuantizeOptions": "ptqc.api",
    "Result": "ptqc.api",
    "quantize": "ptqc.api",
    "verify_model": "ptqc.verify.verify",
}


def __getattr__(name: str) -> Any:
    """``ptqc.quantize``, ``ptqc.verify_model`` and their types."""
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'ptqc' has no attribute '{name}'")


def __dir__() -> list[str]:
    """Public names, those that are not imported yet too."""
    return sorted({*globals(), *_PUBLIC})
