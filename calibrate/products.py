"""What a form of quantization does to products by constant weights, on rows of their real inputs."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ptqc.calibrate.first import FirstSamples
from ptqc.calibrate.source import Source
from ptqc.core.arithmetic import affine_params, fake_quantize, symmetric_params
from ptqc.core.errors import DataError, quoted
from ptqc.core.products import ProductInput
from ptqc.core.ranges import Range
from ptqc.core.types import UINT8, Array, QuantParams, QuantType
from ptqc.execute.tensors import TensorRunner
from ptqc.graph.linear import linear_parts

# Enough to rank the forms; the time for one product is that of ROWS x COLUMNS of its outputs.
SAMPLES, ROWS, COLUMNS = 128, 256, 256
# Servers run several samples at a time, and a range found at run time covers them all.
BATCHED = 16


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Rows of a tensor [..., K], as the products see them.

    Attributes:
        values: float32 [n, K], evenly taken from every sample.
        sample: int64 [n], the sample of each row.
        low, high: float32 [samples, K]: extremes of each channel over the whole of each sample.
    """

    values: Array
    sample: Array
    low: Array
    high: Array

    def divided(self, factors: Array | None) -> "Rows":
        """The rows after division by ``factors`` [K]."""
        if factors is None:
            return self
        inverse = (1.0 / factors).astype(np.float32)
        return Rows(self.values * inverse, self.sample, self.low * inverse, self.high * inverse)

    @property
    def width(self) -> int:
        """K."""
        return int(self.values.shape[1])

    @property
    def absmax(self) -> Array:
        """float32 [K]: greatest magnitude of each channel over all samples."""
        greatest: Array = np.maximum(self.high, -self.low).max(axis=0)
        return greatest


def collect_rows(model: ir.Model, inputs: Sequence[ProductInput], source: Source, threads: int) -> dict[str, Rows]:
    """Rows of every input, by tensor, from the first samples of ``source``.

    Raises DataError for a tensor that holds NaN or Inf.
    """
    names = [one.tensor for one in inputs]
    if not names:
        return {}
    runner, head = TensorRunner(model, names, threads), FirstSamples(source, SAMPLES)
    each = max(1, ROWS // min(len(head), SAMPLES))
    parts: dict[str, list[tuple[Array, Array, Array]]] = {name: [] for name in names}
    for batch in head.batches(1):
        for name, tensor in runner.run(batch.feeds).items():
            if not tensor.size:
                continue
            if not np.isfinite(tensor).all():
                raise DataError(f"the tensor {quoted(name)} holds NaN or Inf", where=f"sample {batch.first}")
            rows = tensor.reshape(-1, tensor.shape[-1]).astype(np.float32)
            taken = rows[_spread(len(rows), each, len(parts[name]))]
            parts[name].append((taken, rows.min(axis=0), rows.max(axis=0)))
    return {name: _joined(found) for name, found in parts.items() if found}


def _spread(count: int, wanted: int, sample: int) -> Array:
    """Indices of ``wanted`` rows, evenly spaced; where they begin differs from sample to sample, as the first and
    last rows of every sequence may be special tokens."""
    if count <= wanted:
        return np.arange(count)
    begin = sample * 0.6180339887 % 1.0
    return ((np.arange(wanted) + begin) * (count / wanted)).astype(np.int64)


def _joined(parts: Sequence[tuple[Array, Array, Array]]) -> Rows:
    sample = np.concatenate([np.full(len(rows), index) for index, (rows, _, _) in enumerate(parts)])
    values, low, high = (np.concatenate([np.atleast_2d(part[i]) for part in parts]) for i in range(3))
    return Rows(values, sample, low, high)


def product_weights(model: ir.Model, products: Iterable[str]) -> list[Array]:
    """float32 [K, N] of each product, N limited to evenly taken columns."""
    wanted = set(products)
    found = []
    for node in model.graph:
        parts = linear_parts(node) if node.name in wanted else None
        if parts is not None:
            weight = parts.weight_array.T if parts.axis == 0 else parts.weight_array
            step = -(-weight.shape[1] // COLUMNS)
            found.append(np.ascontiguousarray(weight[:, ::step], np.float32))
    return found


def rounded_statically(rows: Rows, bounds: Range) -> Array:
    """The rows after quantization with one fixed range."""
    return _rounded(rows.values, affine_params(*bounds, UINT8))


def rounded_dynamically(rows: Rows) -> Array:
    """The rows after quantization with the range of their batch of BATCHED samples."""
    rounded = np.empty_like(rows.values)
    batch = rows.sample // BATCHED
    for index in range(int(batch[-1]) + 1):
        samples = slice(index * BATCHED, (index + 1) * BATCHED)
        bounds = float(rows.low[samples].min()), float(rows.high[samples].max())
        rounded[batch == index] = _rounded(rows.values[batch == index], affine_params(*bounds, UINT8))
    return rounded


def _rounded(values: Array, params: QuantParams) -> Array:
    """``fake_quantize`` per tensor, in float32 throughout: fast, and exact but for ties."""
    zero_point = np.float32(params.zero_point)
    codes = np.rint(values * (np.float32(1) / params.scale))
    np.clip(codes, params.qmin - zero_point, params.qmax - zero_point, out=codes)
    codes *= params.scale
    return codes


@dataclass(frozen=True, slots=True, eq=False)
class Products:
    """Products of one input: float weights [K, N], and their results on ``rows``."""

    weights: tuple[Array, ...]
    exact: tuple[Array, ...]

    @classmethod
    def of(cls, weights: Iterable[Array], rows: Rows) -> "Products":
        """The exact results of ``rows`` times each of ``weights``."""
        weights = tuple(weights)
        return cls(weights, tuple(rows.values @ weight for weight in weights))

    def rounded(self, kind: QuantType, factors: Array | None = None) -> tuple[Array, ...]:
        """The weights times ``factors`` [K], rounded to ``kind`` per output channel."""
        scaled = [weight if factors is None else weight * factors[:, None] for weight in self.weights]
        return tuple(fake_quantize(w, symmetric_params(np.abs(w).max(axis=0), kind, 1)) for w in scaled)

    def error(self, values: Array, weights: Iterable[Array]) -> float:
        """Sum over the products of ||values weight - exact||^2 / ||exact||^2."""
        total = 0.0
        for weight, exact in zip(weights, self.exact, strict=True):
            noise = (values @ weight - exact).ravel()
            total += float(np.dot(noise, noise)) / max(float(np.vdot(exact, exact)), 1e-30)
        return total
