"""Weights of a planned graph as integers, by the method that the user chose."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING

import onnx_ir as ir

import ptqc.rounding
from ptqc.calibrate.cache import cache_folder, code_digest, content_key
from ptqc.calibrate.first import FirstSamples
from ptqc.calibrate.source import Source
from ptqc.core.dyadic import ScaleRule
from ptqc.core.options import QuantizeOptions
from ptqc.core.plan import QuantPlan
from ptqc.core.progress import Progress
from ptqc.core.types import Array
from ptqc.rounding.layer import LayerRequest, Rounding
from ptqc.rounding.multiplier_rules import with_multipliers
from ptqc.rounding.nearest import nearest_layers
from ptqc.targets.registry import find_target

if TYPE_CHECKING:
    from ptqc.rounding.checkpoint import FolderCheckpoint

CORRECTING = ("second-order", "gptq", "adaround", "block")  # these find the best biases along with the weights
SAMPLES = {"fast": 64, "default": 256, "best": 512}
LONG = 10.0  # seconds that are said up front


def round_weights(
    model: ir.Model,
    plan: QuantPlan,
    requests: Sequence[LayerRequest],
    source: Source,
    options: QuantizeOptions,
    progress: Progress,
) -> Rounding:
    """The integers of the nodes in ``requests``.

    Args:
        model: the canonical float graph of ``plan``.
        plan: with the final parameters of activations.
        source: calibration data, of which the first samples are used.

    Raises OptionError for formats that the method does not know.
    """
    if find_target(plan.target).integer:
        requests = with_multipliers(model, plan, requests, ScaleRule(options.scales, options.multiplier_bits))
    if options.rounding == "nearest":
        return nearest_layers(model, plan, requests)
    if options.rounding == "squant":
        from ptqc.rounding.squant import round_squant

        return round_squant(model, plan, requests)
    if options.rounding == "hqq":
        from ptqc.rounding.hqq import round_hqq

        return round_hqq(model, plan, requests)
    return _on_data(model, plan, requests, source, options, progress)


def _on_data(
    model: ir.Model,
    plan: QuantPlan,
    requests: Sequence[LayerRequest],
    source: Source,
    options: QuantizeOptions,
    progress: Progress,
) -> Rounding:
    from ptqc.execute.torch_executor.streams import batch_size
    from ptqc.rounding.expected_time import expected_seconds, time_text
    from ptqc.rounding.problem import BEST, FAST, GPTQ, SECOND_ORDER
    from ptqc.rounding.reconstruct import round_by_reconstruction
    from ptqc.rounding.reconstruct_unit import ADAROUND, BLOCK
    from ptqc.rounding.second_order import round_second_order

    settings = (
        GPTQ if options.rounding == "gptq" else {"fast": FAST, "default": SECOND_ORDER, "best": BEST}[options.effort]
    )
    head, size = FirstSamples(source, SAMPLES[options.effort]), batch_size(model)
    expected = expected_seconds(model, requests, len(head), settings)
    if expected >= LONG:
        progress(f"round weights, about {time_text(expected)}", 0, len(requests))

    def batches() -> Iterator[Mapping[str, Array]]:
        return (batch.feeds for batch in head.batches(size))

    found = round_second_order(
        model,
        plan,
        requests,
        batches(),
        settings,
        seed=options.seed,
        progress=partial(progress, "round weights"),
        checkpoint=_checkpoint(plan, requests, head, options, "second-order"),
    )
    if options.rounding not in ("adaround", "block"):
        return found
    return round_by_reconstruction(
        model,
        plan,
        requests,
        batches(),
        ADAROUND if options.rounding == "adaround" else BLOCK,
        initial=found,
        seed=options.seed,
        progress=partial(progress, "reconstruct"),
        checkpoint=_checkpoint(plan, requests, head, options, options.rounding),
    )


def _checkpoint(
    plan: QuantPlan, requests: Sequence[LayerRequest], source: Source, options: QuantizeOptions, stage: str
) -> "FolderCheckpoint | None":
    """Where layers that ``stage`` finished with exactly these arguments are kept; None where there is no cache."""
    from ptqc.rounding.checkpoint import FolderCheckpoint

    folder = cache_folder()
    if folder is None:
        return None
    key = content_key(
        plan=plan.text(),
        requests=[asdict(request) for request in requests],
        data=source.digest,
        options=[stage, options.rounding == "gptq", options.effort, options.seed],
        rounding=code_digest(ptqc.rounding),
    )
    return FolderCheckpoint(folder / f"rounding-{key}")
