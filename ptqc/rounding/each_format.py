"""Second-order rounding of linear nodes in the float network, to each of several formats instead of the best."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from math import prod

import numpy as np
import onnx_ir as ir
import torch

from ptqc.core.progress import Steps
from ptqc.core.types import Array, WeightFormat
from ptqc.execute.torch_executor.executor import TorchExecutor
from ptqc.execute.torch_executor.threads import torch_threads
from ptqc.graph.linear import Linear
from ptqc.rounding.accumulate import Accumulator, held_back
from ptqc.rounding.columns import columns_of
from ptqc.rounding.layer import TO_NEAREST, RoundedLayer
from ptqc.rounding.matrices import groups_of, to_matrix
from ptqc.rounding.moments import Moments
from ptqc.rounding.problem import Settings
from ptqc.rounding.second_order import MOST_INPUTS
from ptqc.rounding.solve import nearest_each, solve_each
from ptqc.rounding.solved import solved_layer

Tensor = torch.Tensor

MEMORY = 512 << 20  # bytes of the moments that are taken in one pass over the data
SAMPLED_AT_ONCE = 2  # moments of a node are kept of the samples to fit and of those held back

Feeds = Mapping[str, Array]


def round_each_format(
    model: ir.Model,
    wanted: Mapping[str, tuple[Linear, Sequence[WeightFormat]]],
    batches: Callable[[], Iterable[tuple[Feeds, int]]],
    samples: int,
    settings: Settings,
    *,
    seed: int = 0,
    entry_bits: int = 8,
    fixed_bias: Collection[str] = (),
    progress: Steps | None = None,
) -> dict[str, dict[WeightFormat, RoundedLayer]]:
    """Rounds each node to each of its formats, while all other nodes stay in float.

    The second moments of several nodes are taken in one pass over the data, as many as fit into memory. Nodes that no
    output needs, or that have too many inputs for moments, are rounded to nearest, and say so.

    Args:
        model: canonical float graph.
        wanted: by the name of the node, in topological order.
        batches: a fresh pass over the data: feeds and how many samples they hold.
        samples: in all batches together.
        settings: how much is done for a format.
        seed: of the positions that are looked at where there are more than enough.
        entry_bits: of the codes in codebooks.
        fixed_bias: nodes whose bias stays as it is.
        progress: told after each node.

    Raises:
        ValueError: a node with a stack of weights.
        DataError: the model does not run on the batches.
    """
    found: dict[str, dict[WeightFormat, RoundedLayer]] = {}
    order = list(wanted)
    with torch_threads(), torch.no_grad():
        executor = TorchExecutor(model)
        reached = {step.node for step in executor.steps}
        for names in _passes({name: parts for name, (parts, _) in wanted.items()}):
            sums = {
                wanted[name][0].node: _accumulator(wanted[name][0], samples, (seed, order.index(name)))
                for name in names
                if wanted[name][0].node in reached and _has_moments(wanted[name][0])
            }
            _take_moments(executor, {name: wanted[name][0] for name in names}, sums, batches(), held_back(samples))
            for name in names:
                parts, formats = wanted[name]
                moments = sums.pop(parts.node).moments() if parts.node in sums else (None, None)
                free_bias = name not in fixed_bias and has_free_bias(parts)
                found[name] = _rounded(parts, moments, formats, settings, free_bias, entry_bits)
                if progress:
                    progress(len(found), len(wanted))
    return found


def has_free_bias(parts: Linear) -> bool:
    """Whether the bias of a node may become any other: it has one for each output, which is not scaled."""
    bias = parts.bias_array
    factors = (parts.node.attributes.get_float(name, 1.0) for name in ("alpha", "beta"))
    return bias is not None and bias.size == parts.weight_array.shape[parts.axis] and all(f == 1.0 for f in factors)


def _shape(parts: Linear) -> tuple[int, int, int]:
    """G, O, K of the weights."""
    groups, outputs = groups_of(parts), parts.weight_array.shape[parts.axis]
    return groups, outputs // groups, parts.weight_array.size // max(outputs, 1)


def _has_moments(parts: Linear) -> bool:
    return _shape(parts)[2] <= MOST_INPUTS


def _passes(nodes: Mapping[str, Linear]) -> Iterator[list[str]]:
    """The nodes in order, cut where their moments would not fit into memory together."""
    names: list[str] = []
    used = 0
    for name, parts in nodes.items():
        groups, _, inputs = _shape(parts)
        size = groups * inputs**2 * 8 * SAMPLED_AT_ONCE * 3 // 2 if _has_moments(parts) else 0
        if names and used + size > MEMORY:
            yield names
            names, used = [], 0
        names.append(name)
        used += size
    if names:
        yield names


def _accumulator(parts: Linear, samples: int, seed: tuple[int, ...]) -> Accumulator:
    """Sums over what the node reads; its outputs follow from these."""
    groups, _, inputs = _shape(parts)
    return Accumulator((groups, 0, inputs), prod(_kernel(parts)), samples, seed)


def _kernel(parts: Linear) -> tuple[int, ...]:
    return parts.weight_array.shape[2:] if parts.node.op_type == "Conv" else ()


def _take_moments(
    executor: TorchExecutor,
    nodes: Mapping[str, Linear],
    sums: Mapping[ir.Node, Accumulator],
    batches: Iterable[tuple[Feeds, int]],
    held: Array,
) -> None:
    if not sums:
        return
    by_node = {parts.node: parts for parts in nodes.values()}
    last = max(index for index, step in enumerate(executor.steps) if step.node in sums)
    first = 0
    for feeds, count in batches:
        environment = executor.start(feeds, channels_last=True)
        for step in executor.steps[: last + 1]:
            if step.node in sums:
                parts, x = by_node[step.node], environment[step.inputs[0]]
                columns = columns_of(step, x, _kernel(parts), groups_of(parts), count)
                sums[step.node].add(columns, None, held[first : first + count])
                del x, columns
            if step is not executor.steps[last]:
                executor.advance(step, environment)
        first += count


def _rounded(
    parts: Linear,
    moments: tuple[Moments | None, Moments | None],
    formats: Sequence[WeightFormat],
    settings: Settings,
    free_bias: bool,
    entry_bits: int,
) -> dict[WeightFormat, RoundedLayer]:
    matrix = torch.from_numpy(to_matrix(parts)).double()
    own = parts.bias_array
    usable = own is not None and own.size == matrix.shape[0] * matrix.shape[1]
    values = own.astype(np.float64) if own is not None and usable else np.zeros(matrix.shape[0] * matrix.shape[1])
    bias = torch.from_numpy(values).reshape(matrix.shape[:2])
    fit, held = (None if one is None else one.with_targets_of(matrix, bias) for one in moments)
    if fit is None:
        why = "it has too many inputs" if not _has_moments(parts) else "no calibration data reaches it"
        solutions = nearest_each(matrix, bias, formats, entry_bits)
        layers = [solved_layer(parts, one, False) for one in solutions]
        layers = [RoundedLayer(one.params, one.codes, note=f"{why}: {TO_NEAREST}") for one in layers]
    else:
        solutions = solve_each(matrix, bias, fit, held, formats, settings, free_bias=free_bias, entry_bits=entry_bits)
        layers = [solved_layer(parts, one, free_bias) for one in solutions]
    return dict(zip(formats, layers, strict=True))
