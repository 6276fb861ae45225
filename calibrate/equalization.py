"""Factors that give the channels between convolutions equal ranges, from calibration data."""

import numpy as np
import onnx_ir as ir

from ptqc.calibrate.first import FirstSamples
from ptqc.calibrate.source import Source
from ptqc.core.types import Array
from ptqc.execute.tensors import TensorRunner
from ptqc.graph.chains import find_chains

EXTENT_ORDER = 8
SAMPLES, BATCH = 64, 4  # the largest tensors are not among those looked at, and decide what fits into memory
LEAST_FACTOR = 2.0**-10  # channels that hardly ever have a value are not blown up beyond this


def equalizing_factors(model: ir.Model, source: Source, threads: int) -> dict[str, Array]:
    """Factor of each channel by the name of a chain's result: its extent over the widest, as a power of two.

    The extent of a channel is its norm of order EXTENT_ORDER: a maximum that single outliers do not decide.

    Args:
        model: canonical float graph.
        source: calibration samples.

    Returns:
        Name -> float64 [C], each in LEAST_FACTOR..1; chains whose channels are all equal are left out.
    """
    chains = list(find_chains(model))
    if not chains:
        return {}
    ranged = {chain.result.name or "": chain.ranged.name or "" for chain in chains}
    names = tuple(dict.fromkeys(ranged.values()))
    runner = TensorRunner(model, names, threads)
    sums: dict[str, Array] = {}
    for batch in FirstSamples(source, SAMPLES).batches(BATCH):
        for name, values in runner.run(batch.feeds).items():
            squares = np.square(values, dtype=np.float64)
            powers = np.square(np.square(squares)).mean(axis=_others(values)) * batch.samples
            sums[name] = sums.get(name, np.zeros(1)) + powers
    factors = {result: _powers(sums[name] ** (1 / EXTENT_ORDER)) for result, name in ranged.items()}
    return {name: values for name, values in factors.items() if not (values == 1).all()}


def _others(values: Array) -> tuple[int, ...]:
    """Every axis but the channels'."""
    return tuple(axis for axis in range(values.ndim) if axis != 1)


def _powers(extents: Array) -> Array:
    widest = extents.max(initial=0.0)
    if not np.isfinite(widest) or widest <= 0:
        return np.ones_like(extents)
    relative = np.maximum(extents / widest, LEAST_FACTOR)
    powers: Array = 2.0 ** np.round(np.log2(relative))
    return powers
