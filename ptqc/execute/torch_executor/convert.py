"""Tensors of a model as torch tensors, and back, without copies where the types allow it."""

import warnings
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import torch

from ptqc.core.types import Array

# Types that NumPy lacks travel as unsigned integers of the same size.
_VIEWED: dict[Any, tuple[Any, torch.dtype]] = {
    np.dtype(ml_dtypes.bfloat16): (np.dtype(np.int16), torch.bfloat16),
    np.dtype(ml_dtypes.float8_e4m3fn): (np.dtype(np.uint8), torch.float8_e4m3fn),
    np.dtype(ml_dtypes.float8_e4m3fnuz): (np.dtype(np.uint8), torch.float8_e4m3fnuz),
    np.dtype(ml_dtypes.float8_e5m2): (np.dtype(np.uint8), torch.float8_e5m2),
    np.dtype(ml_dtypes.float8_e5m2fnuz): (np.dtype(np.uint8), torch.float8_e5m2fnuz),
    np.dtype(ml_dtypes.float8_e8m0fnu): (np.dtype(np.uint8), torch.float8_e8m0fnu),
}
_VIEWS_BACK = {kind: (dtype, viewed) for dtype, (viewed, kind) in _VIEWED.items()}

TORCH_TYPES: dict[ir.DataType, torch.dtype] = {
    ir.DataType.FLOAT: torch.float32,
    ir.DataType.DOUBLE: torch.float64,
    ir.DataType.FLOAT16: torch.float16,
    ir.DataType.BFLOAT16: torch.bfloat16,
    ir.DataType.FLOAT8E4M3FN: torch.float8_e4m3fn,
    ir.DataType.FLOAT8E4M3FNUZ: torch.float8_e4m3fnuz,
    ir.DataType.FLOAT8E5M2: torch.float8_e5m2,
    ir.DataType.FLOAT8E5M2FNUZ: torch.float8_e5m2fnuz,
    ir.DataType.FLOAT8E8M0: torch.float8_e8m0fnu,
    ir.DataType.INT8: torch.int8,
    ir.DataType.INT16: torch.int16,
    ir.DataType.INT32: torch.int32,
    ir.DataType.INT64: torch.int64,
    ir.DataType.UINT8: torch.uint8,
    ir.DataType.UINT16: torch.uint16,
    ir.DataType.UINT32: torch.uint32,
    ir.DataType.UINT64: torch.uint64,
    ir.DataType.BOOL: torch.bool,
    ir.DataType.COMPLEX64: torch.complex64,
    ir.DataType.COMPLEX128: torch.complex128,
}


def from_array(array: Array) -> Any:
    """A tensor that shares memory with ``array`` where it can; the array itself where torch lacks its type."""
    array = np.asarray(array)
    if array.dtype.kind in "OUST":
        return _text(array)
    viewed = _VIEWED.get(array.dtype)
    if viewed is not None:
        plain = array if array.flags.c_contiguous else array.copy()
        return _shared(plain.view(viewed[0])).view(viewed[1])
    if array.dtype.kind not in "fiubc" or array.dtype.isbuiltin == 2:
        return array
    return _shared(array)


def _text(array: Array) -> Array:
    """Text as Python's own; models hold it as bytes."""
    words = [word.decode("utf-8", "replace") if isinstance(word, bytes) else str(word) for word in array.flat]
    found = np.empty(len(words), object)
    found[:] = words
    return found.reshape(array.shape)


def _shared(array: Array) -> torch.Tensor:
    if any(stride < 0 for stride in array.strides) or not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="), order="C")
    if array.dtype.kind in "iu":
        # onnxruntime returns C's long long, which torch does not take though it is as long as its own.
        array = array.view(f"{array.dtype.kind}{array.dtype.itemsize}")
    with warnings.catch_warnings():
        # Weights are mapped read-only; nothing here writes into a tensor.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def from_feed(value: Any, device: torch.device) -> Any:
    """Tensors on ``device`` of a tensor, an array, a list of them (a sequence) or None (an optional without value)."""
    if value is None:
        return None
    if isinstance(value, list):
        return [from_feed(item, device) for item in value]
    found = value if isinstance(value, torch.Tensor) else from_array(value)
    return found.to(device) if isinstance(found, torch.Tensor) else found


def to_array(value: Any) -> Any:
    """The NumPy form of a value: arrays of tensors (shared where possible), lists of them for sequences."""
    if isinstance(value, list):
        return [to_array(item) for item in value]
    if not isinstance(value, torch.Tensor):
        return value
    value = value.detach().cpu()
    viewed = _VIEWS_BACK.get(value.dtype)
    if viewed is not None:
        unsigned = torch.int16 if value.dtype is torch.bfloat16 else torch.uint8
        return value.contiguous().view(unsigned).numpy().view(viewed[0])
    return value.resolve_conj().numpy()
