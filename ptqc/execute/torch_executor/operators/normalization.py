"""Normalization by statistics that are given or measured."""

import torch

from ptqc.execute.torch_executor.registry import Call, NoTorchForm, operator

Tensor = torch.Tensor


@operator("BatchNormalization")
def batch_normalization(call: Call, x: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """In inference."""
    if call.get("training_mode", 0) or any(call.wanted[1:]):
        raise NoTorchForm("statistics of the batch")
    return torch.nn.functional.batch_norm(x, mean, variance, gamma, beta, training=False, eps=call.get("epsilon", 1e-5))
