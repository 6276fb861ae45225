"""Smoothing a canonical graph before it is placed: which inputs of products, how far, and the rewritten graph."""

import onnx_ir as ir

from ptqc.allocate.dynamic import product_inputs
from ptqc.allocate.place import Placement
from ptqc.calibrate.products import collect_rows
from ptqc.calibrate.smoothing import find_smoothing
from ptqc.calibrate.source import Source
from ptqc.core.types import QuantType
from ptqc.passes.base import PassContext
from ptqc.passes.pipeline import PassResult, run_passes
from ptqc.passes.smooth_activations import SmoothActivations


def smooth(
    model: ir.Model,
    placement: Placement,
    source: Source,
    weights: QuantType,
    context: PassContext,
    threads: int = 1,
    check: bool = False,
) -> tuple[ir.Model, tuple[PassResult, ...]]:
    """The smoothed copy of ``model`` and what was done, or ``model`` itself where nothing is gained.

    Args:
        placement: of ``model``; only inputs of integer products that are computed in float are smoothed.
        source: calibration data, of which the first samples are used.
        weights: integer type of the weights.
        check: check the rewrite as :func:`ptqc.passes.pipeline.run_passes` does.
    """
    inputs = product_inputs(model, placement)
    factors = find_smoothing(model, inputs, collect_rows(model, inputs, source, threads), weights)
    if not factors:
        return model, ()
    smoothed = model.clone()
    return smoothed, run_passes(smoothed, [SmoothActivations(factors)], context, check)
