"""Quantized graphs as ONNX text, and what the interpreter makes of them beside onnxruntime."""

from collections.abc import Mapping

import numpy as np
import onnx
import onnx_ir as ir

from ptqc.core.types import Array
from ptqc.execute.runtime import run_session, session_of
from ptqc.graph.load import load_model
from ptqc.verify.interpreter import quantize_entry, real_exit, run
from ptqc.verify.program import Program
from ptqc.verify.read import read_program

# Scales and zero points that most graphs use: powers of two, even numbers.
COMMON = """float s = {0.0625}, uint8 z = {128}, float t = {0.125}, uint8 zt = {100}, uint8 zero = {0},
    int8 i0 = {0}, float one = {1.0}"""


def text_model(body: str, metadata: Mapping[str, str] | None = None, opset: int = 21) -> ir.Model:
    """``g (inputs) => (outputs) <constants> { nodes }``; ``COMMON`` stands for the constants above."""
    head = f'<ir_version: 10, opset_import: ["" : {opset}, "com.microsoft" : 1]>\n'
    proto = onnx.parser.parse_model(head + body.replace("COMMON", COMMON))
    for key, value in (metadata or {}).items():
        proto.metadata_props.add(key=key, value=value)
    return load_model(proto, allow_quantized=True)


def read_text(body: str, metadata: Mapping[str, str] | None = None, opset: int = 21) -> Program:
    """Its program."""
    return read_program(text_model(body, metadata, opset))


def random_feeds(model: ir.Model, count: int = 3, seed: int = 0) -> dict[str, Array]:
    """Real inputs from a wide normal distribution, integer ones over their type; free dimensions are ``count``."""
    rng = np.random.default_rng(seed)
    feeds: dict[str, Array] = {}
    for value in model.graph.inputs:
        assert value.shape is not None and value.dtype is not None
        shape = [size if isinstance(size, int) else count for size in value.shape]
        kind = value.dtype.numpy()
        if kind.kind == "f":
            feeds[value.name or ""] = (8 * rng.normal(size=shape)).astype(kind)
        else:
            info = np.iinfo(kind)
            feeds[value.name or ""] = rng.integers(info.min, info.max, shape, kind, endpoint=True)
    return feeds


def interpreted(program: Program, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Outputs by name, from real inputs or codes."""
    codes = run(program, {door.codes: quantize_entry(door, feeds[door.real]) for door in program.entries})
    return {door.real: real_exit(door, codes[door.codes]) for door in program.exits}


def check_against_runtime(model: ir.Model, level: str = "all", count: int = 3, distinct: int = 3) -> Program:
    """Reads ``model`` completely and compares interpreter and onnxruntime bit by bit."""
    program = read_program(model)
    assert program.obstacles == ()
    feeds = random_feeds(model, count)
    session = session_of(model, level=level)  # type: ignore[arg-type]
    names = [output.name for output in session.get_outputs()]
    found = interpreted(program, feeds)
    for name, wanted in zip(names, run_session(session, names, feeds), strict=True):
        np.testing.assert_array_equal(found[name], wanted)
        assert len(np.unique(wanted)) >= distinct  # something was computed
    return program


def reasons(program: Program) -> dict[str, str]:
    """Node -> reason of its obstacle."""
    return {obstacle.node: obstacle.reason for obstacle in program.obstacles}
