"""The runtime's kernel of every step by itself, on operands at ties and extremes, against the interpreter.

A whole network rarely brings an accumulator far inside it to a tie; a model of one step is fed what is wanted. Sums,
products of codes and concatenations are tried with every pair of codes that there is.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ptqc.core.errors import PtqcError
from ptqc.core.progress import Steps
from ptqc.core.types import Array
from ptqc.execute.runtime import create_session, run_session
from ptqc.verify.integers import limits
from ptqc.verify.interpreter import run
from ptqc.verify.program import (
    AddCodes,
    Carrier,
    ConcatCodes,
    Door,
    MultiplyCodes,
    Operator,
    Product,
    Program,
    Step,
    TensorInfo,
)
from ptqc.verify.ties import Rows, extreme_codes, rows_of, tie_codes

TYPES = {"uint8": TensorProto.UINT8, "int8": TensorProto.INT8}
MOST_PATCHES = 64
RANDOM_PATCHES = 4
MOST_PATCH_CODES = 1 << 20
MICROSOFT = "com.microsoft"
FREE_FACTORS = 8  # columns that are made up where both factors of a product are activations


@dataclass(frozen=True, slots=True)
class KernelTest:
    """One step alone.

    Attributes:
        outputs: codes that were compared.
        ties: of them were constructed to lie half way between two codes.
        differ: codes that differ; then the operands' description, what was expected and what came.
        refused: why the runtime did not take it; empty where it did.
    """

    node: str
    outputs: int
    ties: int
    differ: int = 0
    operands: str = ""
    expected: int = 0
    found: int = 0
    refused: str = ""

    @property
    def holds(self) -> bool:
        """Whether all codes were equal."""
        return not self.differ and not self.refused


def check_kernels(program: Program, seed: int, progress: Steps) -> tuple[KernelTest, ...]:
    """Every product, sum and concatenation that a kernel with a float32 multiplier carries, in graph order."""
    steps = [step for step in program.steps if step.carrier is not Carrier.INTEGER and not isinstance(step, Operator)]
    found = []
    for index, step in enumerate(steps):
        rng = np.random.default_rng([seed, index])
        case = _case(program, step, rng)
        if case is not None:
            found.append(_tested(case))
        progress(index + 1, len(steps))
    return tuple(found)


@dataclass(frozen=True, slots=True, eq=False)
class _Case:
    """A step, its operands by name, the same step for the runtime, and the ties among the results."""

    step: Step
    feeds: Mapping[str, Array]
    types: Mapping[str, str]
    nodes: Sequence[onnx.NodeProto]
    constants: Mapping[str, Array]
    ties: int


def _case(program: Program, step: Step, rng: np.random.Generator) -> _Case | None:
    types = [program.tensors[name].type if name in program.tensors else "" for name in (*step.inputs, step.output)]
    if any(name not in TYPES for name in types):
        return None
    if isinstance(step, Product):
        return _product_case(step, types, rng)
    if isinstance(step, AddCodes | MultiplyCodes):
        return _pair_case(step, types)
    if isinstance(step, ConcatCodes):
        return _concat_case(step, types)
    return None


def _tested(case: _Case) -> KernelTest:
    step = case.step
    tensors = {name: TensorInfo(kind) for name, kind in case.types.items()}
    doors = tuple(Door("", name, name, case.types[name]) for name in case.feeds)
    exits = (Door("", step.output, step.output, case.types[step.output]),)
    expected = run(Program(doors, exits, (step,), {}, tensors), case.feeds)[step.output]
    feeds = {name: codes.astype(case.types[name]) for name, codes in case.feeds.items()}
    try:
        session = create_session(_model(case).SerializeToString())
        (found,) = run_session(session, [step.output], feeds)
    except PtqcError as error:
        return KernelTest(step.node, 0, 0, refused=error.why or error.what)
    unequal = np.flatnonzero(found.astype(np.int64).ravel() != expected.ravel())
    test = KernelTest(step.node, expected.size, case.ties)
    if not unequal.size:
        return test
    at = int(unequal[0])
    return replace(
        test,
        differ=unequal.size,
        operands=_operands(case, expected.shape, at),
        expected=int(expected.ravel()[at]),
        found=int(found.ravel()[at]),
    )


def _operands(case: _Case, shape: tuple[int, ...], at: int) -> str:
    place = [int(part) for part in np.unravel_index(at, shape)]
    if isinstance(case.step, Product):
        return f"operands {place[0]}, output channel {place[1]}"
    pair = (f"{name} = {int(codes.ravel()[at % codes.size])}" for name, codes in case.feeds.items())
    return ", ".join(pair)


def _model(case: _Case) -> onnx.ModelProto:
    domains = sorted({node.domain for node in case.nodes})
    graph = helper.make_graph(
        list(case.nodes),
        "step",
        [
            helper.make_tensor_value_info(name, TYPES[case.types[name]], codes.shape)
            for name, codes in case.feeds.items()
        ],
        [helper.make_tensor_value_info(case.step.output, TYPES[case.types[case.step.output]], None)],
        [numpy_helper.from_array(np.array(array, order="C"), name) for name, array in case.constants.items()],
    )
    opsets = [helper.make_opsetid("", 21), *(helper.make_opsetid(domain, 1) for domain in domains if domain)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def _product_case(step: Product, types: Sequence[str], rng: np.random.Generator) -> _Case | None:
    """Operands side by side along the first axis; the multiplier stands in the scale of the weights."""
    if step.requantization is None or step.attributes.get("transA", 0):
        return None
    if step.weights is None:
        width = max(2, FREE_FACTORS)
        low, high = limits(types[1])
        weights = rng.integers(low, high, (4 * width, width), np.int64, endpoint=True)
        attributes = {name: value for name, value in step.attributes.items() if name != "transB"}
        step = replace(step, weights=weights, attributes=attributes, inputs=step.inputs[:1], operator="MatMul")
        types = (types[0], types[2])
        weight_type = "uint8" if low == 0 else "int8"
    else:
        weight_type = "int8" if int(step.weights.min(initial=0)) < 0 or not step.zero_points[1].any() else "uint8"
    rows = rows_of(step)
    if rows is None or step.weights is None:
        return None
    codes, ties = _operand_rows(step, rows, types[0], rng)
    attributes = {"group": rows.groups}
    if step.operator == "Conv":
        rank = step.weights.ndim - 2
        dilations = tuple(step.attributes.get("dilations") or (1,) * rank)
        extents = [(taps - 1) * dilation + 1 for taps, dilation in zip(step.weights.shape[2:], dilations, strict=True)]
        patches = codes.reshape(len(codes), -1, *step.weights.shape[2:])
        codes = np.full((*patches.shape[:2], *extents), step.zero_points[0], np.int64)
        codes[(slice(None), slice(None), *(slice(None, None, dilation) for dilation in dilations))] = patches
        attributes |= {"dilations": dilations}
        # Operators in the file have pads and strides of their own; one field has neither.
        step = replace(
            step, attributes={**step.attributes, **attributes, "pads": (0,) * 2 * rank, "auto_pad": "NOTSET"}
        )
    step = replace(step, inputs=step.inputs[:1])
    nodes, constants = _product_nodes(step, types, weight_type)
    feeds = {step.inputs[0]: codes}
    return _Case(step, feeds, {step.inputs[0]: types[0], step.output: types[-1]}, nodes, constants, ties)


def _operand_rows(step: Product, rows: Rows, kind: str, rng: np.random.Generator) -> tuple[Array, int]:
    """Codes [P, groups * K] at ties, at the greatest and least accumulators and at random; the number of ties."""
    assert step.requantization is not None
    low, high = (end - step.zero_points[0] for end in limits(kind))
    channels_of_group = len(rows.bias) // rows.groups
    reads = rows.groups * rows.weights.shape[1]
    patches = max(2, min(MOST_PATCHES, channels_of_group, MOST_PATCH_CODES // reads))
    chosen = rng.permuted(np.tile(np.arange(channels_of_group), (rows.groups, 1)), axis=1)
    channels = np.concatenate([chosen[:, [p % channels_of_group]].T for p in range(patches)])
    channels = (channels + np.arange(rows.groups) * channels_of_group).ravel()  # [patches, groups]
    at_ties, hit = tie_codes(rows, step.requantization, channels, (low, high), rng)
    ends = extreme_codes(rows, channels, (low, high))
    chance = rng.integers(low, high, (RANDOM_PATCHES, reads), np.int64, endpoint=True)
    parts = [part.reshape(patches, reads) for part in (at_ties, ends)]
    return np.concatenate([*parts, chance]) + step.zero_points[0], int(hit.sum())


def _product_nodes(
    step: Product, types: Sequence[str], weight_type: str
) -> tuple[list[onnx.NodeProto], dict[str, Array]]:
    assert step.weights is not None and step.requantization is not None
    name, one = step.inputs[0], np.float32(1)
    weight_zero = step.zero_points[1].astype(weight_type)
    scale = np.asarray(step.requantization.scale, np.float32)
    constants: dict[str, Array] = {
        "one": np.asarray(one),
        "zero": np.asarray(step.zero_points[0], types[0]),
        "weights": step.weights.astype(weight_type),
        "scale": scale,
        "weight_zero": np.broadcast_to(weight_zero, scale.shape) if weight_zero.ndim == 0 else weight_zero,
        "output_zero": np.asarray(step.requantization.zero_point, types[-1]),
    }
    operands = [name, "one", "zero", "weights", "scale", "weight_zero"]
    ends = ["one", "output_zero"]
    if step.bias is not None:
        constants["bias"] = step.bias.astype(np.int32)
    bias = ["bias" if step.bias is not None else ""]
    if step.operator == "Conv":
        attributes = {key: step.attributes[key] for key in ("group", "dilations")}
        inputs = operands + ends + (bias if bias[0] else [])
        return [helper.make_node("QLinearConv", inputs, [step.output], **attributes)], constants
    if step.operator == "Gemm" or step.bias is not None:
        transposed = int(step.attributes.get("transB", 0)) if step.operator == "Gemm" else 0
        inputs = operands + bias + ends
        return [helper.make_node("QGemm", inputs, [step.output], domain=MICROSOFT, transB=transposed)], constants
    return [helper.make_node("QLinearMatMul", operands + ends, [step.output])], constants


def _pair_case(step: AddCodes | MultiplyCodes, types: Sequence[str]) -> _Case:
    """Every pair of codes."""
    names = ("first", "second")  # the two inputs may be one tensor
    (low, high), (least, most) = limits(types[0]), limits(types[1])
    first, second = (part.ravel() for part in np.mgrid[low : high + 1, least : most + 1].astype(np.int64))
    scales = step.scales if isinstance(step, AddCodes) else (step.requantization.scale, np.float32(1))
    zero_point = step.zero_point if isinstance(step, AddCodes) else step.requantization.zero_point
    constants: dict[str, Array] = {"one": np.asarray(np.float32(1)), "zero": np.asarray(zero_point, types[-1])}
    inputs = []
    for name, scale, zero, kind in zip(names, scales, step.zero_points, types, strict=False):
        constants |= {
            f"{name}_scale": np.asarray(scale, np.float32).reshape(()),
            f"{name}_zero": np.asarray(zero, kind),
        }
        inputs += [name, f"{name}_scale", f"{name}_zero"]
    operator = "QLinearAdd" if isinstance(step, AddCodes) else "QLinearMul"
    node = helper.make_node(operator, [*inputs, "one", "zero"], [step.output], domain=MICROSOFT)
    kinds = dict(zip((*names, step.output), types, strict=True))
    alone = replace(step, inputs=names)
    return _Case(
        alone, dict(zip(names, (first, second), strict=True)), kinds, [node], constants, _ties_of(alone, first, second)
    )


def _ties_of(step: AddCodes | MultiplyCodes, first: Array, second: Array) -> int:
    """How many pairs lie half way between two codes."""
    one, other = first - step.zero_points[0], second - step.zero_points[1]
    if isinstance(step, AddCodes):
        exact = one * float(np.ravel(step.scales[0])[0]) + other * float(np.ravel(step.scales[1])[0])
    else:
        exact = one * other * float(np.ravel(step.requantization.scale)[0])
    return int((exact - np.floor(exact) == 0.5).sum())


def _concat_case(step: ConcatCodes, types: Sequence[str]) -> _Case | None:
    """Every code of every input."""
    if len(set(types)) > 1:
        return None
    names = tuple(f"input{index}" for index in range(len(step.inputs)))
    low, high = limits(types[0])
    codes = np.arange(low, high + 1, dtype=np.int64)[:, None]
    constants: dict[str, Array] = {"one": np.asarray(np.float32(1)), "zero": np.asarray(step.zero_point, types[-1])}
    for name, scale, zero in zip(names, step.scales, step.zero_points, strict=True):
        constants |= {
            f"{name}_scale": np.asarray(scale, np.float32).reshape(()),
            f"{name}_zero": np.asarray(zero, types[0]),
        }
    node = helper.make_node(
        "QLinearConcat",
        ["one", "zero", *_triples(names)],
        [step.output],
        domain=MICROSOFT,
        axis=1,
    )
    kinds = dict(zip((*names, step.output), types, strict=True))
    return _Case(replace(step, inputs=names, axis=1), dict.fromkeys(names, codes), kinds, [node], constants, 0)


def _triples(names: Sequence[str]) -> Iterator[str]:
    for name in names:
        yield from (name, f"{name}_scale", f"{name}_zero")
