"""What integer-only results have beside others: the last checks of the compiler, and codes at both ends."""

import json
from collections.abc import Iterable, Mapping

import numpy as np
import onnx_ir as ir

from ptqc.core.errors import ModelError, quoted
from ptqc.core.plan import Form, QuantPlan
from ptqc.core.types import Array
from ptqc.graph.edit import Editor
from ptqc.passes.base import PassContext
from ptqc.passes.pipeline import PassResult, run_passes
from ptqc.passes.registry import load_pass
from ptqc.passes.remove_doors import METADATA_KEY

LOWERING = "lower-to-integers"
FLOAT32 = np.finfo(np.float32)


def check_integer_form(model: ir.Model, plan: QuantPlan, lowering: Iterable[PassResult]) -> None:
    """Makes sure that nothing of an integer-only model was left in float behind the user's back.

    Args:
        model: the canonical float graph of ``plan``.
        lowering: what the lowering passes did.

    Raises:
        ModelError: an operator has no integer form with the types and shapes that it has here.
        RuntimeError: a multiplier is not exact, which rounding promises: a defect.
    """
    from ptqc.rounding.multiplier_rules import check_multipliers

    allowed = {name for name, node in plan.nodes.items() if node.form is Form.FLOAT}
    for result in lowering:
        refused = [one for one in result.refused if one.node not in allowed]
        if result.name == LOWERING and refused:
            first, more = refused[0], len(refused) - 1
            raise ModelError(
                f"node {quoted(first.node)} has no integer form here" + (f" (and {more} more)" if more else ""),
                where=model.graph.name or "",
                why=first.reason,
                fix=f"--allow-float {quoted(first.node)} leaves it in float, which the certificate will say",
            )
    problems = check_multipliers(model, plan)
    if problems:
        raise RuntimeError(problems[0])


def sums_are_exact(model: ir.Model, plan: QuantPlan, codes: Mapping[str, Array]) -> bool:
    """Whether float32 sums every product of a model with power-of-two scales exactly, so that all engines agree."""
    from ptqc.rounding.multiplier_rules import check_sums

    return not check_sums(model, plan, codes)


def without_doors(model: ir.Model) -> ir.Model:
    """A copy of an integer-only model that takes and gives codes. ModelError where a float island is in the way."""
    codes = model.clone()
    (result,) = run_passes(codes, [load_pass("remove-doors")], PassContext())
    for refusal in result.refused:
        raise ModelError(
            f"{quoted(refusal.node)} cannot be integer",
            where="--io integer",
            why=refusal.reason,
            fix="leave out --io, or the --allow-float that makes it real",
        )
    return codes


def takes_codes(model: ir.Model) -> bool:
    """Whether ``--io integer`` left the doors of ``model`` to whoever calls it."""
    return any(key.startswith(METADATA_KEY) for key in model.metadata_props)


def with_doors(model: ir.Model) -> ir.Model:
    """A copy of a model of ``--io integer`` that takes and gives real numbers again, by what its metadata say.

    Raises ModelError where these do not fit the model.
    """
    real = model.clone()
    editor, graph = Editor(real), real.graph
    for index, value in enumerate(graph.inputs):
        if (parameters := _parameters(real, value, editor)) is not None:
            graph.inputs[index] = door = ir.Value(
                name=value.name, shape=value.shape, type=ir.TensorType(ir.DataType.FLOAT)
            )
            value.name = f"{value.name}_codes"
            quantize = ir.Node("", "QuantizeLinear", [door, *parameters])
            value.replace_all_uses_with(quantize.outputs[0], replace_graph_outputs=True)
            quantize.outputs[0].name, quantize.outputs[0].type = value.name, value.type
            quantize.outputs[0].shape = value.shape
            graph.insert_before(graph[0], quantize)
    for index, value in enumerate(graph.outputs):
        if (parameters := _parameters(real, value, editor)) is not None:
            dequantize = ir.Node("", "DequantizeLinear", [value, *parameters])
            door = dequantize.outputs[0]
            door.name, door.shape, door.type = value.name, value.shape, ir.TensorType(ir.DataType.FLOAT)
            value.name = f"{value.name}_codes"
            graph.append(dequantize)
            graph.outputs[index] = door
    return real


def _parameters(model: ir.Model, value: ir.Value, editor: Editor) -> tuple[ir.Value, ir.Value] | None:
    """Scale and zero point of the codes in ``value``, by the metadata; None where it holds no codes."""
    text = model.metadata_props.get(f"{METADATA_KEY}{value.name}")
    if text is None:
        return None
    try:
        meaning = json.loads(text)
        kind = ir.DataType[str(meaning["type"]).upper()]
        scale = float(meaning["scale"])
        zero_point = np.asarray(int(meaning["zero_point"]), kind.numpy())
        if kind != value.dtype or not float(FLOAT32.tiny) <= scale <= float(FLOAT32.max):
            raise ValueError("they do not fit its type")
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise ModelError(
            f"the metadata {quoted(METADATA_KEY + (value.name or ''))} do not say what the codes mean",
            why=quoted(error)[1:-1],
            fix="quantize the float model again with --io integer",
        ) from error
    scales = editor.constant(f"{value.name}_scale", np.asarray(scale, np.float32))
    return scales, editor.constant(f"{value.name}_zero_point", zero_point)
