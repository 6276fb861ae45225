"""What the user demands of single nodes: ``--keep-float``, ``--precision``, ``--op-types``, ``--activations``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Literal

import onnx_ir as ir

from ptqc.core.errors import OptionError, nearest, quoted
from ptqc.core.types import FLOAT, W8A8, NodeChoice, Precision
from ptqc.targets.target import Role, Target

ALLOWED = "allowed by --allow-float"  # how the reason of an island of float begins
ALL = "*"  # the pattern of a precision that is given without one
WEIGHT_BITS = range(2, 9)
ACTIVATION_BITS = range(4, 9)
WITH_WEIGHTS = ("Conv", "Gemm", "MatMul", "ConvTranspose")


@dataclass(frozen=True, slots=True)
class Restrictions:
    """Patterns are shell-style (``layer1*``), matched against node names, case counts.

    Attributes:
        float_patterns: nodes that stay in float.
        precisions: pattern -> precision; the last match wins.
        op_types: only these operators may become integer; empty for all.
        activations: ``static``, ``dynamic`` for every Gemm and MatMul, or ``auto``.
        allowed_float: nodes that may stay in float in integer-only models.
        scales: of activations in integer-only models: ``free`` or ``pow2``.
        integer_outputs: outputs of integer-only models are codes, never accumulators.
        dynamic_nodes, float_nodes: names chosen by measurement, with the reason.
        allocated: what an integer program chose for each node; those in float are among ``float_nodes``.
        reasons: why, by node.
    """

    float_patterns: tuple[str, ...] = ()
    precisions: tuple[tuple[str, Precision], ...] = ()
    op_types: tuple[str, ...] = ()
    activations: Literal["auto", "static", "dynamic"] = "auto"
    allowed_float: tuple[str, ...] = ()
    scales: Literal["free", "pow2"] = "free"
    integer_outputs: bool = False
    dynamic_nodes: frozenset[str] = frozenset()
    float_nodes: Mapping[str, str] = field(default_factory=dict)
    allocated: Mapping[str, NodeChoice] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)

    def keep_float(self, node: ir.Node) -> str:
        """Why ``node`` stays in float by the user's will or by measurement; empty if it need not."""
        name = node.name or ""
        if name in self.float_nodes:
            return self.float_nodes[name]
        for pattern in self.float_patterns:
            if fnmatchcase(name, pattern):
                return f"asked for by --keep-float {pattern}"
        for pattern in self.allowed_float:
            if fnmatchcase(name, pattern):
                return f"{ALLOWED} {pattern}"
        if self.op_types and node.op_type not in self.op_types:
            return "its operator is not in --op-types"
        return "asked for by --precision" if self.precision_of(node) == FLOAT else ""

    def precision_of(self, node: ir.Node) -> Precision | None:
        """What the user or the integer program demands of ``node``; None: the target's own precision."""
        if (node.name or "") in self.allocated:
            return self.allocated[node.name or ""].precision
        demand = self._demand(node)
        return None if demand is None else demand[1]

    def named(self, node: ir.Node) -> bool:
        """Whether the demand is made of this node, not of all: then it holds for sensitive layers too."""
        if (node.name or "") in self.allocated:
            return True
        demand = self._demand(node)
        return demand is not None and demand[0] != ALL

    def _demand(self, node: ir.Node) -> tuple[str, Precision] | None:
        name = node.name or ""
        return next((one for one in reversed(self.precisions) if fnmatchcase(name, one[0])), None)

    def dynamic(self, node: ir.Node) -> bool:
        """Whether the range of the activation of ``node`` is to be found at run time, which then has 8 bits."""
        if node.op_type not in ("Gemm", "MatMul"):
            return False
        precision = self.precision_of(node)
        if precision is not None and (precision.activation_bits or 8) < 8:
            return False
        return self.activations == "dynamic" or (self.activations == "auto" and (node.name or "") in self.dynamic_nodes)

    def check(self, model: ir.Model, target: Target) -> None:
        """Raises OptionError for a pattern or operator that matches no node, or a precision that these cannot have."""
        names = [node.name or "" for node in model.graph]
        for pattern in (*self.float_patterns, *self.allowed_float, *(p for p, _ in self.precisions)):
            if not any(fnmatchcase(name, pattern) for name in names):
                raise OptionError(
                    f"no node matches the pattern {quoted(pattern)}", fix=_nearest_pattern(pattern, names, target.name)
                )
        operators = sorted({node.op_type for node in model.graph})
        for operator in self.op_types:
            if operator not in operators:
                raise OptionError(f"no node is of operator {quoted(operator)}", fix=nearest(operator, operators))
        for pattern, precision in self.precisions:
            self._check_precision(pattern, precision)
            matched = [node for node in model.graph if fnmatchcase(node.name or "", pattern)]
            if pattern != ALL and precision not in (FLOAT, W8A8):
                _check_nodes(pattern, precision, [node for node in matched if node.op_type in WITH_WEIGHTS], target)

    def _check_precision(self, pattern: str, precision: Precision) -> None:
        weights, activations = precision.weight_bits, precision.activation_bits
        where = f"--precision {quoted(pattern)}"
        if weights is None and activations is not None:
            raise OptionError(
                f"there are no integer kernels for {precision}",
                where=where,
                why="integer activations are multiplied by integer weights",
                fix=f"use w8a{activations}, or float",
            )
        if weights is not None and weights not in WEIGHT_BITS:
            raise OptionError(
                f"there are no {weights}-bit weights",
                where=where,
                fix="weights have 2 to 8 bits, or 16 for float",
            )
        if activations is not None and activations not in ACTIVATION_BITS:
            raise OptionError(
                f"activations of {activations} bits are not available",
                where=where,
                fix="activations have 4 to 8 bits, or 16 for float",
            )
        if activations is not None and activations < 8 and self.activations == "dynamic":
            raise OptionError(
                f"{precision} contradicts --activations dynamic",
                where=where,
                why="ranges that are found at run time have 8 bits",
                fix="use --activations static",
            )


def _check_nodes(pattern: str, precision: Precision, nodes: Sequence[ir.Node], target: Target) -> None:
    """OptionError where none of the layers that ``pattern`` names can have integer weights."""
    if not nodes:
        raise OptionError(
            f"none of the nodes that match {quoted(pattern)} has weights",
            why=f"{precision} says how weights and the input of their layer are quantized",
            fix=f"name nodes of {', '.join(WITH_WEIGHTS)}: ptqc inspect lists them",
        )
    roles = [target.role(node) for node in nodes]
    if all(role is Role.FLOAT for role, _ in roles):
        raise OptionError(
            f"{nodes[0].op_type} {quoted(nodes[0].name)} cannot have the precision {precision}",
            where=f"--precision {quoted(pattern)}",
            why=roles[0][1],
            fix="leave it out, or use float",
        )


def _nearest_pattern(pattern: str, names: Sequence[str], target: str) -> str:
    """What would match; never the whole list, as a model has thousands of names."""
    wider = f"*{pattern.strip('*')}*"
    if any(fnmatchcase(name, wider) for name in names):
        return f"patterns match whole names: write {quoted(wider)}"
    if get_close_matches(pattern, names, n=1):
        return nearest(pattern, names)
    return f"ptqc inspect --target {target} prints the names"
