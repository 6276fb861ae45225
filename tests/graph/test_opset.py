"""Conversion to the canonical opset: operators in the forms of their time compute what they computed.

The converter of onnx was found wrong for Resize and Upsample (pixel positions), Hardmax (axes) and
GroupNormalization (scales by group): see ``ptqc/graph/opset.py``.
"""

from functools import cache

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from ptqc.core.errors import ModelError
from ptqc.execute.runtime import onnxruntime
from ptqc.graph.load import load_model
from ptqc.graph.opset import _WITHOUT_NEW_KERNEL, raise_opset, standard_opset
from ptqc.graph.save import serialize
from tests.graph.graph_models import run, text_model

CASES = [
    (7, 'y = Upsample <mode = "nearest", scales = [1.0, 1.0, 2.0, 3.0]> (x)'),
    (8, 'y = Upsample <mode = "linear", scales = [1.0, 1.0, 2.0, 2.0]> (x)'),
    (9, 'y = Upsample <mode = "nearest"> (x, grow)'),
    (9, 'y = Upsample <mode = "linear"> (x, grow)'),
    (10, 'y = Resize <mode = "nearest"> (x, grow)'),
    (10, 'y = Resize <mode = "linear"> (x, grow)'),
    (10, 'y = Resize <mode = "nearest"> (x, shrink)'),
    (10, 'y = Resize <mode = "linear"> (x, shrink)'),
    (11, 'y = Resize <mode = "linear", coordinate_transformation_mode = "align_corners"> (x, none, grow)'),
    (18, 'y = Resize <mode = "linear", antialias = 1> (x, , shrink)'),
    (7, 'y = Pad <mode = "constant", pads = [0, 0, 1, 1, 0, 0, 2, 2], value = 0.5> (x)'),
    (7, 'y = Pad <mode = "reflect", pads = [0, 0, 1, 1, 0, 0, 2, 2]> (x)'),
    (8, "y = Slice <axes = [2, 3], starts = [1, 0], ends = [5, -1]> (x)"),
    (7, "y, z = Split <axis = 1, split = [1, 3]> (x)"),
    (17, "y, z = Split <axis = 1> (x)"),
    (9, "y = ReduceMean <axes = [2, 3], keepdims = 0> (x)"),
    (11, "y = ReduceSum <axes = [1], keepdims = 1> (x)"),
    (17, "y = ReduceMax <axes = [-1]> (x)"),
    (17, "y = ReduceMean (x)"),
    (8, "y = Clip <min = 0.0, max = 0.3> (x)"),
    (8, "y = Clip <max = 0.3> (x)"),
    (7, "y, z = TopK <axis = 3, k = 2> (x)"),
    (7, "y = Softmax (x)"),
    (11, "y = Softmax <axis = -1> (x)"),
    (12, "y = LogSoftmax <axis = 2> (x)"),
    (12, "y = Hardmax <axis = -1> (x)"),
    (11, "y = Hardmax <axis = 3> (x)"),
    (9, 'y = MaxPool <kernel_shape = [2, 2], strides = [2, 2], auto_pad = "SAME_UPPER"> (x)'),
    (7, "y = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x)"),
    (10, "y = AveragePool <kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1> (x)"),
    (7, "a = Unsqueeze <axes = [0]> (x)  y = Squeeze <axes = [0]> (a)"),
    (7, "y = Dropout <ratio = 0.4> (x)"),
    (7, "y = BatchNormalization <epsilon = 0.001> (x, s, b, m, v)"),
    (7, "y = Sum (x, x, x)"),
    (7, "y = PRelu (x, p)"),
    (16, 'y = GridSample <mode = "bilinear"> (x, grid)'),
    (17, "y = LayerNormalization <axis = -1> (x, l)"),
    (18, "y = GroupNormalization <num_groups = 2> (x, g, g)"),
    (20, "y = GroupNormalization <num_groups = 2> (x, g, g)"),
    (20, "y = Gelu (x)"),
]


@cache
def constants() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    return {
        "grow": np.array([1, 1, 3, 1.5], np.float32),
        "shrink": np.array([1, 1, 0.6, 0.34], np.float32),
        "none": np.array([], np.float32),
        "s": normal(4),
        "b": normal(4),
        "m": normal(4),
        "v": np.abs(normal(4)),
        "p": normal(4, 1, 1),
        "grid": np.tanh(normal(2, 3, 3, 2)),
        "l": normal(6),
        "g": normal(2),
        "x": normal(2, 4, 6, 6),
    }


def old(opset: int, nodes: str) -> onnx.ModelProto:
    """The model with exactly the constants that its nodes read."""
    outputs = "y, z" if " z =" in nodes or ", z" in nodes else "y"
    read = {name for call in nodes.split("(")[1:] for name in call.split(")")[0].replace(",", " ").split()}
    weights = {name: array for name, array in constants().items() if name in read - {"x"}}
    text = f'<ir_version: 8, opset_import: ["" : {opset}]> net (float[2,4,6,6] x) => ({outputs}) {{ {nodes} }}'
    return onnx.shape_inference.infer_shapes(text_model(text, weights))


@pytest.mark.parametrize(("opset", "nodes"), CASES)
def test_meaning_is_kept(opset: int, nodes: str) -> None:
    model = old(opset, nodes)
    loaded = load_model(model)
    assert loaded.graph.opset_imports[""] == (20 if "GroupNorm" in nodes else 21)
    feeds = {"x": constants()["x"]}
    before, after = run(model.SerializeToString(), feeds), run(serialize(loaded), feeds)
    for expected, got in zip(before, after, strict=True):
        assert expected.dtype == got.dtype
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_hardmax_that_flattens_is_refused() -> None:
    with pytest.raises(ModelError, match="Hardmax over axis 1 in opset 11 cannot be converted"):
        load_model(old(11, "y = Hardmax (x)"))


def test_contradicting_intermediate_shapes_are_dropped_where_they_stop_the_converter() -> None:
    model = old(17, "a = Relu (x)  y = ReduceMean <axes = [1]> (a)")
    info = next(value for value in model.graph.value_info if value.name == "a")
    info.type.tensor_type.shape.dim.add().dim_value = 7
    loaded = load_model(model)
    assert loaded.graph.opset_imports[""] == 21
    assert str(loaded.graph[0].outputs[0].shape) == "[2,4,6,6]"


def schemas_at(opset: int) -> dict[str, onnx.defs.OpSchema]:
    """The definitions of the standard operators that an opset has."""
    found: dict[str, onnx.defs.OpSchema] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        known = found.get(schema.name)
        newer = known is None or schema.since_version > known.since_version
        if schema.domain == "" and schema.since_version <= opset and newer:
            found[schema.name] = schema
    return found


def test_newer_opsets_only_add_what_may_be_left_out() -> None:
    """What raise_opset rests on: a node that is valid in opset 21 or later means the same in 25."""
    required = onnx.defs.OpSchema.FormalParameterOption.Single
    newest = schemas_at(25)
    for opset in range(21, 25):
        for name, old_one in schemas_at(opset).items():
            new_one = newest[name]
            assert not new_one.deprecated or old_one.deprecated
            defaults = {key: str(value.default_value) for key, value in new_one.attributes.items()}
            assert {
                key: str(value.default_value) for key, value in old_one.attributes.items()
            }.items() <= defaults.items()
            assert not any(new_one.attributes[key].required for key in set(defaults) - set(old_one.attributes))
            for olds, news in ((old_one.inputs, new_one.inputs), (old_one.outputs, new_one.outputs)):
                names = [one.name for one in olds]
                assert [one.name for one in news][: len(names)] == names
                assert not any(one.option == required for one in news[len(names) :])


def test_operators_that_lose_their_kernel_are_known() -> None:
    kernels = onnxruntime().capi.onnxruntime_pybind11_state.get_all_opkernel_def()
    ranges: dict[str, list[tuple[int, int]]] = {}
    for kernel in kernels:
        if kernel.provider == "CPUExecutionProvider" and kernel.domain == "":
            ranges.setdefault(kernel.op_name, []).append(tuple(kernel.version_range))

    def runs(schema: onnx.defs.OpSchema) -> bool:
        since, open_end = schema.since_version, (1 << 31) - 1
        spans = ranges.get(schema.name, [])
        return any(first == since or (last < open_end and first <= since <= last) for first, last in spans)

    newest = schemas_at(25)
    lost = {name for name, schema in schemas_at(21).items() if runs(schema) and not runs(newest[name])}
    assert lost | {"Bernoulli"} == set(_WITHOUT_NEW_KERNEL)  # Bernoulli is a function of one of them


@pytest.mark.parametrize(
    ("opset", "operator", "goal", "reason"),
    [
        (21, "Abs", 25, ""),
        (24, "Abs", 25, ""),
        (26, "Abs", 25, ""),
        (13, "Abs", 0, ""),
        (20, "Abs", 21, "the model has opset 20, and onnx could not convert it to 21"),
        (21, "RandomNormalLike", 21, ""),
        (25, "RandomNormalLike", 25, ""),
        (21, "RandomNormalLike", 25, "the runtime has no RandomNormalLike of opset 25"),
    ],
)
def test_raising_the_opset(opset: int, operator: str, goal: int, reason: str) -> None:
    net = f"net (float[2] x) => (float[2] y) {{ y = {operator} (x) }}"
    model = ir.from_proto(onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["ai.onnx" : {opset}]> {net}'))
    assert raise_opset(model, goal) == reason
    assert standard_opset(model) == (opset if reason else max(opset, goal))
    if goal == 25 and not reason:
        assert model.ir_version == 13
