"""Inlining model-local functions, within limits: a few nested functions can describe more nodes than memory holds."""

import onnx.inliner
import onnx_ir as ir
from onnx.shape_inference import InferenceError
from onnx.version_converter import ConvertError
from onnx_ir.passes import PreconditionError, common

from ptqc.core.errors import ModelError
from ptqc.graph.reasons import reason_of
from ptqc.graph.walk import STANDARD_DOMAINS, subgraphs

MAX_NODES = 2_000_000


def inline_functions(model: ir.Model) -> tuple[ir.Model, str | None]:
    """The model without functions (a new one if opsets had to be converted), and a sentence for the notes.

    Raises ModelError for functions that call themselves, cannot be inlined, or expand beyond MAX_NODES nodes.
    """
    if not model.functions:
        return model, None
    count = len(model.functions)
    inliner = common.InlinePass()
    try:
        inliner.requires(model)
        if expanded_size(model) > MAX_NODES:
            raise ModelError(f"the model's functions expand to more than {MAX_NODES:,} nodes")
        if _opsets_differ(model):
            proto = onnx.inliner.inline_local_functions(ir.to_proto(model), convert_version=True)
            model = ir.from_proto(proto)
        else:
            inliner(model)
    except (PreconditionError, InferenceError, ConvertError, ValueError, RuntimeError, LookupError) as error:
        raise ModelError(
            "the model's functions cannot be inlined",
            why=reason_of(error),
            fix="export it without functions, or with one opset for all",
        ) from error
    model.functions.clear()
    return model, f"{count} model-local functions inlined" if count > 1 else "1 model-local function inlined"


def expanded_size(model: ir.Model) -> int:
    """Nodes after inlining. The functions must not call each other in a circle."""
    sizes: dict[ir.OperatorIdentifier, int] = {}
    waiting = list(model.functions)
    while waiting:
        identifier = waiting[-1]
        callees = [call for call in _calls(model.functions[identifier]) if call in model.functions]
        missing = [call for call in callees if call not in sizes]
        if missing:
            waiting.extend(missing)
            continue
        nodes = sum(1 for _ in model.functions[identifier].all_nodes())
        sizes[identifier] = nodes + sum(sizes[call] for call in callees)
        waiting.pop()
    return sum(1 + sizes.get(node.op_identifier(), 0) for node in model.graph.all_nodes())


def _calls(function: ir.Function) -> list[ir.OperatorIdentifier]:
    return [node.op_identifier() for node in function.all_nodes()]


def _opsets_differ(model: ir.Model) -> bool:
    imports = model.graph.opset_imports
    return any(
        version != imports.get(domain, version)
        for function in model.functions.values()
        for domain, version in function.opset_imports.items()
        if domain in STANDARD_DOMAINS
    )


def custom_operators(model: ir.Model) -> tuple[str, ...]:
    """``domain::operator`` of every node outside the standard domain, each once, sorted."""
    found: set[str] = set()
    waiting = [model.graph]
    while waiting:
        graph = waiting.pop()
        for node in graph:
            waiting.extend(subgraphs(node))
            if node.domain not in STANDARD_DOMAINS:
                found.add(f"{node.domain}::{node.op_type}")
    return tuple(sorted(found))
