"""The checks behind ``check=True``: is the graph well formed, and does it still compute the same on a seeded probe."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_ir as ir

from ptqc.core.errors import ModelError, PassError
from ptqc.core.types import Array
from ptqc.execute.runtime import NEWEST_IR_VERSION, create_session, runtime_errors
from ptqc.graph.walk import constant_array, graphs
from ptqc.passes.base import Numerics

# Tried in turn until the model runs: size of dynamic first axes, of other dynamic axes, bound of integers.
ATTEMPTS = ((2, 16, 64), (1, 32, 64), (1, 512, 64), (2, 16, 2), (1, 32, 2), (1, 512, 2), (1, 1, 2))
MAX_ELEMENTS = 1 << 24
MAX_BYTES = 1 << 31  # protobuf's limit for a serialized model
RANDOM_OPERATORS = (
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "Multinomial",
    "Bernoulli",
)

Outputs = Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class Probe:
    """Inputs and the outputs of the model before a pass.

    Attributes:
        noise: by how much the runtime's own optimizations move each output: what rounding is worth in this model.
        skipped: why there is no probe.
    """

    feeds: Mapping[str, Array]
    outputs: Outputs
    noise: Mapping[str, float] = field(default_factory=dict)
    skipped: str = ""


def check_structure(model: ir.Model) -> str | None:
    """Names unique, nodes in topological order, no dangling values, valid operators; what is wrong, or None."""
    for problem in _structure_problems(model):
        return problem
    if _initializer_bytes(model) >= MAX_BYTES:
        return None
    try:
        onnx.checker.check_model(_to_proto(model))
    except onnx.checker.ValidationError as error:
        return str(error).splitlines()[0]
    return None


def _structure_problems(model: ir.Model) -> Iterable[str]:
    names: dict[str, object] = {}
    for graph in graphs(model):
        held = [*graph.inputs, *graph.initializers.values(), *(v for node in graph for v in node.outputs if v.name)]
        for value in held:
            if value.name and names.setdefault(value.name, value) is not value:
                yield f"the name '{value.name}' belongs to two values"
        known = {id(value) for value in (*graph.inputs, *graph.initializers.values())}
        for node in graph:
            for given in node.inputs:
                if given is not None and id(given) not in known and _belongs(given, graph):
                    yield f"node '{node.name}' reads '{given.name}', which nothing before it computes"
            known.update(id(value) for value in node.outputs)
        for output in graph.outputs:
            if id(output) not in known and _belongs(output, graph):
                yield f"the graph output '{output.name}' is not computed"
    node_names = [node.name for node in model.graph if node.name]
    if len(node_names) != len(set(node_names)):
        yield f"the name '{next(n for n in node_names if node_names.count(n) > 1)}' belongs to two nodes"


def _belongs(value: ir.Value, graph: ir.Graph) -> bool:
    """False for a value that an outer graph provides."""
    producer = value.producer()
    return (
        value.graph is graph
        or (producer is None and value.graph is None)
        or (producer is not None and producer.graph is None)
    )


def make_probe(model: ir.Model, seed: int = 0) -> Probe:
    """Seeded inputs and the outputs for them; a reason instead, where the model cannot be run so."""
    if any(node.op_type in RANDOM_OPERATORS for graph in graphs(model) for node in graph):
        return Probe({}, {}, skipped="the model draws random numbers")
    if _initializer_bytes(model) >= MAX_BYTES:
        return Probe({}, {}, skipped="the model is larger than 2 GB")
    reason = "no inputs"
    for first, others, bound in ATTEMPTS:
        try:
            feeds = _probe_inputs(model, first, others, bound, seed)
        except ValueError as error:
            return Probe({}, {}, skipped=str(error))
        try:
            outputs = evaluate(model, feeds)
            if sum(array.size for array in outputs.values()) > MAX_ELEMENTS:
                reason = "its outputs are too large"
                continue
            return Probe(feeds, outputs, _noise(model, feeds, outputs))
        except PassError as error:
            reason = error.why
    return Probe({}, {}, skipped=f"the model does not run on random inputs: {reason}")


def evaluate(model: ir.Model, feeds: Mapping[str, Array], optimize: bool = False) -> Outputs:
    """Outputs of ``model`` by onnxruntime, its optimizations off unless asked for. PassError where it does not run."""
    try:
        session = create_session(_to_proto(model).SerializeToString(), optimize=optimize)
        outputs = session.run(None, dict(feeds))
    except _refusals() as error:
        raise PassError("the model does not run", why=_reason(error)) from error
    return {value.name or "": np.asarray(array) for value, array in zip(model.graph.outputs, outputs, strict=True)}


def evaluate_node(node: ir.Node, model: ir.Model) -> Array:
    """The only output of a node whose inputs are constants. PassError where onnxruntime cannot compute it.

    The constants are fed as inputs, so that large ones are not serialized.
    """
    feeds = {}
    for value in node.inputs:
        if value is not None:
            array = constant_array(value)
            if array is None or array.dtype.kind not in "biuf":
                raise PassError("a node cannot be evaluated", why=f"'{value.name}' is no plain constant")
            feeds[value.name or ""] = array
    inputs = [
        onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in feeds.items()
    ]
    output = onnx.ValueInfoProto(name=node.outputs[0].name or "")
    graph = onnx.helper.make_graph([ir.to_proto(node)], "node", inputs, [output])
    opsets = [onnx.helper.make_opsetid("", model.opset_imports[""])]
    proto = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=min(model.ir_version, NEWEST_IR_VERSION))
    try:
        session = create_session(proto.SerializeToString(), optimize=False)
        return np.asarray(session.run(None, feeds)[0])
    except _refusals() as error:
        raise PassError("a node cannot be evaluated", why=_reason(error)) from error


def _noise(model: ir.Model, feeds: Mapping[str, Array], plain: Outputs) -> dict[str, float]:
    try:
        optimized = evaluate(model, feeds, optimize=True)
    except PassError:
        return {}  # onnxruntime's optimizer spoils some valid graphs: it folds a Pad wider than the window behind it
    noise = {}
    for name, array in plain.items():
        other = optimized[name]
        if array.dtype.kind == "f" and other.shape == array.shape:
            apart = _distance(array, other)
            noise[name] = float(np.max(apart, initial=0.0, where=np.isfinite(apart)))
    return noise


def _distance(a: Array, b: Array) -> Array:
    with np.errstate(invalid="ignore"):  # infinities of the same sign
        return np.asarray(np.abs(a.astype(np.float64) - b.astype(np.float64)))


def difference(before: Probe, after: Outputs, numerics: Numerics) -> str | None:
    """Which output differs by more than ``numerics`` allows, and by how much; None where all agree.

    ``exact`` compares bits. ``close`` allows 1e-3 of a value, plus 1e-4 of the largest one or 10 times the runtime's
    own noise (half precision: 2e-2 and 1e-2): a rewrite reorders float sums, whose errors grow with depth.
    ``changes`` asks only for the same outputs.
    """
    if list(before.outputs) != list(after):
        return f"the outputs are {list(after)} instead of {list(before.outputs)}"
    for name, old in before.outputs.items():
        new = after[name]
        if old.dtype != new.dtype or old.shape != new.shape:
            return f"output '{name}' is {new.dtype}{list(new.shape)} instead of {old.dtype}{list(old.shape)}"
        if numerics == "changes" or old.dtype.kind in "OSU" or old.tobytes() == new.tobytes():
            continue
        if numerics == "exact" or old.dtype.kind in "biu":
            if not np.array_equal(old, new, equal_nan=old.dtype.kind == "f"):
                return f"output '{name}' changed"
            continue
        half = old.dtype.itemsize < 4
        largest = float(np.max(np.abs(old), initial=0.0, where=np.isfinite(old)))
        wide_old, wide_new = old.astype(np.float64), new.astype(np.float64)
        least = max((1e-2 if half else 1e-4) * largest, 10 * before.noise.get(name, 0.0))
        if not np.allclose(wide_new, wide_old, rtol=2e-2 if half else 1e-3, atol=least, equal_nan=True):
            return f"output '{name}' differs by {np.nanmax(_distance(old, new)):.3g} of {largest:.3g}"
    return None


def _refusals() -> tuple[type[Exception], ...]:
    """What a session raises for a model or inputs that it does not accept."""
    return (ModelError, RuntimeError, *runtime_errors())


def _reason(error: Exception) -> str:
    """The sentence in which the runtime says what it does not accept."""
    return error.why if isinstance(error, ModelError) else str(error).splitlines()[0]


def _to_proto(model: ir.Model) -> onnx.ModelProto:
    proto = ir.to_proto(model)
    proto.ir_version = max(proto.ir_version, 4)  # before 4, initializers had to be inputs too
    return proto


def _probe_inputs(model: ir.Model, first: int, others: int, bound: int, seed: int) -> dict[str, Array]:
    """One array for each input; a dynamic dimension that comes first somewhere has that size everywhere."""
    sizes: dict[str | None, int] = {}
    for value in model.graph.inputs:
        for axis, dim in enumerate(value.shape or ()):
            if not isinstance(dim, int):
                sizes[dim.value] = first if axis == 0 else sizes.get(dim.value, others)
    return {
        value.name or "": _probe_input(value, sizes, bound, np.random.default_rng((seed, index)))
        for index, value in enumerate(model.graph.inputs)
    }


def _probe_input(value: ir.Value, sizes: Mapping[str | None, int], bound: int, rng: np.random.Generator) -> Array:
    """ValueError says why an input of this type cannot be made up."""
    if value.dtype is None or value.shape is None or not isinstance(value.type, ir.TensorType):
        raise ValueError(f"input '{value.name}' has no tensor type")
    if value.dtype == ir.DataType.STRING or not value.dtype.numpy().isbuiltin:
        raise ValueError(f"input '{value.name}' is of type {value.dtype.name}")
    shape = [dim if isinstance(dim, int) else sizes[dim.value] for dim in value.shape]
    if np.prod(shape, dtype=np.float64) > MAX_ELEMENTS:
        raise ValueError(f"input '{value.name}' has too many elements")
    if value.dtype.is_floating_point():
        return rng.standard_normal(shape).astype(value.dtype.numpy())
    if value.dtype.is_integer():
        return rng.integers(0, bound, shape).astype(value.dtype.numpy())
    if value.dtype == ir.DataType.BOOL:
        return rng.integers(0, 2, shape).astype(bool)
    raise ValueError(f"input '{value.name}' is of type {value.dtype.name}")


def _initializer_bytes(model: ir.Model) -> int:
    return sum(
        value.const_value.nbytes
        for graph in graphs(model)
        for value in graph.initializers.values()
        if value.const_value is not None
    )
