"""Losses over classes."""

import torch

from ptqc.execute.torch_executor.registry import Call, operator

Tensor = torch.Tensor


@operator("NegativeLogLikelihoodLoss")
def negative_log_likelihood(call: Call, x: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """-x at the target class, weighted; the mean is over the weights."""
    ignored = call.get("ignore_index")
    counted = torch.ones_like(target, dtype=torch.bool) if ignored is None else target != ignored
    index = torch.where(counted, target, torch.zeros_like(target)).to(torch.int64)
    taken = torch.where(counted, torch.gather(x, 1, index.unsqueeze(1)).squeeze(1), 0.0)
    share = counted.to(x.dtype) if weight is None else torch.where(counted, weight[index], 0.0)
    loss = (-taken * share).to(x.dtype)
    match call.get("reduction", "mean"):
        case "none":
            return loss
        case "sum":
            return loss.sum()
        case _:
            return loss.sum() / share.sum()


@operator("SoftmaxCrossEntropyLoss")
def softmax_cross_entropy(call: Call, x: Tensor, target: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The loss of log_softmax(x), and log_softmax(x)."""
    log_probabilities = torch.log_softmax(x, 1)
    return negative_log_likelihood(call, log_probabilities, target, weight), log_probabilities
