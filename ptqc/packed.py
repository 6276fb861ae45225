"""Where only weights are integers: which products decode them in every call instead of once, when the model is loaded.

That kernel (MatMulNBits) reads an eighth of the bytes, but has to decode them: large matrices and few rows gain, small
ones lose. So products of one shape are given to it where the whole model measures faster that way.
"""

from collections.abc import Collection
from dataclasses import replace

import onnx_ir as ir

from ptqc.calibrate.source import Source
from ptqc.compile import Compiled, lower
from ptqc.core.options import QuantizeOptions
from ptqc.core.plan import Form, QuantPlan
from ptqc.core.progress import Progress
from ptqc.execute.latency import measure_ratio
from ptqc.graph.linear import linear_parts
from ptqc.passes.lower_matmul_nbits import why_not_packed
from ptqc.targets.target import Target

LEAST_GAIN = 1.02  # smaller differences are noise
TRIAL_SECONDS = 0.5
MOST_SHAPES = 6
# Without measuring: 4-bit matrices of so many weights gained at 16 rows as well as at one (onnxruntime 1.31, VNNI).
LARGE = 1 << 17


def with_packed_products(
    compiled: Compiled,
    target: Target,
    options: QuantizeOptions,
    source: Source,
    progress: Progress,
) -> Compiled:
    """``compiled`` with the products of form ``packed`` that make it faster.

    Args:
        source: its first sample is run; one thread is timed, as with the other latencies. Not read with
            ``no_measure``, where sizes alone decide.
    """
    if options.packing == "plain":
        return compiled
    shapes = _shapes(compiled.canonical, compiled.plan)
    if options.no_measure:
        names = [name for size, nodes in shapes.items() if _large(size) for name in nodes]
        return _packed(compiled, target, options, names, "its matrix is large") if names else compiled
    if not shapes:
        return compiled
    best, feeds = compiled, next(iter(source.batches(1))).feeds
    tried = list(shapes.items())[:MOST_SHAPES]
    for index, (_, names) in enumerate(tried):
        progress("time packed products", index, len(tried))
        trial = _packed(best, target, options, names, "")
        gain = measure_ratio(best.model, trial.model, feeds, 1, TRIAL_SECONDS).ratio
        if gain >= LEAST_GAIN:
            reason = f"the model measured {gain:.2f} times as fast with the {len(names)} products of this shape so"
            best = _packed(best, target, options, names, reason)
    progress("time packed products", len(tried), len(tried))
    return best


def _large(size: tuple[int, int, int]) -> bool:
    inputs, outputs, bits = size
    return bits == 4 and inputs * outputs >= LARGE


def _shapes(canonical: ir.Model, plan: QuantPlan) -> dict[tuple[int, int, int], list[str]]:
    """(Inputs, outputs, bits) of the products that the kernel can take -> their names; the largest first."""
    found: dict[tuple[int, int, int], list[str]] = {}
    for node in canonical.graph:
        name, parts = node.name or "", linear_parts(node)
        if parts is None or plan.nodes[name].form is not Form.WEIGHT:
            continue
        params = plan.tensors[parts.weight.name or ""]
        if not why_not_packed(parts, params):
            shape = parts.weight_array.shape
            found.setdefault((shape[1 - parts.axis], shape[parts.axis], params.type.bits), []).append(name)
    return dict(sorted(found.items(), key=lambda item: (-item[0][0] * item[0][1] * len(item[1]), item[0])))


def _packed(
    compiled: Compiled, target: Target, options: QuantizeOptions, names: Collection[str], reason: str
) -> Compiled:
    """``compiled`` with the nodes of these names in form ``packed``."""
    nodes = dict(compiled.plan.nodes)
    for name in names:
        why = f"float kernel that decodes integer weights in every call: {reason}"
        nodes[name] = replace(nodes[name], form=Form.PACKED, reason=why)
    plan = replace(compiled.plan, nodes=nodes)
    model, lowering = lower(compiled.canonical, plan, compiled.codes, target, options)
    return replace(compiled, plan=plan, model=model, lowering=lowering)
