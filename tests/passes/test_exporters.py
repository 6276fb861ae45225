"""TorchScript, dynamo and TensorFlow-like exports of one network end in the same graph."""

import io
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

from ptqc.graph.load import load_model
from ptqc.graph.walk import constant_array
from ptqc.passes.base import PassContext
from ptqc.passes.pipeline import canonical_passes, run_passes

torch = pytest.importorskip("torch")
nn = torch.nn


class Cnn(nn.Module):  # type: ignore[misc]
    """BatchNorm, depthwise convolution, HardSwish, ReLU6, SiLU, squeeze-excite, residual, global average, Linear."""

    def __init__(self) -> None:
        super().__init__()
        self.c1, self.b1 = nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8)
        self.c2, self.b2 = nn.Conv2d(8, 8, 3, 1, 1, groups=8, bias=False), nn.BatchNorm2d(8)
        self.s1, self.s2 = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.c3, self.b3 = nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8)
        self.drop, self.fc = nn.Dropout(0.2), nn.Linear(8, 5)

    def forward(self, x: Any) -> Any:
        f = nn.functional
        x = f.hardswish(self.b1(self.c1(x)))
        y = f.relu6(self.b2(self.c2(x)))
        y = y * f.hardsigmoid(self.s2(torch.relu(self.s1(y.mean((2, 3), keepdim=True)))))
        x = x + f.silu(self.b3(self.c3(y)))
        return self.fc(self.drop(f.adaptive_avg_pool2d(x, 1).flatten(1)))


class Transformer(nn.Module):  # type: ignore[misc]
    """Patches, LayerNorm, attention, GELU."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.n1, self.n2 = nn.Conv2d(1, 16, 4, 4), nn.LayerNorm(16), nn.LayerNorm(16)
        self.qkv, self.up, self.down, self.head = (nn.Linear(*s) for s in ((16, 48), (16, 32), (32, 16), (16, 3)))

    def forward(self, x: Any) -> Any:
        x = self.patches(x).flatten(2).transpose(1, 2)
        batch, tokens, width = x.shape
        q, k, v = self.qkv(self.n1(x)).reshape(batch, tokens, 3, 2, 8).permute(2, 0, 3, 1, 4)
        a = torch.softmax(q @ k.transpose(-2, -1) * 8**-0.5, -1) @ v
        x = x + a.transpose(1, 2).reshape(batch, tokens, width)
        x = x + self.down(nn.functional.gelu(self.up(self.n2(x))))
        return self.head(x.mean(1))


def trained(make: Callable[[], Any]) -> Any:
    torch.manual_seed(0)
    net = make().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 2)
            module.bias.data.normal_()
    return net


def exported(net: Any, shape: tuple[int, ...], dynamo: bool, **options: Any) -> ir.Model:
    batch = (
        {"dynamic_shapes": ({0: torch.export.Dim("N")},), "external_data": False, "verbose": False}
        if dynamo
        else {"dynamic_axes": {"x": {0: "N"}, "y": {0: "N"}}}
    )
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net, (torch.zeros(shape),), buffer, dynamo=dynamo, input_names=["x"], output_names=["y"], **batch, **options
        )
    return load_model(onnx.load_from_string(buffer.getvalue()))


def canonical(model: ir.Model) -> list[object]:
    """The graph without names: operators, attributes and inputs by number, constants by value, output first."""
    results = run_passes(model, canonical_passes(), PassContext(), check=True)
    assert not results[0].unchecked
    numbers: dict[ir.Value, object] = {value: f"input {i}" for i, value in enumerate(model.graph.inputs)}
    lines: list[object] = []

    def visit(value: ir.Value) -> object:
        if value in numbers:
            return numbers[value]
        array = constant_array(value)
        if array is not None:
            return array
        node = value.producer()
        assert node is not None
        inputs = [None if given is None else visit(given) for given in node.inputs]
        lines.append((node.op_type, _attributes(node, model.opset_imports[""]), inputs))
        numbers[value] = f"node {len(lines)}"
        return numbers[value]

    for output in model.graph.outputs:
        lines.append(visit(output))
    return lines


def _attributes(node: ir.Node, opset: int) -> dict[str, object]:
    """Attributes that differ from their defaults."""
    schema = onnx.defs.get_schema(node.op_type, opset)
    found = {}
    for name, attribute in sorted(node.attributes.items()):
        default = schema.attributes[name].default_value
        value = attribute.value.decode() if isinstance(attribute.value, bytes) else attribute.value
        if not default.name or value != helper.get_attribute_value(default):
            found[name] = list(value) if isinstance(value, (list, tuple)) else value
    return found


def assert_same(a: object, b: object) -> None:
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        assert a.shape == b.shape
        np.testing.assert_allclose(a.astype(float), b.astype(float), rtol=1e-4, atol=1e-5)
    elif isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        assert len(a) == len(b), f"{a}\n{b}"
        for one, other in zip(a, b, strict=True):
            assert_same(one, other)
    elif isinstance(a, dict) and isinstance(b, dict):
        assert list(a) == list(b)
        for name in a:
            assert_same(a[name], b[name])
    else:
        assert a == (pytest.approx(b, rel=1e-5) if isinstance(b, float) else b)


@pytest.mark.parametrize(("make", "shape"), [(Cnn, (2, 3, 16, 16)), (Transformer, (2, 1, 16, 16))])
def test_exporters_of_pytorch_agree(make: Callable[[], Any], shape: tuple[int, ...]) -> None:
    net = trained(make)
    reference = canonical(exported(net, shape, dynamo=False, opset_version=17))
    assert_same(canonical(exported(net, shape, dynamo=False, opset_version=14, do_constant_folding=False)), reference)
    assert_same(canonical(exported(net, shape, dynamo=True, opset_version=18)), reference)
    assert_same(canonical(exported(net, shape, dynamo=True, opset_version=18, optimize=False)), reference)


class TensorFlowLike:
    """Writes the graph as tf2onnx does: [N, H, W, C], Transposes around convolutions, BatchNorm as Mul and Add."""

    def __init__(self, net: Any) -> None:
        self.weights = {name: value.numpy() for name, value in net.state_dict().items()}
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def const(self, value: Any, dtype: type = np.float32) -> str:
        name = f"const_{len(self.constants)}"
        self.constants[name] = np.asarray(value, dtype)
        return name

    def conv(self, x: str, name: str, norm: str = "", **attributes: Any) -> str:
        inside = self.op("Transpose", x, perm=[0, 3, 1, 2])
        y = self.op("Conv", inside, self.const(self.weights[f"{name}.weight"]), **attributes)
        y = self.op("Transpose", y, perm=[0, 2, 3, 1])
        if not norm:
            return self.op("Add", y, self.const(self.weights[f"{name}.bias"]))
        gamma, beta, mean, variance = (
            self.weights[f"{norm}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")
        )
        scale = gamma / np.sqrt(variance + 1e-5)
        return self.op("Add", self.op("Mul", y, self.const(scale)), self.const(beta - mean * scale))

    def relu6(self, x: str) -> str:
        return self.op("Min", self.op("Max", x, self.const(0.0)), self.const(6.0))

    def gate(self, x: str) -> str:
        return self.relu6(self.op("Add", x, self.const(3.0)))

    def cnn(self) -> onnx.ModelProto:
        x = self.op("Transpose", "x", perm=[0, 2, 3, 1])
        padded = self.op("Pad", x, self.const([0, 1, 1, 0, 0, 1, 1, 0], np.int64))
        x = self.conv(padded, "c1", "b1", strides=[2, 2], auto_pad="VALID")
        x = self.op("Div", self.op("Mul", x, self.gate(x)), self.const(6.0))
        y = self.relu6(self.conv(x, "c2", "b2", group=8, auto_pad="SAME_UPPER"))
        mean = self.op("ReduceMean", y, self.const([1, 2], np.int64), keepdims=1)
        squeezed = self.op("Max", self.conv(mean, "s1"), self.const(0.0))
        y = self.op("Mul", y, self.op("Div", self.gate(self.conv(squeezed, "s2")), self.const(6.0)))
        y = self.conv(y, "c3", "b3", kernel_shape=[1, 1])
        x = self.op("Add", x, self.op("Mul", y, self.op("Sigmoid", y)))
        x = self.op("ReduceMean", x, self.const([1, 2], np.int64), keepdims=0)
        x = self.op("MatMul", self.op("Identity", x), self.const(self.weights["fc.weight"].T))
        self.nodes.append(helper.make_node("Add", [x, self.const(self.weights["fc.bias"])], ["y"], name="last"))
        kinds = [helper.make_tensor_value_info(n, 1, s) for n, s in (("x", ["N", 3, 16, 16]), ("y", ["N", 5]))]
        tensors = [numpy_helper.from_array(np.ascontiguousarray(a), name) for name, a in self.constants.items()]
        graph = helper.make_graph(self.nodes, "tf", kinds[:1], kinds[1:], tensors)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def test_tensorflow_agrees_with_pytorch() -> None:
    net = trained(Cnn)
    reference = canonical(exported(net, (2, 3, 16, 16), dynamo=False, opset_version=17))
    assert_same(canonical(load_model(TensorFlowLike(net).cnn())), reference)
