"""Second moments of one linear node: all that rounding has to know of the data."""

from dataclasses import dataclass

import torch

Tensor = torch.Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Means over positions, float64; G groups, O outputs and K inputs of a group.

    x are the inputs of the node (im2col columns of the quantized stream), t its target outputs (of the float stream,
    bias included).

    Attributes:
        count: positions in the means.
        xx: [G, K, K] of x xT.
        tx: [G, O, K] of t xT.
        x: [G, K].
        t: [G, O].
        tt: [G, O] of t squared.
    """

    count: int
    xx: Tensor
    tx: Tensor
    x: Tensor
    t: Tensor
    tt: Tensor

    def with_targets_of(self, weights: Tensor, bias: Tensor) -> "Moments":
        """These inputs with what ``weights`` float64 [G, O, K] and ``bias`` [G, O] make of them as targets."""
        mean, products = torch.einsum("gok,gk->go", weights, self.x), weights @ self.xx
        tt = (products * weights).sum(-1) + bias * (2.0 * mean + bias)
        tx = products + bias.unsqueeze(-1) * self.x.unsqueeze(-2)
        return Moments(self.count, self.xx, tx, self.x, mean + bias, tt)

    def centred(self) -> tuple[Tensor, Tensor]:
        """Covariances of x with x [G, K, K] and of t with x [G, O, K]: what is left to weights with a free bias."""
        xx = self.xx - self.x.unsqueeze(-1) * self.x.unsqueeze(-2)
        return xx, self.tx - self.t.unsqueeze(-1) * self.x.unsqueeze(-2)

    def without(self, bias: Tensor) -> tuple[Tensor, Tensor]:
        """xx, and tx of targets from which ``bias`` [G, O] is taken: what is left to weights with this bias."""
        return self.xx, self.tx - bias.unsqueeze(-1) * self.x.unsqueeze(-2)

    def best_bias(self, weights: Tensor) -> Tensor:
        """The bias [G, O] that makes the mean error of ``weights`` [G, O, K] zero."""
        return self.t - torch.einsum("gok,gk->go", weights, self.x)

    def error(self, weights: Tensor, bias: Tensor) -> Tensor:
        """Mean squared error [G, O] of the outputs with ``weights`` [G, O, K] and ``bias`` [G, O]; not negative."""
        mean = torch.einsum("gok,gk->go", weights, self.x)
        products = ((weights @ self.xx) * weights).sum(-1) - 2.0 * (self.tx * weights).sum(-1)
        return (products + self.tt + bias * (bias + 2.0 * mean - 2.0 * self.t)).clamp(min=0.0)
