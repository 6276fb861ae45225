"""Rounding column by column, each error repaired by the columns that are still free (GPTQ).

Frantar et al., "GPTQ" (arXiv 2210.17323), with the order of columns by their importance.
"""

from dataclasses import dataclass

import torch

from ptqc.rounding.levels import Levels

Tensor = torch.Tensor

LAZY_COLUMNS = 64  # that are updated at once; more would leave the work to slow outer products
LEAST_DAMPING = 1e-6  # that is tried where a matrix is not positive definite


@dataclass(frozen=True, slots=True, eq=False)
class QuadraticForm:
    """What errors of weights cost: ``error H errorT`` for every row, in float32.

    Attributes:
        matrix: H [G, K, K], damped, of mean diagonal about one.
        diagonal: [G, K].
        order: [G, K] columns by descending diagonal.
        feedback: [G, K, K] in that order: by how much of the error of the row's column the later columns change.
        price: [G, K] in that order: of the squared error of a column once later columns have repaired what they can.
    """

    matrix: Tensor
    diagonal: Tensor
    order: Tensor
    feedback: Tensor
    price: Tensor

    @classmethod
    def of(cls, moments: Tensor, damping: float | Tensor) -> "QuadraticForm":
        """The form of float64 second moments [G, K, K] with ``damping`` [] or [G] times the mean diagonal added.

        More is added to a group whose matrix is not positive definite with that.
        """
        groups, size = moments.shape[:2]
        mean = moments.diagonal(dim1=1, dim2=2).mean(-1)
        mean = torch.where(mean > 0, mean, torch.ones_like(mean))
        matrix = moments / mean.view(-1, 1, 1)
        plain = matrix.diagonal(dim1=1, dim2=2).clone()
        order = plain.argsort(dim=-1, descending=True, stable=True)
        added = torch.zeros_like(mean) + damping
        matrix.diagonal(dim1=1, dim2=2).copy_(plain + added.unsqueeze(-1))
        # H = R RT with R upper triangular, found from the reversed matrix, so that R**-1 is the factor of H**-1.
        rows = order.flip(-1).unsqueeze(-1).expand(-1, -1, size)
        while True:
            lower, info = torch.linalg.cholesky_ex(matrix.gather(1, rows).gather(2, rows.mT))
            if not bool(info.any()):
                break
            added = torch.where(info > 0, (added * 10).clamp(min=LEAST_DAMPING), added)
            matrix.diagonal(dim1=1, dim2=2).copy_(plain + added.unsqueeze(-1))
        identity = torch.eye(size, dtype=matrix.dtype).expand(groups, -1, -1)
        upper = torch.linalg.solve_triangular(lower.flip(1, 2), identity, upper=True)
        diagonal = upper.diagonal(dim1=1, dim2=2)
        return cls(
            matrix=matrix.float(),
            diagonal=matrix.diagonal(dim1=1, dim2=2).float().contiguous(),
            order=order,
            feedback=(upper / diagonal.unsqueeze(-1)).float(),
            price=(1 / diagonal.square()).float(),
        )

    def cost(self, error: Tensor) -> Tensor:
        """The form [G, R] of errors [G, R, K]."""
        return ((error @ self.matrix) * error).sum(-1).clamp(min=0.0)


def round_with_feedback(target: Tensor, scale: Tensor, levels: Levels, form: QuadraticForm) -> tuple[Tensor, Tensor]:
    """Codes for ``target`` and what they cost.

    Args:
        target: float32 [G, R, K].
        scale: float32 [G, R], or of every column [G, R, K].
        levels: with entries of each row: [G, R, L].

    Returns:
        Whole float32 [G, R, K], and the form of their errors [G, R].
    """
    groups, rows, size = target.shape
    order = form.order.unsqueeze(1).expand(-1, rows, -1)
    left = target.gather(2, order).transpose(1, 2).contiguous()
    steps = None if scale.dim() == 2 else scale.gather(2, order).transpose(1, 2).contiguous()
    codes, cost = torch.empty_like(left), torch.zeros(groups, rows)
    for start in range(0, size, LAZY_COLUMNS):
        stop = min(start + LAZY_COLUMNS, size)
        errors = torch.empty(groups, stop - start, rows)
        for column in range(start, stop):
            values, step = left[:, column], scale if steps is None else steps[:, column]
            found = levels.nearest(values / step)
            codes[:, column] = found
            error = torch.addcmul(values, found, step, value=-1, out=errors[:, column - start])
            if column + 1 < stop:
                factors = form.feedback[:, column, column + 1 : stop].unsqueeze(2)
                left[:, column + 1 : stop].baddbmm_(factors, error.unsqueeze(1), alpha=-1)
        if stop < size:
            factors = form.feedback[:, start:stop, stop:].transpose(1, 2)
            left[:, stop:].baddbmm_(factors, errors, alpha=-1)
        cost += torch.einsum("gkr,gk->gr", errors.square_(), form.price[:, start:stop])
    back = torch.empty_like(order).scatter_(2, order, torch.arange(size).expand_as(order))
    return codes.transpose(1, 2).gather(2, back), cost
