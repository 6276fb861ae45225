"""The short verification that every integer-only result gets: proofs, and a few inputs through all tensors inside."""

from collections.abc import Iterator, Mapping

import onnx_ir as ir

from ptqc.calibrate.first import FirstSamples
from ptqc.calibrate.source import Source
from ptqc.core.errors import PtqcError
from ptqc.core.types import Array
from ptqc.graph.load import load_model
from ptqc.report.report import VerificationInfo
from ptqc.verify.engines import Engine, Forms
from ptqc.verify.execution import fused_steps, space_of
from ptqc.verify.inputs import Kind, make_batch
from ptqc.verify.locate import count_differences
from ptqc.verify.program import Carrier
from ptqc.verify.prove import prove
from ptqc.verify.read import read_program

SAMPLES = 2
MADE = (Kind.MINIMUM, Kind.MAXIMUM, Kind.RANDOM)


def verified(model: ir.Model, source: Source, seed: int = 0) -> VerificationInfo:
    """What is proven of a lowered model, and how many codes differ between its meaning and the runtime.

    Args:
        source: samples; the first few are run.
        seed: of a random input.
    """
    opened = load_model(model, allow_quantized=True)
    program = read_program(opened)
    static = prove(program)
    fused = fused_steps(opened, program, static)
    failures = [*static.failures, *(f"node '{proof.node}': {proof.reason}" for proof in fused if not proof.holds)]
    scales = "" if not static.unfused else "power-of-two" if static.unfused_exact else "free"
    proofs = len(static.proofs) + len(fused)
    islands = tuple(obstacle.node for obstacle in program.obstacles if obstacle.allowed)
    forms = Forms(opened, program)
    inputs, codes, differing, unfused = 0, 0, 0, 0
    qdq = any(step.carrier is Carrier.QDQ for step in program.steps)
    engines = [Engine("onnxruntime"), *([Engine("onnxruntime", level="none")] if qdq else [])]
    try:
        feeds = list(_feeds(forms, source, seed)) if program.complete else []
        (differing, *others), codes = count_differences(forms, engines, feeds)
        inputs, unfused = len(feeds), sum(others)
    except PtqcError as error:
        failures.append(str(error))
    if differing:
        failures.append(f"{differing:,} of {codes:,} codes differ between the integer meaning and the runtime")
    return VerificationInfo(
        proven=not failures,
        scales=scales,
        proofs=proofs,
        bounds=len(static.findings),
        inputs=inputs,
        codes=codes,
        differing=differing,
        unfused=unfused if qdq and inputs else None,
        islands=islands,
        failures=tuple(failures),
    )


def _feeds(forms: Forms, source: Source, seed: int) -> Iterator[Mapping[str, Array]]:
    """The first samples, and a few inputs that are made."""
    shapes = {}
    for batch in FirstSamples(source, SAMPLES).batches(1):
        shapes = {name: feed.shape for name, feed in batch.feeds.items()}
        yield batch.feeds
    space = space_of(forms.model, forms.program, shapes)
    if not isinstance(space, str):
        for kind in MADE:
            yield make_batch(space, kind, seed, 0, 1).feeds
