"""Running rewrite rules over the main graph until none applies, with the refused places and their reasons."""

from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir as ir

from ptqc.graph.edit import Editor
from ptqc.graph.match import Match, Op, match
from ptqc.passes.base import Refusal, Rewrites


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    """A pattern and what to put in its place.

    Attributes:
        pattern: what to find.
        rewrite: changes the graph; False where it could not, which counts as no match.
        check: a reason why a match must stay as it is, or None.
    """

    pattern: Op
    rewrite: Callable[[Match, Editor], bool | None]
    check: Callable[[Match], str | None] = lambda found: None


def apply_rules(model: ir.Model, rules: tuple[Rule, ...]) -> Rewrites:
    """Applies ``rules`` to the nodes of the main graph, bodies of If and Loop excepted, until nothing changes.

    For each node the first rule that matches and is not refused applies. A refusal is reported unless the same rule
    applied to the same node later.
    """
    graph, editor = model.graph, Editor(model)
    by_type: dict[str, list[Rule]] = {}
    for rule in rules:
        for op_type in rule.pattern.types.split("|"):
            by_type.setdefault(op_type, []).append(rule)
    refused: dict[tuple[Rule, ir.Node], Refusal] = {}
    count, changed = 0, True
    while changed:
        changed = False
        for node in list(graph):
            for rule in by_type.get(node.op_type, []) if node.graph is graph else []:
                found = match(rule.pattern, node)
                if found is None:
                    continue
                reason = found.reasons[0] if found.reasons else rule.check(found)
                if reason is not None:
                    refused[rule, node] = Refusal(node.name or "", reason)
                elif rule.rewrite(found, editor) is not False:
                    refused.pop((rule, node), None)
                    count, changed = count + 1, True
                    break
    return Rewrites(count, tuple(dict.fromkeys(refused.values())))
