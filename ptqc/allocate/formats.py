"""Who gets how many bits: the admissible ways to store the weights of each linear node."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from ptqc.allocate.place import Placement
from ptqc.allocate.positions import Positions, find_positions
from ptqc.allocate.restrict import Restrictions
from ptqc.core.errors import OptionError
from ptqc.core.options import QuantizeOptions
from ptqc.core.plan import WEIGHT_ONLY, Form, NodePlan, QuantPlan
from ptqc.core.types import Precision, WeightFormat
from ptqc.execute.latency import has_vnni
from ptqc.graph.linear import linear_parts
from ptqc.rounding.layer import LayerRequest
from ptqc.targets.target import Target

CODEBOOK_BITS = (2, 3, 4)  # with more, even levels lose next to nothing against others
MOST_ODD_BITS = 3  # of blocks where levels without zero can pay
LEAST_SUMMED = 6  # weights of an output channel for each entry of its codebook: with fewer, that cannot pay
PLAIN_BITS = (2, 4, 7, 8)  # that DequantizeLinear reads; those of 7 bits are bytes


@dataclass(frozen=True, slots=True)
class _Widths:
    """What decides the bits of one node's weights."""

    restrictions: Restrictions
    positions: Positions
    default: int  # of the target
    sensitive: int  # of the target for small sensitive layers: the most that the kernels of the CPU take

    def of(self, node: ir.Node, form: Form) -> tuple[int, str]:
        """Bits of the weights, and the reason as a sentence."""
        demand = self.restrictions.precision_of(node)
        bits = self.default if demand is None or demand.weight_bits is None else demand.weight_bits
        if form in WEIGHT_ONLY:
            kept, what = 8, "depthwise layer" if (node.name or "") in self.positions.depthwise else ""
        else:
            kept, what = self.sensitive, self.positions.sensitive(node.name or "")
        if bits >= kept:
            return kept, "" if kept == 8 else f"{kept}-bit weights, as this CPU saturates sums of products"
        if what and not self.restrictions.named(node):
            return kept, f"{what}: its weights stay at {kept} bits"
        return bits, f"{bits}-bit weights"


def cpu_kind(options: QuantizeOptions) -> str:
    """The CPU that will run the result, as targets name it."""
    if options.cpu != "native":
        return options.cpu
    return "vnni" if has_vnni() else "avx2"


def layer_requests(
    model: ir.Model, placement: Placement, restrictions: Restrictions, target: Target, options: QuantizeOptions
) -> tuple[LayerRequest, ...]:
    """What rounding is asked for: each node with integer weights and the ways to store them, in graph order.

    First and last layers and depthwise convolutions keep 8 bits where they are small and nobody names them; where only
    weights are integers, depthwise ones alone. Nodes that share weights get the most bits that one of them needs.

    Args:
        model: the canonical graph of ``placement``.

    Raises:
        OptionError: codebooks are asked for where no weights have 2 to 4 bits, or plain packing of other widths than
            2, 4 and 8.
    """
    cpu = cpu_kind(options)
    most_bits = target.sensitive_bits[cpu]
    widths = _Widths(restrictions, find_positions(model), target.weight_bits[cpu], most_bits)
    nodes = [node for node in model.graph if has_codes(node, placement)]
    bits = {node: widths.of(node, placement.form(node)) for node in nodes}
    most: dict[ir.Value | None, tuple[int, str]] = {}
    for node, found in bits.items():
        most[node.inputs[1]] = max(most.get(node.inputs[1], found), found, key=lambda one: one[0])
    requests = []
    for node in nodes:
        width, reason = most[node.inputs[1]]
        allocated = restrictions.allocated.get(node.name or "")
        if allocated is not None and allocated.storage is not None:
            reason = restrictions.reasons.get(node.name or "", "")
            requests.append(LayerRequest(node.name or "", (allocated.storage,), most_bits, reason))
            continue
        formats = admissible_formats(node, placement.form(node), width, options)
        requests.append(LayerRequest(node.name or "", formats, most_bits, reason))
    _check(requests, options)
    return tuple(requests)


def has_codes(node: ir.Node, placement: Placement) -> bool:
    """Whether ``node`` is linear and has integer weights."""
    form = placement.form(node)
    return form in (Form.KERNEL, Form.DYNAMIC, *WEIGHT_ONLY) and linear_parts(node) is not None


def admissible_formats(node: ir.Node, form: Form, bits: int, options: QuantizeOptions) -> tuple[WeightFormat, ...]:
    """The ways to store weights of so many bits of a node in ``form``."""
    if form in WEIGHT_ONLY:
        block = options.block_size if node.op_type in ("Gemm", "MatMul") else None
        uniform = WeightFormat(bits, block=block, zero_points=block is not None and MOST_ODD_BITS < bits < 8)
        if block is None or bits > MOST_ODD_BITS or options.weight_format == "uniform" or options.packing == "plain":
            return (uniform,)
        return uniform, WeightFormat(bits, "tensor", block)
    uniform = WeightFormat(bits)
    if bits not in CODEBOOK_BITS or options.weight_format == "uniform" or options.packing == "plain":
        return (uniform,)
    codebooks = [WeightFormat(bits, "tensor")]
    if _summed(node) >= LEAST_SUMMED << bits:
        codebooks.append(WeightFormat(bits, "channel"))
    return tuple(codebooks) if options.weight_format == "codebook" else (uniform, *codebooks)


def _summed(node: ir.Node) -> int:
    """Weights of one output channel."""
    parts = linear_parts(node)
    assert parts is not None  # those that are not linear have no kernel
    return int(parts.weight_array.size) // max(int(parts.weight_array.shape[parts.axis]), 1)


def _check(requests: Sequence[LayerRequest], options: QuantizeOptions) -> None:
    formats = [form for request in requests for form in request.formats]
    if options.weight_format == "codebook" and not any(form.codebook != "none" for form in formats):
        raise OptionError(
            "--weight-format codebook has no weights to store",
            why="codebooks have 4 to 16 entries, and no integer kernel gets weights of 2 to 4 bits",
            fix="use --target int4, --precision w4a8, or --weight-format uniform",
        )
    odd = sorted({form.bits for form in formats} - set(PLAIN_BITS)) if options.packing == "plain" else []
    if odd:
        raise OptionError(
            f"--packing plain has no weights of {odd[0]} bits",
            why="ONNX has integers of 2, 4 and 8 bits",
            fix="give --precision one of these widths, or leave out --packing",
        )


def explained(plan: QuantPlan, requests: Sequence[LayerRequest]) -> QuantPlan:
    """``plan`` that says of each node how many bits its weights have, and why."""
    return replace(plan, nodes=with_bits(plan.nodes, requests))


def with_bits(nodes: Mapping[str, NodePlan], requests: Sequence[LayerRequest]) -> dict[str, NodePlan]:
    """``nodes`` with the bits of weights that ``requests`` ask for, and the reasons."""
    found = dict(nodes)
    for request in requests:
        node = found[request.node]
        bits = Precision(request.formats[0].bits, node.choice.precision.activation_bits)
        reason = f"{node.reason}; {request.reason}" if request.reason else node.reason
        found[request.node] = replace(node, choice=replace(node.choice, precision=bits), reason=reason)
    return found
