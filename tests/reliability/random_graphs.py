"""Random networks of the operators that convolutional networks and transformers are made of, drawn by hypothesis.

Weights are drawn as training leaves them: channels of very different magnitude, some of them dead. A network keeps
the variance of its activations roughly, so that 8 bits suffice for every tensor.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from ptqc.core.types import Array
from ptqc.graph.load import load_model
from ptqc.graph.text import to_text

# What has an integer kernel in every setting that the generator draws.
INTEGER = frozenset(
    "Conv Gemm MatMul Add Mul Concat MaxPool Relu Clip LeakyRelu Sigmoid Flatten Reshape Transpose Split Pad "
    "GlobalAveragePool AveragePool BatchNormalization Resize".split()
)


@dataclass
class Network:
    """A network under construction; ``values`` maps tensors to their shapes (samples first)."""

    draw: st.DrawFn
    opset: int
    rng: np.random.Generator
    batch: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, Array] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    convolutions: list[tuple[str, str, int]] = field(default_factory=list)

    def constant(self, array: Array) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = array
        return name

    def node(self, op: str, inputs: list[str], shape: tuple[int, ...], **attributes: object) -> str:
        name = f"t{len(self.shapes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], f"{op.lower()}_{len(self.nodes)}", **attributes))
        self.shapes[name] = shape
        return name

    def weights(self, *shape: int) -> Array:
        """[O, I...], magnitudes log-normal by channel, now and then a dead channel."""
        spread = np.exp(self.rng.normal(scale=self.draw(st.sampled_from([0.1, 0.7])), size=shape[0]))
        if shape[0] > 1 and self.draw(st.booleans()):
            spread[self.rng.integers(shape[0])] = 0
        weights = self.rng.normal(size=shape) * spread.reshape(-1, *([1] * (len(shape) - 1)))
        norm = np.sqrt((weights**2).mean() * np.prod(shape[1:])) or 1.0
        return (weights / norm).astype(np.float32)

    def bias(self, width: int) -> Array:
        return (self.rng.normal(size=width) * 0.3).astype(np.float32)


def convolve(net: Network, x: str) -> str:
    """A convolution: plain, grouped or depthwise, strided, dilated, padded; now and then with weights used before."""
    n, c, h, w = net.shapes[x]
    for weight, bias, channels in net.convolutions:
        if channels == c and net.draw(st.integers(0, 2)) == 0:
            return net.node("Conv", [x, weight, bias], (n, c, h, w), kernel_shape=[3, 3], pads=[1] * 4)
    if c % 2 == 0 and net.draw(st.integers(0, 3)) == 0:
        group = net.draw(st.sampled_from([2, c]))
    else:
        group = 1
    out = c if group == c else group * net.draw(st.integers(1, 4))
    k = net.draw(st.sampled_from([1, 3]))
    stride = net.draw(st.sampled_from([1, 1, 2]))
    dilation = net.draw(st.sampled_from([1, 1, 2])) if k == 3 else 1
    pad = dilation if k == 3 and (min(h, w) <= 4 or net.draw(st.booleans())) else 0
    size = [(s + 2 * pad - dilation * (k - 1) - 1) // stride + 1 for s in (h, w)]
    inputs = [x, net.constant(net.weights(out, c // group, k, k))]
    if net.draw(st.booleans()):
        inputs.append(net.constant(net.bias(out)))
    if (group, k, stride, dilation, pad, out) == (1, 3, 1, 1, 1, c) and len(inputs) == 3:
        net.convolutions.append((inputs[1], inputs[2], c))
    attributes = {"kernel_shape": [k, k], "pads": [pad] * 4, "group": group}
    attributes |= {"strides": [stride] * 2, "dilations": [dilation] * 2}
    return net.node("Conv", inputs, (n, out, *size), **attributes)


def normalise(net: Network, x: str) -> str:
    """BatchNormalization with statistics like those of trained networks."""
    c = net.shapes[x][1]
    arrays = [0.8 + 0.4 * net.rng.random(c), net.bias(c), net.bias(c), 0.5 + net.rng.random(c)]
    inputs = [x, *(net.constant(a.astype(np.float32)) for a in arrays)]
    return net.node("BatchNormalization", inputs, net.shapes[x])


def activate(net: Network, x: str) -> str:
    """An activation function, fused or not."""
    shape, kind = net.shapes[x], net.draw(st.sampled_from(["Relu", "Relu", "Clip", "Narrow", "LeakyRelu", "Sigmoid"]))
    if kind in ("Clip", "Narrow"):
        low, high = (0.0, 6.0) if kind == "Clip" else (0.25, 1.5)
        bounds = [net.constant(np.array(bound, np.float32)) for bound in (low, high)]
        return net.node("Clip", [x, *bounds], shape)
    return net.node(kind, [x], shape, **({"alpha": 0.1} if kind == "LeakyRelu" else {}))


def hard_swish(net: Network, x: str) -> str:
    """HardSwish, decomposed where the opset does not know it."""
    shape = net.shapes[x]
    if net.opset >= 14:
        return net.node("HardSwish", [x], shape)
    gate = net.node("HardSigmoid", [x], shape, alpha=1 / 6, beta=0.5)
    return net.node("Mul", [x, gate], shape)


def partners(net: Network, x: str, axis: int | None) -> list[str]:
    """Tensors of the shape of ``x``, where ``axis`` may differ."""
    shape = net.shapes[x]
    return [
        name
        for name, other in net.shapes.items()
        if len(other) == len(shape)
        and all(a == b for i, (a, b) in enumerate(zip(shape, other, strict=True)) if i != axis)
    ]


def combine(net: Network, x: str) -> str:
    """Add, Mul by a gate, or Concat with an earlier tensor."""
    kind = net.draw(st.sampled_from(["Add", "Add", "Gate", "Concat"]))
    if kind == "Concat":
        other = net.draw(st.sampled_from(partners(net, x, axis=1)))
        shape = list(net.shapes[x])
        shape[1] += net.shapes[other][1]
        return net.node("Concat", [x, other], tuple(shape), axis=1)
    other = net.draw(st.sampled_from(partners(net, x, axis=None)))
    if kind == "Add":
        return net.node("Add", [x, other], net.shapes[x])
    return net.node("Mul", [other, net.node("Sigmoid", [x], net.shapes[x])], net.shapes[x])


def pool(net: Network, x: str) -> str:
    """MaxPool or AveragePool."""
    n, c, h, w = net.shapes[x]
    kind = net.draw(st.sampled_from(["MaxPool", "AveragePool"]))
    return net.node(kind, [x], (n, c, h // 2, w // 2), kernel_shape=[2, 2], strides=[2, 2])


def move(net: Network, x: str) -> str:
    """Pad, Transpose there and back around a Relu, Split, or Reshape there and back."""
    n, c, h, w = shape = net.shapes[x]
    kind = net.draw(st.sampled_from(["Pad", "Transpose", "Split", "Reshape"]))
    if kind == "Pad":
        pads = net.constant(np.array([0, 0, 1, 0, 0, 0, 0, 1], np.int64))
        return net.node("Pad", [x, pads], (n, c, h + 1, w + 1))
    if kind == "Transpose":
        turned = net.node("Transpose", [x], (n, h, w, c), perm=[0, 2, 3, 1])
        bent = net.node("Relu", [turned], (n, h, w, c))
        return net.node("Transpose", [bent], shape, perm=[0, 3, 1, 2])
    if kind == "Reshape":
        flat = net.node("Reshape", [x, net.constant(np.array([0, c, h * w], np.int64))], (n, c, h * w))
        return net.node("Reshape", [flat, net.constant(np.array([0, c, h, w], np.int64))], shape)
    if c < 2:
        return x
    return split(net, x)


def excite(net: Network, x: str) -> str:
    """Squeeze and excite: spatial means, two convolutions, a gate for each channel."""
    n, c, *_ = shape = net.shapes[x]
    if net.draw(st.booleans()):
        mean = net.node("GlobalAveragePool", [x], (n, c, 1, 1))
    elif net.opset >= 18:
        mean = net.node("ReduceMean", [x, net.constant(np.array([2, 3], np.int64))], (n, c, 1, 1), keepdims=1)
    else:
        mean = net.node("ReduceMean", [x], (n, c, 1, 1), axes=[2, 3], keepdims=1)
    small = max(1, c // 2)
    inner = net.node("Conv", [mean, net.constant(net.weights(small, c, 1, 1))], (n, small, 1, 1))
    inner = net.node("Relu", [inner], (n, small, 1, 1))
    gate = net.node("Conv", [inner, net.constant(net.weights(c, small, 1, 1))], (n, c, 1, 1))
    kind, attributes = net.draw(st.sampled_from([("Sigmoid", {}), ("HardSigmoid", {"alpha": 1 / 6})]))
    return net.node("Mul", [x, net.node(kind, [gate], (n, c, 1, 1), **attributes)], shape)


def bend_in_float(net: Network, x: str) -> str:
    """An operator that has no integer kernel."""
    n, c, h, w = shape = net.shapes[x]
    kind = net.draw(st.sampled_from(["Tanh", "Softplus", "Elu", "PRelu", "ConvTranspose"]))
    if kind == "PRelu":
        return net.node(kind, [x, net.constant(np.full((c, 1, 1), 0.2, np.float32))], shape)
    if kind == "ConvTranspose":
        weights = np.ascontiguousarray(net.weights(c, c, 2, 2))
        inputs = [x, net.constant(weights)]
        return net.node(kind, inputs, (n, c, h + 1, w + 1), kernel_shape=[2, 2])
    return net.node(kind, [x], shape)


def enlarge(net: Network, x: str) -> str:
    """Nearest neighbours, twice the size."""
    n, c, h, w = net.shapes[x]
    if h > 10:
        return x
    scales = net.constant(np.array([1, 1, 2, 2], np.float32))
    how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    inputs = [x, net.constant(np.zeros(0, np.float32)), scales] if net.opset < 13 else [x, "", scales]
    return net.node("Resize", inputs, (n, c, 2 * h, 2 * w), **how)


def attend(net: Network, x: str) -> str:
    """Self-attention over positions with LayerNormalization and a residual, where the opset knows it.

    Products of queries and keys are small: Softmax of great ones picks single positions, and one code decides which.
    """
    n, c, h, w = shape = net.shapes[x]
    if net.opset < 17:
        return x
    flat = net.node("Reshape", [x, net.constant(np.array([0, c, h * w], np.int64))], (n, c, h * w))
    tokens = net.node("Transpose", [flat], (n, h * w, c), perm=[0, 2, 1])
    scale, bias = (0.5 + net.rng.random(c)).astype(np.float32), net.bias(c)
    normed = net.node("LayerNormalization", [tokens, net.constant(scale), net.constant(bias)], (n, h * w, c))
    parts = []
    for magnitude in (0.3, 0.3, 1.0):
        weights_of_part = net.constant(net.weights(c, c) * np.float32(magnitude))
        part = net.node("MatMul", [normed, weights_of_part], (n, h * w, c))
        parts.append(net.node("Add", [part, net.constant(net.bias(c))], (n, h * w, c)))
    keys = net.node("Transpose", [parts[1]], (n, c, h * w), perm=[0, 2, 1])
    weights = net.node("MatMul", [parts[0], keys], (n, h * w, h * w))
    weights = net.node("Softmax", [weights], (n, h * w, h * w), axis=2)
    mixed = net.node("MatMul", [weights, parts[2]], (n, h * w, c))
    mixed = net.node("MatMul", [mixed, net.constant(net.weights(c, c))], (n, h * w, c))
    added = net.node("Add", [tokens, mixed], (n, h * w, c))
    back = net.node("Transpose", [added], (n, c, h * w), perm=[0, 2, 1])
    return net.node("Reshape", [back, net.constant(np.array([0, c, h, w], np.int64))], shape)


def split(net: Network, x: str) -> str:
    """Split into two parts of channels, of which the second is used."""
    n, c, h, w = net.shapes[x]
    sizes = [1, c - 1]
    inputs, attributes = [x], {"axis": 1}
    if net.opset >= 13:
        inputs.append(net.constant(np.array(sizes, np.int64)))
    else:
        attributes["split"] = sizes
    second = net.node("Split", inputs, (n, c - 1, h, w), **attributes)
    first = f"{second}_first"
    net.nodes[-1].output[:] = [first, second]
    net.shapes[first] = (n, 1, h, w)
    return second


def classify(net: Network, x: str) -> str:
    """Global pooling or Flatten, then one or two Gemm, or MatMul with Add."""
    n, c, h, w = net.shapes[x]
    if net.draw(st.booleans()):
        x, h, w = net.node("GlobalAveragePool", [x], (n, c, 1, 1)), 1, 1
    x, width = net.node("Flatten", [x], (n, c * h * w), axis=1), c * h * w
    layers = net.draw(st.integers(1, 2))
    for layer in range(layers):
        out = net.draw(st.integers(1, 12))
        weights, bias = net.weights(out, width), net.constant(net.bias(out))
        kind = net.draw(st.sampled_from(["Gemm", "GemmT", "MatMul"]))
        if kind == "MatMul":
            x = net.node("MatMul", [x, net.constant(np.ascontiguousarray(weights.T))], (n, out))
            x = net.node("Add", [x, bias], (n, out))
        elif kind == "Gemm":
            x = net.node("Gemm", [x, net.constant(np.ascontiguousarray(weights.T)), bias], (n, out))
        else:
            x = net.node("Gemm", [x, net.constant(weights), bias], (n, out), transB=1)
        width = out
        # Not behind the last one: where hardly a value is positive, no noise is small beside the outputs.
        if layer < layers - 1 and net.draw(st.booleans()):
            x = net.node("Relu", [x], (n, out))
    return x


@dataclass(frozen=True)
class Case:
    """A model, its calibration data, and how often each operator occurs."""

    model: onnx.ModelProto
    data: tuple[dict[str, Array], ...]
    operators: Counter[str]

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """What hypothesis prints of a failure."""
        printer.text(f"opset {self.model.opset_import[0].version}\n{to_text(load_model(self.model))}")


STEPS = [
    *((convolve, 5), (normalise, 2), (activate, 3), (hard_swish, 1), (combine, 3), (pool, 1), (move, 2)),
    *((excite, 1), (bend_in_float, 1), (enlarge, 1), (attend, 1)),
]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """A model of opset 11 to 21 with fixed or dynamic batch, and 16 samples for it."""
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    opset, dynamic = draw(st.integers(11, 21)), draw(st.booleans())
    batch = 4 if dynamic else draw(st.sampled_from([1, 2]))
    net = Network(draw, opset, rng, batch)
    shape = (batch, draw(st.sampled_from([1, 3, 4])), draw(st.integers(5, 9)), draw(st.integers(5, 9)))
    net.shapes["x"] = shape
    x = convolve(net, "x")
    steps = [step for step, weight in STEPS for _ in range(weight)]
    for _ in range(draw(st.integers(1, 8))):
        step = draw(st.sampled_from(steps))
        if step is pool and min(net.shapes[x][2:]) < 4:
            continue
        x = step(net, x)
    if draw(st.booleans()):
        x = classify(net, x)
    outputs = [x]
    if draw(st.integers(0, 3)) == 0:
        inside = [name for name in net.shapes if name not in ("x", x)]
        outputs += draw(st.sampled_from([[], *([name] for name in inside)]))
    data = tuple({"x": _image(rng, shape)} for _ in range(16 // batch))
    return Case(_model(net, outputs, dynamic), data, Counter(node.op_type for node in net.nodes))


def _image(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return (rng.normal(size=shape) + rng.normal(size=(shape[0], 1, 1, 1))).astype(np.float32)


def _model(net: Network, outputs: list[str], dynamic: bool) -> onnx.ModelProto:
    def typed(name: str) -> onnx.ValueInfoProto:
        shape = net.shapes[name]
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N" if dynamic else shape[0], *shape[1:]])

    graph = helper.make_graph(
        net.nodes,
        "random",
        [typed("x")],
        [typed(name) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in net.constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", net.opset)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model
