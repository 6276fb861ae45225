"""Operators of ai.onnx.ml that are plain arithmetic; trees, maps and text run in onnxruntime."""

import torch

from ptqc.execute.torch_executor.registry import Call, NoTorchForm, operator

Tensor = torch.Tensor
_DOMAIN = "ai.onnx.ml"


@operator("ArrayFeatureExtractor", domain=_DOMAIN)
def extract_features(call: Call, x: Tensor, indices: Tensor) -> Tensor:
    """Columns of the last axis."""
    found = x.index_select(x.dim() - 1, indices.flatten())
    return found[None] if x.dim() == 1 else found


@operator("Binarizer", domain=_DOMAIN)
def binarize(call: Call, x: Tensor) -> Tensor:
    """1 above the threshold, else 0."""
    return torch.gt(x, call.get("threshold", 0.0)).to(x.dtype)


@operator("Scaler", domain=_DOMAIN)
def scale(call: Call, x: Tensor) -> Tensor:
    """(x - offset) * scale, as float32."""
    x = x.to(torch.float32)
    offset = torch.tensor(call.get("offset") or [0.0], device=x.device)
    return (x - offset) * torch.tensor(call.get("scale") or [1.0], device=x.device)


@operator("Normalizer", domain=_DOMAIN)
def normalize(call: Call, x: Tensor) -> Tensor:
    """Rows divided by their greatest value, their sum of magnitudes or their length, as float32."""
    x = x.to(torch.float32)
    norm, last = call.get("norm", "MAX"), x.dim() - 1
    if norm == "MAX":
        raise NoTorchForm("a sign that onnxruntime defines")
    size = x.abs().sum(last, keepdim=True) if norm == "L1" else x.square().sum(last, keepdim=True).sqrt()
    return torch.where(size == 0, x, x / size)
