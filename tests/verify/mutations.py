"""Faults planted into emitted graphs: each takes a good model and a number that says where, and spoils a copy."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ptqc.core.types import Array

Change = Callable[["Graph", int], None]


class Graph:
    """A copy of a model that is changed by name."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        self.graph = self.model.graph
        self.initializers = {tensor.name: tensor for tensor in self.graph.initializer}

    def nodes(self, *kinds: str) -> list[onnx.NodeProto]:
        return [node for node in self.graph.node if node.op_type in kinds]

    def pick(self, place: int, nodes: list[onnx.NodeProto]) -> onnx.NodeProto:
        """One of ``nodes``, spread over all of them as ``place`` counts up."""
        return nodes[(place * 7 + 3) % len(nodes)]

    def producer(self, name: str) -> onnx.NodeProto:
        return next(node for node in self.graph.node if name in node.output)

    def readers(self, name: str) -> list[onnx.NodeProto]:
        return [node for node in self.graph.node if name in node.input]

    def array(self, name: str) -> Array:
        return numpy_helper.to_array(self.initializers[name]).copy()

    def change(self, name: str, array: Array) -> None:
        """A constant, for all that read it."""
        self.initializers[name].CopyFrom(numpy_helper.from_array(array, name))

    def change_for(self, node: onnx.NodeProto, index: int, array: Array) -> None:
        """A constant, for one node that reads it."""
        name = f"{node.name}_changed_{index}"
        self.graph.initializer.append(numpy_helper.from_array(array, name))
        node.input[index] = name

    def insert(self, name: str, reader: onnx.NodeProto, *operators: tuple[str, dict[str, int]]) -> None:
        """Operators of one input between a value and one of its readers."""
        at, last = list(self.graph.node).index(reader), name
        for number, (kind, attributes) in enumerate(operators):
            node = helper.make_node(kind, [last], [f"{name}_inserted_{number}"], f"inserted {number}", **attributes)
            self.graph.node.insert(at + number, node)
            last = node.output[0]
        self.graph.node[at + len(operators)].input[:] = [last if one == name else one for one in reader.input]

    def bypass(self, node: onnx.NodeProto) -> None:
        """What read the output of ``node`` reads its first input."""
        for reader in self.readers(node.output[0]):
            reader.input[:] = [node.input[0] if one == node.output[0] else one for one in reader.input]
        self.graph.node.remove(node)

    @property
    def products(self) -> list[onnx.NodeProto]:
        return self.nodes("Conv", "Gemm")

    def scale_of(self, product: onnx.NodeProto, index: int) -> str:
        return self.producer(product.input[index]).input[1]

    def output_scale(self, node: onnx.NodeProto) -> str:
        return self.readers(node.output[0])[0].input[1]


def next_float(value: Array, up: bool) -> Array:
    """The neighbour of a float32."""
    return np.nextafter(value, np.float32(np.inf if up else 0))


# Faults of the fast form


def weight_scale_off(graph: Graph, place: int) -> None:
    convolutions = graph.nodes("Conv")
    name = graph.scale_of(convolutions[place % len(convolutions)], 1)
    scales = graph.array(name)
    data = graph.array(graph.scale_of(convolutions[place % len(convolutions)], 0))
    moved = next_float(scales, place % 2 == 0)
    seen = np.flatnonzero(data * moved != data * scales)  # where the kernel does not round the change away
    scales[seen[place * 5 % seen.size]] = moved[seen[place * 5 % seen.size]]
    graph.change(name, scales)


def activation_scale_off(graph: Graph, place: int) -> None:
    product = graph.pick(place, graph.nodes("Conv"))
    name = graph.output_scale(product)
    graph.change(name, next_float(graph.array(name), place % 2 == 0))


def read_with_another_scale(graph: Graph, place: int) -> None:
    product = graph.pick(place, graph.nodes("Conv"))
    dequantize = graph.producer(product.input[0])
    graph.change_for(dequantize, 1, next_float(graph.array(dequantize.input[1]), place % 2 == 0))


def scale_of_a_sum_off(graph: Graph, place: int) -> None:
    name = graph.output_scale(graph.pick(place, graph.nodes("Add")))
    graph.change(name, next_float(graph.array(name), place % 2 == 0))


def bits_too_many(graph: Graph, place: int) -> None:
    """The multiplier of one channel gets a last bit at 2^-21."""
    product = graph.pick(place, graph.nodes("Conv"))
    name = graph.scale_of(product, 1)
    data, scales, output = (graph.array(one) for one in (graph.scale_of(product, 0), name, graph.output_scale(product)))
    wide = graph.array(graph.producer(product.input[1]).input[0]).reshape(scales.size, -1)
    channel = int(np.abs(wide.astype(np.int64)).sum(1).argmax())
    multiplier = np.float32(np.float32(data * scales[channel]) / output)
    for step in range(1, 64, 2):
        wanted = multiplier + step * np.float32(2.0**-21)
        first = np.float32(wanted * output / data)
        for scale in (first, next_float(first, True), next_float(first, False)):
            if np.float32(np.float32(data * scale) / output) == wanted:
                scales[channel] = scale
                graph.change(name, scales)
                return
    raise AssertionError("no scale found")


def odd_zero_point(graph: Graph, place: int) -> None:
    node = graph.pick(place, graph.nodes("Add", "Mul"))
    quantize = graph.readers(node.output[0])[0]
    graph.change(quantize.input[2], (graph.array(quantize.input[2]) | 1).astype(np.uint8))


def bias_overflows(graph: Graph, place: int) -> None:
    product = graph.pick(place, [node for node in graph.products if len(node.input) > 2])
    name = graph.producer(product.input[2]).input[0]
    bias = graph.array(name)
    bias[place % bias.size] = np.iinfo(np.int32).max if place % 2 else np.iinfo(np.int32).min
    graph.change(name, bias)


def bias_scale_off(graph: Graph, place: int) -> None:
    product = graph.pick(place, [node for node in graph.products if len(node.input) > 2])
    dequantize = graph.producer(product.input[2])
    scales = graph.array(dequantize.input[1])
    scales[place % scales.size] *= np.float32(1.001)
    graph.change_for(dequantize, 1, scales)


def cast_of_codes(graph: Graph, place: int) -> None:
    quantize = graph.pick(place, graph.nodes("QuantizeLinear"))
    reader = graph.readers(quantize.output[0])[0]
    there, back = ({"to": kind} for kind in (TensorProto.FLOAT, TensorProto.UINT8))
    graph.insert(quantize.output[0], reader, ("Cast", there), ("Cast", back))


def cast_of_reals(graph: Graph, place: int) -> None:
    product = graph.pick(place, graph.products)
    there, back = ({"to": kind} for kind in (TensorProto.FLOAT16, TensorProto.FLOAT))
    graph.insert(product.input[0], product, ("Cast", there), ("Cast", back))


def float_function(graph: Graph, place: int) -> None:
    quantize = graph.pick(place, [node for node in graph.nodes("QuantizeLinear") if node.input[0] != "image"])
    graph.insert(quantize.input[0], quantize, ("Tanh" if place % 2 else "Softplus", {}))


def pair_left_out(graph: Graph, place: int) -> None:
    convolution = graph.pick(place, graph.nodes("Conv"))
    quantize = graph.readers(convolution.output[0])[0]
    for dequantize in graph.readers(quantize.output[0]):
        for reader in graph.readers(dequantize.output[0]):
            reader.input[:] = [quantize.input[0] if one == dequantize.output[0] else one for one in reader.input]


def weights_of_another_type(graph: Graph, place: int) -> None:
    """16-bit weights have no integer kernel."""
    product = graph.pick(place, graph.nodes("Conv"))
    dequantize = graph.producer(product.input[1])
    graph.insert(dequantize.input[0], dequantize, ("Cast", {"to": TensorProto.INT16}))
    del graph.producer(product.input[1]).input[2:]


# Faults of the portable form


def shift_changed(graph: Graph, place: int) -> None:
    """One more or one less, for the rounded or for the truncated quotient."""
    shift = graph.pick(place, graph.nodes("BitShift"))
    graph.change_for(shift, 1, graph.array(shift.input[1]) + np.array(1 if place % 2 else -1).astype(np.uint32))


def _roundings(graph: Graph) -> list[onnx.NodeProto]:
    """The Add of half less one in every rounding."""
    return [node for node in graph.nodes("Add") if "half" in node.input[1]]


def half_up(graph: Graph, place: int) -> None:
    """Ties go up."""
    add = graph.pick(place, _roundings(graph))
    graph.change_for(add, 1, graph.array(add.input[1]) + np.array(1, graph.array(add.input[1]).dtype))
    total = graph.readers(add.output[0])[0]
    odd = graph.producer(total.input[1])
    graph.change_for(odd, 1, np.array(0, graph.array(odd.input[1]).dtype))


def half_down(graph: Graph, place: int) -> None:
    """Ties go down."""
    add = graph.pick(place, _roundings(graph))
    odd = graph.producer(graph.readers(add.output[0])[0].input[1])
    graph.change_for(odd, 1, np.array(0, graph.array(odd.input[1]).dtype))


def truncated(graph: Graph, place: int) -> None:
    add = graph.pick(place, _roundings(graph))
    graph.change_for(add, 1, np.zeros((), graph.array(add.input[1]).dtype))


def multiplier_off(graph: Graph, place: int) -> None:
    node = graph.pick(place, [node for node in graph.nodes("Mul") if "multiplier" in node.input[1]])
    numbers = graph.array(node.input[1])
    numbers.reshape(-1)[place % numbers.size] += 1
    graph.change_for(node, 1, numbers)


def multiplier_overflows(graph: Graph, place: int) -> None:
    node = graph.pick(place, [node for node in graph.nodes("Mul") if node.input[1] in graph.initializers])
    numbers = graph.array(node.input[1])
    graph.change_for(node, 1, numbers * np.array(1 << 20, numbers.dtype))


def clip_left_out(graph: Graph, place: int) -> None:
    graph.bypass(graph.pick(place, graph.nodes("Clip")))


def offset_too_small(graph: Graph, place: int) -> None:
    """What is shifted may be negative."""
    raised = [graph.producer(graph.producer(node.input[0]).input[0]) for node in graph.nodes("BitShift")[::2]]
    add = graph.pick(place, raised)
    graph.change_for(add, 1, (graph.array(add.input[1]) // 8).astype(graph.array(add.input[1]).dtype))


def integer_bias_off(graph: Graph, place: int) -> None:
    node = graph.pick(place, [node for node in graph.nodes("Add") if node.input[1].endswith("_bias")])
    bias = graph.array(node.input[1])
    bias += np.array(9, bias.dtype)
    graph.change_for(node, 1, bias)


def integer_weight_off(graph: Graph, place: int) -> None:
    convolutions = [node for node in graph.nodes("ConvInteger") if node.input[1] in graph.initializers]
    name = graph.pick(place, convolutions).input[1]
    weights = graph.array(name)
    weights.reshape(-1)[place * 11 % weights.size] ^= 4
    graph.change(name, weights)


def input_zero_point_off(graph: Graph, place: int) -> None:
    node = graph.pick(place, graph.nodes("ConvInteger"))
    graph.change_for(node, 2, graph.array(node.input[2]) ^ np.uint8(2))


def float_between_integers(graph: Graph, place: int) -> None:
    node = graph.pick(place, graph.nodes("Mul", "Clip"))
    there, back = ({"to": kind} for kind in (TensorProto.FLOAT, TensorProto.INT32))
    graph.insert(node.input[0], node, ("Cast", there), ("Cast", back))


def codes_of_another_type(graph: Graph, place: int) -> None:
    """The upper half of the codes does not fit."""
    casts = [node for node in graph.nodes("Cast") if graph.producer(node.input[0]).op_type == "Clip"]
    cast = graph.pick(place, casts)
    cast.attribute[0].i = TensorProto.INT8
    there = {"to": TensorProto.UINT8}
    name = cast.output[0]
    for reader in graph.readers(name):
        graph.insert(name, reader, ("Cast", there))
        break


def exit_scale_off(graph: Graph, place: int) -> None:
    dequantize = graph.nodes("DequantizeLinear")[-1]
    scales = graph.array(dequantize.input[1])
    graph.change_for(dequantize, 1, next_float(scales, place % 2 == 0))


@dataclass(frozen=True)
class Fault:
    """A kind of fault.

    Attributes:
        static: found in the file alone, without the other form.
        times: how often it is planted, at other places.
    """

    change: Change
    times: int
    static: bool = True

    @property
    def name(self) -> str:
        return self.change.__name__


FAST = (
    Fault(weight_scale_off, 10),
    Fault(activation_scale_off, 5),
    Fault(read_with_another_scale, 4),
    Fault(scale_of_a_sum_off, 3),
    Fault(bits_too_many, 6),
    Fault(odd_zero_point, 4),
    Fault(bias_overflows, 4),
    Fault(bias_scale_off, 3),
    Fault(cast_of_codes, 3),
    Fault(cast_of_reals, 3),
    Fault(float_function, 3),
    Fault(pair_left_out, 2),
    Fault(weights_of_another_type, 2),
)
PORTABLE = (
    Fault(shift_changed, 5, static=False),
    Fault(half_up, 5, static=False),
    Fault(half_down, 4, static=False),
    Fault(truncated, 3, static=False),
    Fault(multiplier_off, 4, static=False),
    Fault(integer_bias_off, 3, static=False),
    Fault(integer_weight_off, 3, static=False),
    Fault(input_zero_point_off, 3, static=False),
    Fault(exit_scale_off, 1, static=False),
    Fault(multiplier_overflows, 4),
    Fault(clip_left_out, 4),
    Fault(offset_too_small, 4),
    Fault(float_between_integers, 3),
    Fault(codes_of_another_type, 3),
)


# Found by running, as the others would be too.
EXECUTED = (
    Fault(exit_scale_off, 1, static=False),
    Fault(shift_changed, 1, static=False),
    Fault(truncated, 1, static=False),
    Fault(integer_weight_off, 1, static=False),
)


def planted(fault: Fault, model: onnx.ModelProto, place: int) -> onnx.ModelProto:
    """A copy of ``model`` with one fault."""
    graph = Graph(model)
    fault.change(graph, place)
    return graph.model
