"""Inputs of integer products that are computed in float: where their range may be found at run time, and smoothed."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ProductInput:
    """A tensor computed in float, and the products by constant weights that read it.

    Attributes:
        tensor: its name.
        products: names of the Gemm and MatMul nodes that multiply it; nothing else reads its codes.
        foldable: a factor for each of its channels can be folded into the constants of what computes it.
        float_results: all the products have float results, so that no integer node depends on them.
    """

    tensor: str
    products: tuple[str, ...]
    foldable: bool
    float_results: bool
