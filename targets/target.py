"""A target as a description: what each node may be in integers, and which passes lower a planned graph."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from importlib.resources import files
from typing import Any, Self

import onnx_ir as ir

from ptqc.core.types import KEEP_FLOAT, Choice, Precision
from ptqc.graph.walk import constant_array

# Factors between this and its reciprocal leave scales in the range of float32, even several behind each other.
LEAST_FACTOR = 2.0**-20


class Role(StrEnum):
    """What an operator does to codes."""

    LINEAR = "linear"  # multiplies with constant weights: has its own integer kernel
    ELEMENTWISE = "elementwise"  # an integer kernel with free scales on all sides
    CLAMP = "clamp"  # Relu or Clip: absorbed by the range, or done on the codes
    RESCALE = "rescale"  # times a positive constant: the same codes read with another scale
    INTEGER = "integer"  # has no fused kernel: written as integer operators on the codes
    MOVE = "move"  # moves data: the same parameters on both sides, fused by the runtime
    MOVE_CODES = "move-codes"  # moves data, but must be written on the codes to become integer
    FLOAT = "float"


@dataclass(frozen=True, slots=True)
class Target:
    """One back end and precision. ``prepare`` and the ``lower`` lists name passes.

    Attributes:
        lower, lower_qoperator, lower_portable, lower_plain: for the formats ``qdq``, ``qoperator`` and ``portable``,
            and for plain packing; empty where the target does not have them.
        integer: every node is integer, and every ratio of scales dyadic (docs/arithmetic.md).
        roles: operator -> role, before the node's own attributes and constants are looked at.
        reasons: operator -> why it stays in float.
        weight_bits: CPU kind -> bits of weights.
        sensitive_bits: CPU kind -> bits of the weights of small layers that lose most with few.
        weight_choices: bits of weights among which an integer program chooses; empty where the target has no choice.
    """

    name: str
    description: str
    prepare: tuple[str, ...]
    lower: tuple[str, ...]
    lower_qoperator: tuple[str, ...]
    lower_portable: tuple[str, ...]
    lower_plain: tuple[str, ...]
    integer: bool
    roles: Mapping[str, Role]
    reasons: Mapping[str, str]
    weight_bits: Mapping[str, int]
    sensitive_bits: Mapping[str, int]
    weight_choices: tuple[int, ...] = ()

    @classmethod
    def from_spec(cls, file_name: str) -> Self:
        """Reads ``targets/specs/<file_name>``; what it leaves out is as in the target that it names as ``base``."""
        data = _read_spec(file_name)
        return cls(
            name=data["name"],
            description=data["description"],
            prepare=tuple(data["prepare"]),
            lower=tuple(data["lower"]),
            lower_qoperator=tuple(data["lower_qoperator"]),
            lower_portable=tuple(data.get("lower_portable", ())),
            lower_plain=tuple(data["lower_plain"]),
            integer=data.get("integer", False),
            roles={
                operator: Role(role.replace("_", "-")) for role, names in data["roles"].items() for operator in names
            },
            reasons=data["reasons"],
            weight_bits=data["weights"]["bits"],
            sensitive_bits=data["weights"]["sensitive_bits"],
            weight_choices=tuple(data["weights"].get("choices", ())),
        )

    def role(self, node: ir.Node) -> tuple[Role, str]:
        """What ``node`` may be in integers; for FLOAT the reason, a sentence, else an empty string."""
        if node.domain not in ("", "ai.onnx"):
            return Role.FLOAT, f"custom domain {node.domain}"
        role = self.roles.get(node.op_type, Role.FLOAT)
        if role is Role.FLOAT:
            what = "no integer form is known for it" if self.integer else "onnxruntime has no integer kernel for it"
            return role, self.reasons.get(node.op_type, what)
        if node.op_type == "Mul" and positive_factor(node) is not None:
            return Role.RESCALE, ""
        if self.integer and node.op_type == "MatMul" and constant_array(node.inputs[1]) is None:
            return Role.ELEMENTWISE, ""  # of two activations
        why = _CHECKS[node.op_type](node) if node.op_type in _CHECKS else ""
        return (Role.FLOAT, why) if why else (role, "")

    def choices(self, node: ir.Node) -> tuple[Choice, ...]:
        """Every admissible way to run ``node``, the preferred one first."""
        role, _ = self.role(node)
        if role is Role.FLOAT:
            return (KEEP_FLOAT,)
        dynamic = node.op_type in ("Gemm", "MatMul") and not self.integer
        widths = {8} if role is not Role.LINEAR else {max(self.weight_bits.values()), 8, *self.weight_choices}
        found: list[Choice] = []
        for bits in sorted(widths):
            found.append(Choice(Precision(bits, 8), "static"))
            if dynamic:
                found.append(Choice(Precision(bits, 8), "dynamic"))
        return (*found, KEEP_FLOAT)


def _read_spec(file_name: str) -> dict[str, Any]:
    """The specification with what it leaves out as in its base, and so on."""
    data = tomllib.loads((files("ptqc.targets.specs") / file_name).read_text("utf-8"))
    return _read_spec(f"{data.pop('base')}.toml") | data if "base" in data else data


def positive_factor(node: ir.Node) -> float | None:
    """The constant of a Mul by one positive constant number that keeps the shape of the other factor, else None.

    Numbers that could take the scale of the codes out of the range of float32 do not count.
    """
    if node.op_type != "Mul":
        return None
    for value, other in (tuple(node.inputs), tuple(node.inputs)[::-1]):
        factor = None if value is None else constant_array(value)
        if factor is None or factor.size != 1 or factor.dtype.kind != "f":
            continue
        rank = len(other.shape) if other is not None and other.shape is not None else 0
        if factor.ndim <= rank and LEAST_FACTOR < float(factor.item()) < 1 / LEAST_FACTOR:
            return float(factor.item())
    return None


def _weights_constant(node: ir.Node) -> str:
    weight = node.inputs[1]
    if weight is None or constant_array(weight) is None:
        return "its weights are no constant"
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None and constant_array(bias) is None:
        return "its bias is no constant"
    return ""


def _gemm(node: ir.Node) -> str:
    if node.attributes.get_int("transA", 0) or node.attributes.get_float("alpha", 1.0) != 1.0:
        return "the integer Gemm takes neither transA nor alpha"
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None:
        array = constant_array(bias)
        if array is not None and (array.ndim != 1 or node.attributes.get_float("beta", 1.0) != 1.0):
            return "the integer Gemm takes a bias of one dimension and beta 1"
    return _weights_constant(node)


def _matmul(node: ir.Node) -> str:
    weight = node.inputs[1]
    array = None if weight is None else constant_array(weight)
    if array is None:
        return "both operands are activations"
    return "" if array.ndim == 2 else "its weights have more than two dimensions"


def _average_pool(node: ir.Node) -> str:
    if node.attributes.get_int("ceil_mode", 0) or any(d != 1 for d in node.attributes.get_ints("dilations", [])):
        return "the integer pooling takes neither ceil_mode nor dilations"
    return ""


def _max_pool(node: ir.Node) -> str:
    return "its indices are used" if len(node.outputs) > 1 and node.outputs[1].name else ""


def _resize(node: ir.Node) -> str:
    return "" if node.attributes.get_string("mode", "nearest") == "nearest" else "only nearest Resize works on codes"


def _pad(node: ir.Node) -> str:
    mode = node.attributes.get_string("mode", "constant")
    if mode != "constant":
        return ""
    fill = node.inputs[2] if len(node.inputs) > 2 else None
    array = None if fill is None else constant_array(fill)
    return "" if fill is None or (array is not None and not array.any()) else "it pads with a value other than zero"


def _clip(node: ir.Node) -> str:
    for bound in node.inputs[1:]:
        if bound is not None and constant_array(bound) is None:
            return "its bounds are no constants"
    return ""


_CHECKS = {
    "Conv": _weights_constant,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "AveragePool": _average_pool,
    "MaxPool": _max_pool,
    "Resize": _resize,
    "Pad": _pad,
    "Clip": _clip,
}
