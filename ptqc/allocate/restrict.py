"""What the user demands of single nodes: ``--keep-float``, ``--precision``, ``--op-types``, ``--activations``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Literal

import onnx_ir as ir

from ptqc.core.errors import OptionError, nearest, quoted
from ptqc.core.types import FLOAT, W8A8, Precision


@dataclass(frozen=True, slots=True)
class Restrictions:
    """Patterns are shell-style (``layer1*``), matched against node names, case counts.

    Attributes:
        float_patterns: nodes that stay in float.
        precisions: pattern -> precision; the last match wins.
        op_types: only these operators may become integer; empty for all.
        activations: ``static``, ``dynamic`` for every Gemm and MatMul, or ``auto``.
        dynamic_nodes, float_nodes: names chosen by measurement, with the reason.
    """

    float_patterns: tuple[str, ...] = ()
    precisions: tuple[tuple[str, Precision], ...] = ()
    op_types: tuple[str, ...] = ()
    activations: Literal["auto", "static", "dynamic"] = "auto"
    dynamic_nodes: frozenset[str] = frozenset()
    float_nodes: Mapping[str, str] = field(default_factory=dict)

    def keep_float(self, node: ir.Node) -> str:
        """Why ``node`` stays in float by the user's will or by measurement; empty if it need not."""
        name = node.name or ""
        if name in self.float_nodes:
            return self.float_nodes[name]
        for pattern in self.float_patterns:
            if fnmatchcase(name, pattern):
                return f"asked for by --keep-float {pattern}"
        if self.op_types and node.op_type not in self.op_types:
            return "its operator is not in --op-types"
        return "asked for by --precision" if self.precision_of(node) == FLOAT else ""

    def precision_of(self, node: ir.Node) -> Precision | None:
        """What the user demands of ``node``; None: the target's own precision."""
        name = node.name or ""
        return next((p for pattern, p in reversed(self.precisions) if fnmatchcase(name, pattern)), None)

    def dynamic(self, node: ir.Node) -> bool:
        """Whether the range of the activation of ``node`` is to be found at run time."""
        if node.op_type not in ("Gemm", "MatMul"):
            return False
        return self.activations == "dynamic" or (self.activations == "auto" and (node.name or "") in self.dynamic_nodes)

    def check(self, model: ir.Model) -> None:
        """Raises OptionError for a pattern or operator that matches no node, or a precision that int8 lacks."""
        names = [node.name or "" for node in model.graph]
        for pattern in (*self.float_patterns, *(p for p, _ in self.precisions)):
            if not any(fnmatchcase(name, pattern) for name in names):
                raise OptionError(
                    f"no node matches the pattern {quoted(pattern)}", fix=_nearest_pattern(pattern, names)
                )
        operators = sorted({node.op_type for node in model.graph})
        for operator in self.op_types:
            if operator not in operators:
                raise OptionError(f"no node is of operator {quoted(operator)}", fix=nearest(operator, operators))
        for _, precision in self.precisions:
            if precision not in (FLOAT, W8A8):
                raise OptionError(f"precision {precision} is not available here", fix="use w8a8 or float")


def _nearest_pattern(pattern: str, names: Sequence[str]) -> str:
    """What would match; never the whole list, as a model has thousands of names."""
    wider = f"*{pattern.strip('*')}*"
    if any(fnmatchcase(name, wider) for name in names):
        return f"patterns match whole names: write {quoted(wider)}"
    if get_close_matches(pattern, names, n=1):
        return nearest(pattern, names)
    return "ptqc inspect --target int8 prints the names"
